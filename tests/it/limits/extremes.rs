//! Extreme values of each field: a configuration is refused, or the server works.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::CheckedConfig;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{App, Config, Engine, Time};

use crate::common::scenario::{START, set};
use crate::common::witness::Witness;

/// Values of every kind, each at or near the smallest or largest that can be written.
const EXTREMES: &[&str] = &[
    "0",
    "1",
    "2",
    "4294967294",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "17592186044415MiB",
    "1024MiB",
    "2048MiB",
    "0s",
    "1ms",
    "24h",
    "18446744073709551615ms",
    "5124095576030h",
    "unlimited",
    "off",
    "on",
    "reject",
    "allow",
    "tick",
    "continue",
    "keep",
    "any",
    "127.0.0.1:0",
    "[::]:65535",
];

/// Base configurations. The test makes one value of them extreme at a time.
const AROUND: &[&[(&str, &str)]] = &[
    &[],
    &[("tick_hz", "1000"), ("flush", "tick"), ("admin", "127.0.0.1:1"), ("journal", "session")],
    &[("lobby_control", "on"), ("max_empty_ttl", "24h"), ("max_lobbies", "2")],
    // Raises or lowers the values that a large value in another field could conflict with.
    &[
        ("max_outbound_bytes", "2047MiB"),
        ("outbound_high_mark", "1024MiB"),
        ("byte_burst", "4294967295"),
        ("user_byte_burst", "4294967295"),
        ("max_connections", "1"),
        ("user_bytes_per_second", "1"),
        ("user_messages_per_second", "1"),
        ("attempts_per_minute", "1"),
        ("health_interval", "24h"),
        ("max_lifetime", "24h"),
        ("ping_interval", "24h"),
        ("drain_deadline", "24h"),
        ("tick_hz", "1"),
    ],
    &[
        ("messages_per_second", "unlimited"),
        ("bytes_per_second", "unlimited"),
        ("max_connections", "unlimited"),
        ("max_lobbies", "unlimited"),
        ("max_per_lobby", "unlimited"),
        ("max_per_user", "unlimited"),
        ("presence_max", "0"),
        ("duplicate_login", "allow"),
    ],
];

/// Every configuration is either refused at the start or works. In a debug build an overflow panics.
#[test]
fn extreme_values_are_refused_or_served() {
    let (mut refused, mut served) = (0, 0);
    for around in AROUND {
        let mut base = Config::default();
        around.iter().for_each(|(name, value)| set(&mut base, name, value).expect("a value of its kind"));
        base.clone().check().expect("without an extreme value it is a good one");
        for field in Config::FIELDS {
            for value in EXTREMES {
                let mut config = base.clone();
                if (field.set)(&mut config, value).is_err() {
                    continue;
                }
                println!("{} = {value} with {around:?}", field.name);
                // The memory figure and the warnings are computed for refused configurations too.
                let _ = (config.worst_case_memory(), config.without_effect());
                if let Ok(config) = config.check() {
                    serve(&config, Witness::<true>::default());
                    serve(&config, Witness::<false>::default());
                    if config.lobby_control {
                        serve(&config, Relay::default());
                    }
                    served += 1;
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 200 && served > 1000, "{refused} refused, {served} served");
}

/// The life of a server in short: clients connect, send, exceed their rates and hang up; timers and ticks run; time jumps;
/// the server drains.
fn serve<A: App>(config: &CheckedConfig, app: A) {
    let mut engine = Engine::new(config.clone(), START, app);
    let mut now = Time::ZERO;
    let mut conns = Vec::new();
    for (user, address) in [("ann", 1), ("ann", 1), ("bob", 2), ("", 3)] {
        let Ok(conn) = engine.handle_accept(now, ([127, 0, 0, address], 4000).into()) else { continue };
        let target = format!("/ws/a?token={user}&session=page-of-{user:x<9}");
        engine.handle_bytes(now, conn, &wire::upgrade_request(&target, &["X-Forwarded-For: 10.0.0.1"]));
        conns.push(conn);
    }
    let input = [
        wire::text(r#"{"type":"broadcast","data":"hello","ref":1}"#),
        wire::text(r#"{"type":"ping","ref":2}"#),
        wire::text(r#"{"type":"set","data":{"a":1,"b":null},"ref":3}"#),
        wire::text(r#"{"type":"settings","settings":{"empty_ttl_ms":1,"start":{"min":1,"ready":false}},"ref":4}"#),
        wire::text(r#"{"type":"kick","user":"bob","ban":true,"ref":5}"#),
        wire::text("no JSON"),
        wire::frame(Opcode::PING, true, b"", [1; 4]),
        wire::frame(Opcode::BINARY, true, &[7; 300], [1; 4]),
    ]
    .concat();
    flush(&mut engine);
    for step in 0..12 {
        conns.iter().for_each(|&conn| engine.handle_bytes(now, conn, &input));
        engine.act(now, |_, cx| cx.ping_user("bob", Duration::from_secs(1)));
        flush(&mut engine);
        now = match step {
            11 => now + Duration::from_secs(60 * 60 * 24 * 365 * 100),
            _ if step % 3 == 0 => now + Duration::from_secs(7),
            _ => engine.poll_timeout().map_or(now, |next| next.min(now + Duration::from_secs(86_400))),
        };
        end_turn(&mut engine, now);
    }
    engine.handle_drain(now);
    flush(&mut engine);
    for _ in 0..3 {
        now = engine.poll_timeout().map_or(now, |next| next.min(now + Duration::from_secs(86_400)));
        end_turn(&mut engine, now);
    }
    conns.iter().for_each(|&conn| engine.handle_hangup(now, conn));
    engine.handle_stop(now);
    flush(&mut engine);
    assert!(engine.is_drained());
    let _ = engine.stats().line();
}

fn end_turn<A: App>(engine: &mut Engine<A>, now: Time) {
    engine.end_turn(now, &mut MemorySockets::default()).expect("the session is not recorded");
    engine.check();
}

fn flush<A: App>(engine: &mut Engine<A>) {
    engine.flush(&mut MemorySockets::default()).expect("the session is not recorded");
    engine.check();
}
