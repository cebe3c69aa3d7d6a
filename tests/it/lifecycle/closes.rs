//! Every close reason: its cause, the frames its peer reads, and the leave reason the other members read.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::codes::Reconnect;
use lobbyd::config::{ByteSize, DuplicateLogin, Limit};
use lobbyd::sim::wire;
use lobbyd::stats::Counters;
use lobbyd::{Authorization, CloseReason, Config, Context, LeaveReason, Reject};

use crate::common::scenario::{World, small_outbox};
use crate::common::witness::Witness;

type Engine = World<Witness<true>>;

/// The cause of a close.
enum Cause {
    /// The server closes by itself during a script. The last lines of the script are the frames the peer reads.
    Script(Config, &'static str),
    /// The server closes by itself, for a cause that no script can express.
    Code(Config, fn(&mut Engine), &'static str),
    /// So far only an application or an operator closes with this reason, for the given explanation.
    Application(&'static str),
}

fn with(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

/// One row for each reason that has a code, in the order of the table in the guide.
fn rows() -> Vec<(CloseReason, Cause)> {
    use Cause::{Application, Code, Script};
    use CloseReason as Reason;
    let none = Limit::at_most(0);
    let default = Config::default;
    vec![
        (Reason::Left, Script(default(), "ann > {\"type\":\"leave\"}\nann < goodbye code=1000, close 1000 left")),
        // The answer has the peer's own code (RFC 6455 section 5.5.1). There is no goodbye, since the peer closed first.
        (Reason::PeerClosed, Script(default(), "ann > close 4999\nann < close 4999 , eof")),
        // 1006 stands for a missing close frame. It is never sent.
        (Reason::Hangup, Script(default(), "ann > hangup\nann < nothing")),
        (Reason::WriteFailed, Script(default(), "ann > break\nann > {\"type\":\"ping\"}\nann < cut")),
        (Reason::ServerShutdown, Script(default(), "drain\nann < goodbye code=1001, close 1001 server_shutdown")),
        (
            Reason::ProtocolError,
            Code(
                default(),
                |world| world.send("ann", b"\x81\x02hi"),
                "ann < goodbye code=1002, close 1002 protocol_error, eof",
            ),
        ),
        (Reason::UnsupportedData, Application("the application decides which kinds of message it accepts")),
        (
            Reason::BadUtf8,
            Code(
                default(),
                |world| world.send("ann", &wire::frame(wire::Opcode::TEXT, true, b"\xff", [1; 4])),
                "ann < goodbye code=1007, close 1007 bad_utf8, eof",
            ),
        ),
        (
            Reason::PolicyViolation,
            Code(
                with(|config| config.max_fragments = 2),
                |world| {
                    world.send("ann", &wire::frame(wire::Opcode::TEXT, false, b"{", [1; 4]));
                    world.send("ann", &wire::frame(wire::Opcode::CONTINUATION, false, b"", [1; 4]).repeat(2));
                },
                "ann < goodbye code=1008, close 1008 policy_violation, eof",
            ),
        ),
        (
            Reason::MessageTooBig,
            Code(
                with(|config| config.max_message_bytes = ByteSize(200)),
                |world| world.send("ann", &wire::text(&"x".repeat(201))),
                "ann < goodbye code=1009, close 1009 message_too_big, eof",
            ),
        ),
        (
            Reason::InternalError,
            Application("after a panic in the application the process ends without sending anything"),
        ),
        (Reason::Unauthorized, Script(default(), "x > get /ws/chess\nx < upgrade, goodbye, close 4001 unauthorized")),
        (
            Reason::TokenExpired,
            Script(
                with(|config| config.token_grace = Duration::ZERO),
                "x > get /ws/chess?token=x&expires=1000000500\nx < upgrade, welcome, presence_state\n\
                 ann < presence_diff +x\nadvance 500ms\nann < presence_diff -x:kicked\n\
                 x < goodbye, close 4001 token_expired",
            ),
        ),
        (
            Reason::ServerFull,
            Script(
                with(|config| config.max_connections = Limit::at_most(1)),
                "x > connect chess\nx < upgrade, goodbye, close 4002 server_full",
            ),
        ),
        (
            Reason::LobbyFull,
            Script(
                with(|config| config.max_per_lobby = Limit::at_most(1)),
                "x > connect chess\nx < upgrade, goodbye, close 4002 lobby_full",
            ),
        ),
        (
            Reason::LobbyLocked,
            Code(
                default(),
                |world| {
                    assert!(world.app(|_, cx| cx.lock_lobby("chess", true)));
                    world.act("x", "connect chess");
                },
                "x < upgrade, goodbye code=4002, close 4002 lobby_locked",
            ),
        ),
        (
            Reason::LobbyLimit,
            Script(
                with(|config| config.max_lobbies = Limit::at_most(1)),
                "x > connect go\nx < upgrade, goodbye, close 4002 lobby_limit",
            ),
        ),
        (
            Reason::UserLimit,
            Script(
                with(|config| config.duplicate_login = DuplicateLogin::Reject),
                "ann:2 > connect go\nann:2 < upgrade, goodbye, close 4002 user_limit\nann < ping",
            ),
        ),
        (
            Reason::IpLimit,
            Script(
                with(|config| config.max_per_ip = Limit::at_most(1)),
                "x > connect go\nx < upgrade, goodbye, close 4002 ip_limit",
            ),
        ),
        (Reason::Kicked, Application("an operator or the application kicks")),
        (Reason::Banned, Application("the application bans")),
        (
            Reason::ForbiddenOrigin,
            Script(
                default(),
                "x > get /ws/chess?token=x Origin: http://evil.example\n\
                 x < upgrade, goodbye, close 4003 forbidden_origin",
            ),
        ),
        (
            Reason::Replaced,
            Script(
                default(),
                "ann:2 > connect chess\nann < goodbye, close 4004 replaced\n\
                 ann:2 < upgrade, welcome, presence_state",
            ),
        ),
        (
            Reason::BadMessage,
            Script(with(|config| config.max_strikes = 0), "ann > {\nann < goodbye, close 4005 bad_message"),
        ),
        (Reason::LobbyClosed, Application("an operator or the application closes a lobby")),
        (
            Reason::BadLobbyCode,
            Script(default(), "x > get /ws/no%20code?token=x\nx < upgrade, goodbye, close 4007 bad_lobby_code"),
        ),
        (
            Reason::RateLimited,
            Script(
                with(|config| (config.messages_per_second, config.max_rate_strikes) = (none, 0)),
                "ann > {\"type\":\"ping\"}\nann > {\"type\":\"ping\"}\nann < error, goodbye, close 4009 rate_limited",
            ),
        ),
        (
            Reason::AuthTimeout,
            Script(
                default(),
                "x > get /ws/chess?token=x&auth=later\nadvance 10s\nx < upgrade, goodbye, close 4101 auth_timeout",
            ),
        ),
        (
            Reason::SlowConsumer,
            Code(
                small_outbox(),
                |world| {
                    world.act("ann", "window 0");
                    let frame = lobbyd::Frame::binary(&[0; 1000]);
                    world.app(|_, cx| while cx.send_to_user("ann", &frame).queued == 1 {});
                    world.act("ann", "read");
                },
                "ann < goodbye, close 4102 slow_consumer",
            ),
        ),
        (Reason::ForcedReconnect, Application("an operator or the application asks for a reconnect")),
        (Reason::Stale, Script(default(), "advance 30s\nann < ping, goodbye, close 4201 stale")),
        (
            Reason::MaxLifetime,
            Script(
                with(|config| config.max_lifetime = Some(Duration::from_secs(15))),
                "advance 15s\nann < goodbye reconnect=true, close 4202 max_lifetime",
            ),
        ),
        // As `PeerClosed`. A page that is left or reloaded sends 1001.
        (Reason::PeerGone, Script(default(), "ann > close 1001\nann < close 1001 , eof")),
        (
            Reason::LobbyNotFound,
            Script(
                with(|config| config.lobby_control = true),
                "ann < lobby_state\nx > connect go create=0\nx < upgrade, goodbye, close 4007 lobby_not_found",
            ),
        ),
        (
            Reason::WrongPassword,
            Script(
                with(|config| config.lobby_control = true),
                "ann < lobby_state\nbob > connect go session=page-of-bob-0001\n\
                 bob < upgrade, welcome, presence_state, lobby_state\n\
                 bob > {\"type\":\"settings\",\"settings\":{\"password\":\"rose\"}}\nbob < settings\n\
                 x > connect go\nx < upgrade, goodbye, close 4003 wrong_password",
            ),
        ),
        (Reason::BadCompression, bad_compression()),
    ]
}

/// A build without the feature `deflate` accepts no compressed messages.
fn bad_compression() -> Cause {
    if !cfg!(feature = "deflate") {
        return Cause::Application("this build does not compress");
    }
    let act = |world: &mut Engine| {
        world.steps("x > get /ws/go?token=x Sec-WebSocket-Extensions: permessage-deflate");
        world.send("x", b"\xc1\x81\0\0\0\0\x07");
    };
    let script = "x < upgrade, welcome, presence_state, goodbye code=1007, close 1007 bad_compression, eof";
    Cause::Code(with(|config| config.deflate = true), act, script)
}

#[test]
fn there_is_a_row_for_every_reason() {
    let rows: Vec<CloseReason> = rows().into_iter().map(|(reason, _)| reason).collect();
    let coded: Vec<CloseReason> = CloseReason::ALL.iter().copied().filter(|reason| reason.code() > 0).collect();
    assert_eq!(rows, coded);
    let mut words: Vec<&str> = CloseReason::ALL.iter().map(|reason| reason.word()).collect();
    assert!(words.iter().all(|word| word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')));
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), CloseReason::ALL.len(), "a word names one reason");
}

/// Each reason occurs once, and the peer reads it.
#[test]
fn every_reason_reaches_its_peer() {
    let mut not_by_the_engine = Vec::new();
    for (reason, cause) in rows() {
        if let Cause::Script(_, script) | Cause::Code(_, _, script) = cause {
            let is_read = reason.code() != 1006 && !matches!(reason, CloseReason::PeerClosed | CloseReason::PeerGone);
            assert_eq!(script.contains(&format!("close {reason}")), is_read, "{reason}");
        }
        let mut world = match cause {
            Cause::Script(config, script) => {
                let mut world = World::new(config, Witness::default());
                world.run(&format!("ann joins chess\n{script}"));
                world
            }
            Cause::Code(config, act, script) => {
                let mut world = World::new(config, Witness::default());
                world.run("ann joins chess");
                act(&mut world);
                world.flush();
                world.run(script);
                world
            }
            Cause::Application(why) => {
                assert!(!why.is_empty());
                not_by_the_engine.push(reason.word().to_owned());
                let mut world = World::new(Config::default(), Witness::default());
                world.run("ann joins chess");
                assert_eq!(world.app(|_, cx| cx.close_user("ann", reason)), 1);
                world.run(&format!("ann < goodbye code={} reason={}, close {reason}", reason.code(), reason.word()));
                world
            }
        };
        let counters = &world.engine.stats().counters;
        assert_eq!((counters.closed(reason), counters.closed_in_all()), (1, 1), "{reason}");
        let log = world.engine.app_mut().take();
        let left = log.iter().find(|event| event.starts_with("leave"));
        assert!(left.is_none_or(|left| left.ends_with(reason.leave_reason().word())), "{reason}: {log:?}");
    }
    assert_eq!(
        not_by_the_engine,
        ["unsupported_data", "internal_error", "kicked", "banned", "lobby_closed", "reconnect"]
            .into_iter()
            .chain(Some("bad_compression").filter(|_| !cfg!(feature = "deflate")))
            .collect::<Vec<_>>()
    );
}

/// A reason without a close code is answered with an HTTP status, because there is no WebSocket yet.
#[test]
fn reasons_without_a_code_are_read_as_a_status() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("x > open\nx > raw POST / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n\nx < http 405, body, eof\ny > open\nadvance 5s\ny < http 408, body, eof");
    for reason in [CloseReason::HttpRefused, CloseReason::HandshakeTimeout] {
        assert_eq!((reason.code(), world.engine.stats().counters.closed(reason)), (0, 1));
    }
}

/// An application can refuse and close with every reason whose code can be sent.
#[test]
fn an_application_may_use_every_reason() {
    for &reason in CloseReason::ALL.iter().filter(|reason| reason.code() >= 1000 && reason.code() != 1006) {
        let again = reason.reconnect() != Reconnect::No;
        let expected =
            format!("goodbye code={} reason={} reconnect={again}, close {reason}", reason.code(), reason.word());
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run(&format!("x > get /ws/chess?token=x&auth={}\nx < upgrade, {expected}", reason.word()));
        world.run("x > hangup\nx > get /ws/chess?token=x&auth=later");
        world.authorize("x", Authorization::Refuse(reason));
        world.run(&format!("x < upgrade, {expected}"));
        assert_eq!(world.engine.stats().counters.closed(reason), 2);
        assert_eq!((world.engine.stats().active_lobbies, world.engine.app_mut().take()), (0, vec![]));
    }
}

/// If an application names a reason whose code must not be sent (RFC 6455 section 7.4.1), the connection is dropped.
#[test]
fn reasons_that_cannot_be_sent_are_not_sent() {
    for &reason in CloseReason::ALL.iter().filter(|reason| reason.code() < 1000 || reason.code() == 1006) {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run("ann, bob join chess");
        world.app(|_, cx: &mut Context<'_>| cx.close_user("ann", reason));
        world.run("ann < cut\nbob < presence_diff -ann:dropped");
        world.run(&format!("x > get /ws/chess?token=x&auth={}\nx < cut", reason.word()));
        world.run("x > get /ws/chess?token=x&auth=later");
        world.authorize("x", Authorization::Refuse(reason));
        world.run("x < cut\nbob < nothing");
        assert_eq!(world.engine.stats().counters.closed(reason), 3);
        assert_eq!((world.engine.stats().pending, world.engine.stats().closing), (0, 0));
    }
}

// ---- leave reasons and rejects ----

/// The reason of a leave, as the other members read it.
#[test]
fn every_leave_reason_is_read_by_the_others() {
    use LeaveReason::{Dropped, Kicked, Left, Replaced, Shutdown, Slow, Timeout};
    let mut seen = Vec::new();
    for reason in CloseReason::ALL {
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann, bob join chess");
        world.app(|_, cx| cx.close_user("ann", *reason));
        let why = reason.leave_reason();
        world.steps(&format!("bob < presence_diff -ann:{}", why.word()));
        if !seen.contains(&why) {
            seen.push(why);
        }
    }
    for why in [Left, Dropped, Timeout, Kicked, Replaced, Slow, Shutdown] {
        assert!(seen.contains(&why), "{}", why.word());
    }
    assert_eq!(seen.len(), 7);
}

/// The reason of a refused request, as its sender reads it.
#[test]
fn every_reject_is_read_by_its_sender() {
    let config = Config { messages_per_second: Limit::at_most(1), message_burst: 3, ..Config::default() };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        ann joins chess
        ann > {
        ann < error !ref code=bad_message
        ann > {"type":"direct","to":"bob","data":1,"ref":1}
        ann < error ref=1 code=user_not_found
        ann > {"type":"broadcast","data":"forbidden","ref":2}
        ann < error ref=2 code=not_allowed
        ann > {"type":"move","ref":3}
        ann < error ref=3 code=rate_limited retry_after_ms=1000
        "#,
    );
    let config = Config { lobby_control: true, max_lobby_keys: 1, ..Config::default() };
    let mut controlled = World::new(config, Relay::default());
    controlled.run(
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state, lobby_state
        ann > {"type":"set","data":{"a":1},"ref":1}
        ann < state seq=1, ack
        ann > {"type":"set","data":{"a":2},"if":0,"ref":2}
        ann < error ref=2 code=conflict
        ann > {"type":"set","data":{"b":2},"ref":3}
        ann < error ref=3 code=too_large
        "#,
    );
    // A node of a cluster is tested where its log is.
    for &reject in Reject::ALL.iter().filter(|&&reject| reject != Reject::Unavailable) {
        let counted = |counters: &Counters| counters.rejected(reject);
        let counts = (counted(&world.engine.stats().counters), counted(&controlled.engine.stats().counters));
        assert_eq!(counts.0 + counts.1, 1, "{}", reject.word());
    }
}
