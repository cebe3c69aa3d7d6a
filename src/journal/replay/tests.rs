//! Checkpoints in the middle of a journal, after a reload whose contents are not recorded.

use std::io;

use super::*;
use crate::apps::Relay;
use crate::base::close::LeaveReason;
use crate::config::{ByteSize, Config};
use crate::engine::app::{Authorization, Context, Protocol};
use crate::engine::driver::Start;
use crate::engine::member::{Member, Message};
use crate::engine::recording::RotateHint;
use crate::journal::{Sink, finish, record};
use crate::sim::{MemorySockets, wire};
use crate::ws::handshake::Request;

/// Draws a random number for each member that leaves, once it was reloaded.
#[derive(Default)]
struct DrawsAfterReload(bool);

impl App for DrawsAfterReload {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}

    fn on_leave(&mut self, cx: &mut Context<'_>, _: &Member, _: LeaveReason) {
        if self.0 {
            cx.random().next_u64();
        }
    }

    fn on_reload(&mut self, _: &mut Context<'_>, _: &[u8]) {
        self.0 = true;
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

/// A journal in memory that begins a segment whenever the engine is empty.
#[derive(Default)]
struct WhenEmpty(Vec<u8>);

impl Sink for WhenEmpty {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        self.0.extend([block, rest].concat());
        Ok(())
    }

    fn rotate_hint(&self) -> RotateHint {
        RotateHint::WhenEmpty
    }
}

/// Members come and go three times, with a reload the first time.
fn session() -> Vec<u8> {
    let config = Config::default().check().expect("the default configuration is valid");
    let start = Start { unix_micros: 1_700_000_000_000_000, seed: 7 };
    let mut engine = Engine::new(config, start, DrawsAfterReload::default());
    record(&mut engine, start, WhenEmpty::default()).expect("the sink takes everything");
    let mut now = Time::ZERO;
    let mut turn = |engine: &mut Engine<DrawsAfterReload>| {
        now = now + Duration::from_secs(60);
        engine.end_turn(now, &mut MemorySockets::default()).expect("the sink takes everything");
        now
    };
    for round in 0..3 {
        let now = turn(&mut engine);
        let conn = engine.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(now, conn, &wire::upgrade_request("/ws/chess?token=ann", &[]));
        if round == 0 {
            engine.handle_reload(now, b"new contents");
        }
        // A checkpoint is written only after twice as many bytes.
        engine.handle_command(now, &[0; 10_000]);
        let now = turn(&mut engine);
        engine.handle_bytes(now, conn, &wire::text(r#"{"type":"leave"}"#));
        engine.handle_hangup(now, conn);
        // Until the seat of the member is given up, and after that until a segment begins.
        for _ in 0..5 {
            turn(&mut engine);
        }
    }
    finish::<_, WhenEmpty>(&mut engine).expect("it was recorded").0
}

/// Replays the session. Before each segment but the first, `disturb` may change the engine.
fn replay_with(
    journal: &[u8],
    mut disturb: impl FnMut(u64, &mut Engine<DrawsAfterReload>),
) -> Result<Summary, ReplayFailure> {
    let mut replay = Replay::open(journal, DrawsAfterReload::default(), false)?;
    loop {
        let is_at_end = replay.at == replay.block.len();
        if is_at_end && replay.engine.is_blank() && !replay.output.is_flushing() {
            disturb(replay.summary.segments, &mut replay.engine);
        }
        if replay.step()? == Step::End {
            return Ok(replay.summary());
        }
    }
}

#[test]
fn an_application_that_a_reload_has_changed_may_draw_other_random_numbers() {
    let summary = replay_with(&session(), |_, _| {}).expect("nothing else differs");
    assert_eq!(summary.omitted_reloads, 1);
    assert!(summary.segments >= 4, "{summary}");
}

#[test]
fn checkpoints_after_an_omitted_reload_are_still_compared() {
    let journal = session();
    for segment in 1..4 {
        let failure = replay_with(&journal, |ended, engine| {
            if ended == segment {
                engine.handle_shed(engine.now());
            }
        });
        let failure = failure.expect_err("a counter differs").to_string();
        assert!(failure.contains("differs from the checkpoint"), "{segment}: {failure}");
    }
}

/// An older build may have accepted it.
#[test]
fn a_configuration_that_is_refused_is_named() {
    let config = Config {
        max_outbound_bytes: ByteSize::kib(128),
        outbound_high_mark: ByteSize::kib(32),
        outbound_low_mark: ByteSize::kib(16),
        ..Config::default()
    };
    let config = config.check().expect("valid without lobby control").with_lobby_control(true);
    let start = Start { unix_micros: 0, seed: 7 };
    let mut engine = Engine::as_recorded(config, start, Relay::default());
    record(&mut engine, start, Vec::new()).expect("memory takes all bytes");
    let journal = finish::<_, Vec<u8>>(&mut engine).expect("it was recorded");
    let failure = replay(&*journal, Relay::default()).expect_err("there is no room for data");
    assert!(matches!(failure.fault, Fault::Config(_)), "{failure:?}");
    let text = failure.to_string();
    let expected = "this build refuses its configuration: max_outbound_bytes = 128KiB: must be at least ";
    assert!(text.starts_with(expected), "{text}");
}
