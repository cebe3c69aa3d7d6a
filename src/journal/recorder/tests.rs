//! A recorded engine does the same as one that is not recorded.

use std::time::Duration;

use super::*;
use crate::config::Limit;
use crate::engine::app::{Authorization, Context, Member, Message, Protocol};
use crate::engine::operator::{KickTarget, OperatorCommand};
use crate::sim::{MemorySockets, MemoryWrite, wire};
use crate::ws::frame::Frame;
use crate::ws::handshake::Request;

/// Draws a random number for each member that joins, and counts the joins.
struct RandomOnJoin(u8);

impl App for RandomOnJoin {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.0 += 1;
        let lot = cx.random().next_u64();
        cx.send_to_conn(member.conn(), &Frame::text(&format!(r#"{{"type":"lot","lot":"{lot}","number":{}}}"#, self.0)));
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}

    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(vec![self.0])
    }
}

/// A sink that always asks for a new segment. Counts the segments and discards the bytes.
struct Rotating(u64);

impl Sink for Rotating {
    fn begin(&mut self, number: u64) -> io::Result<()> {
        self.0 = number;
        Ok(())
    }

    fn write(&mut self, _: &[u8], _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn rotate_hint(&self) -> RotateHint {
        RotateHint::Now
    }
}

/// Lets users connect, send and leave until the server is empty, several times. Returns all writes, each result of
/// `poll_timeout`, and the number of segments.
fn run(is_recorded: bool) -> (Vec<MemoryWrite>, Vec<Option<Time>>, u64) {
    let config = Config {
        user_messages_per_second: Limit::at_most(1).into(),
        user_message_burst: 3.into(),
        attempts_per_minute: Limit::at_most(60),
        attempt_burst: 20,
        max_remembered_rates: 4,
        tick_hz: Some(10),
        max_connections: Limit::at_most(20),
        drain_batch: 1,
        ..Config::default()
    };
    let start = Start { unix_micros: 1_700_000_000_000_000, seed: 7 };
    let (mut engine, mut now) =
        (Engine::new(config.check().expect("the configuration is valid"), start, RandomOnJoin(0)), Time::ZERO);
    if is_recorded {
        record(&mut engine, start, Rotating(0)).expect("the sink takes everything");
    }
    let (mut sockets, mut timeouts) = (MemorySockets::default(), Vec::new());
    for round in 0..12_u64 {
        let users: Vec<String> = (0..1 + round % 3).map(|user| format!("user{}", (round + user) % 5)).collect();
        let connect = |user: &String| {
            let conn = engine.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
            engine.handle_bytes(now, conn, &wire::upgrade_request(&format!("/ws/chess?token={user}"), &[]));
            conn
        };
        let conns: Vec<ConnId> = users.iter().map(connect).collect();
        let mut turns = 0;
        while engine.stats().total_connections > 0 || engine.stats().closing > 0 || turns == 0 {
            turns += 1;
            if turns == 1 {
                for &conn in &conns {
                    engine.handle_bytes(now, conn, &wire::text(r#"{"type":"presence","ref":1}"#).repeat(3));
                }
            } else if turns < 9 && round % 2 == 0 {
                let target = KickTarget::Lobby("chess".into());
                let _ = engine.handle_operator(now, OperatorCommand::Kick { target, reconnect: false });
            } else {
                // In reverse order, so that the order of leaving differs from the order of joining.
                for &conn in conns.iter().rev() {
                    engine.handle_hangup(now, conn);
                }
            }
            now = now + Duration::from_millis(7);
            engine.end_turn(now, &mut sockets).expect("the sink takes everything");
            timeouts.push(engine.poll_timeout());
        }
    }
    (sockets.take_writes(), timeouts, finish(&mut engine).map_or(0, |Rotating(segments)| segments))
}

#[test]
fn recording_does_not_change_behaviour() {
    let (without, timeouts_without, _) = run(false);
    let bytes: Vec<u8> = without.iter().flat_map(|write| &write.bytes).copied().collect();
    let text = String::from_utf8_lossy(&bytes);
    for words in ["rate_limited", "presence_state", "lot", "kicked", "429 Too Many Requests"] {
        assert!(text.contains(words), "{words} was not sent");
    }
    let (sent, timeouts, segments) = run(true);
    assert!(segments > 30, "{segments}");
    assert!(sent == without, "recording changes the bytes sent");
    assert_eq!(timeouts, timeouts_without);
}
