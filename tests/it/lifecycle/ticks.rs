//! Ticks: when they run, which messages they receive and in which order, and the clock commands of operators.

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::{ByteSize, Flush, Limit};
use lobbyd::operator::{OperatorCommand, OperatorRefusal};
use lobbyd::ticks::{ClockCommand, Tick};
use lobbyd::{
    App, Authorization, CloseReason, Config, Context, Exclude, Frame, LeaveReason, Member, Message, Protocol, Request,
};

use crate::common::scenario::{World, check};

/// Logs its callbacks, and executes commands that members send.
#[derive(Default)]
struct LoggingApp {
    log: Vec<String>,
}

impl App for LoggingApp {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, _: &mut Context<'_>, member: &Member) {
        self.log.push(format!("+{}", member.user()));
    }

    fn on_rejoin(&mut self, _: &mut Context<'_>, member: &Member) {
        self.log.push(format!("again {}", member.user()));
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let Message::Text(text) = message else { return };
        self.log.push(format!("{}:{text}", from.user()));
        match text.split_once(' ') {
            Some(("kick", user)) => drop(cx.close_user(user, CloseReason::Kicked)),
            Some(("flood", count)) => {
                for _ in 0..count.parse().expect("a number") {
                    cx.broadcast_to_lobby(from.lobby(), Exclude::None, &Frame::text(&"x".repeat(1000)));
                }
            }
            _ => {}
        }
    }

    fn on_leave(&mut self, _: &mut Context<'_>, member: &Member, why: LeaveReason) {
        self.log.push(format!("-{} {}", member.user(), why.word()));
    }

    fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
        assert_eq!(cx.tick(), tick.number());
        let mut line = format!("tick {}", tick.number());
        for (word, applies) in [
            (format!(" late={}", tick.late().as_millis()), !tick.late().is_zero()),
            (format!(" skipped={}", tick.skipped()), tick.skipped() > 0),
            (" more".to_owned(), tick.is_catching_up()),
        ] {
            line += if applies { &word } else { "" };
        }
        self.log.push(line);
    }
}

fn config() -> Config {
    Config { tick_hz: Some(10), ..Config::default() }
}

fn world() -> World<LoggingApp> {
    World::new(config(), LoggingApp::default())
}

impl World<LoggingApp> {
    /// Checks the lines logged since the last call.
    #[track_caller]
    fn expect_log(&mut self, expected: &[&str]) {
        assert_eq!(std::mem::take(&mut self.engine.app_mut().log), expected);
    }

    #[track_caller]
    fn enter(&mut self, names: &[&str]) {
        for name in names {
            self.run(&format!("{name} > connect arena\n{name} < upgrade"));
        }
        self.engine.app_mut().log.clear();
    }
}

#[test]
fn messages_wait_for_the_tick_and_are_ordered_by_connection() {
    let mut world = world();
    world.enter(&["ann", "bob", "cid"]);
    world.run("cid > text c1\nbob > text b1\ncid > text c2\nann > text a1\nbob > text b2");
    world.expect_log(&[]);
    world.run("advance 99ms");
    world.expect_log(&[]);
    world.run("advance 1ms");
    world.expect_log(&["ann:a1", "bob:b1", "bob:b2", "cid:c1", "cid:c2", "tick 1"]);
    world.run("bob > text b3\nadvance 200ms");
    world.expect_log(&["bob:b3", "tick 2", "tick 3"]);
}

#[test]
fn without_ticks_messages_are_dispatched_on_arrival() {
    let mut world = World::new(Config::default(), LoggingApp::default());
    world.enter(&["ann", "bob"]);
    world.run("bob > text b1\nann > text a1");
    world.expect_log(&["bob:b1", "ann:a1"]);
    world.run("advance 10s");
    world.expect_log(&[]);
    assert_eq!(world.engine.stats().ticks, None);
}

#[test]
fn late_ticks_are_caught_up_to_a_bound_and_the_rest_are_skipped() {
    let mut world = World::new(Config { max_catch_up_ticks: 2, ..config() }, LoggingApp::default());
    world.enter(&["ann"]);
    world.run("ann > text a1\nturn after 230ms");
    world.expect_log(&["ann:a1", "tick 1 late=130 more", "tick 2 late=30"]);
    world.run("turn after 650ms");
    world.expect_log(&["tick 6 late=280 skipped=3 more", "tick 7 late=180 more", "tick 8 late=80"]);
    let ticks = world.engine.stats().ticks.expect("ticks are on");
    assert_eq!((ticks.ran, ticks.caught_up, ticks.skipped, ticks.late_max), (5, 3, 3, 280_000));
    assert_eq!(ticks.clock.tick, 8);
}

#[test]
fn a_tick_comes_after_the_timers_of_its_turn() {
    let mut world = world();
    world.enter(&["ann"]);
    // The member exceeded its timeout and the turn is late: the member leaves before the tick runs.
    world.run("turn after 20s\nann < ping");
    world.engine.app_mut().log.clear();
    world.steps("turn after 10s");
    assert_eq!(world.engine.app().log[0], "-ann timeout");
}

#[test]
fn messages_that_the_engine_answers_never_wait() {
    check(
        config(),
        r#"
        ann > connect chess
        ann < upgrade, welcome tick={"hz":10,"tick":0}, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
        ann > {"type":"broadcast","data":1,"ref":1}
        ann > {"type":"direct","to":"bob","data":2,"ref":2}
        ann > {"type":"move","ref":3}
        ann > binary b
        ann > {"type":"ping","ref":4}
        ann < pong ref=4
        ann > {"type":"presence","ref":5}
        ann < presence_state users=ann,bob, ack ref=5
        ann > {"type":"health_pong","timestamp":7,"ref":6}
        ann < ack ref=6
        ann > {"type":"no
        ann < error code=bad_message
        ann > ping x
        ann < pong x
        bob < nothing
        advance 100ms
        bob < message from=ann seq=2 data=1, direct from=ann data=2, message seq=3, binary b
        ann < ack ref=1 seq=2 delivered=1, ack ref=2, ack ref=3
        "#,
    );
}

#[test]
fn the_inbox_is_delivered_before_the_leave() {
    for (how, answer, reason) in [
        (r#"ann > {"type":"leave","ref":9}"#, "ack ref=9, goodbye code=1000, close 1000 left", "left"),
        ("ann > close 1000", "close 1000 , eof", "left"),
        ("ann > hangup", "", "dropped"),
        // The bytes are no valid frame.
        ("ann > raw zzzzzz", "goodbye code=1002, close 1002 protocol_error", "dropped"),
    ] {
        let mut world = World::new(config(), Relay::default());
        world.run("ann joins chess");
        world.run("bob > connect chess\nbob < upgrade, welcome, presence_state\nann < presence_diff +bob");
        world.run("ann > {\"type\":\"broadcast\",\"data\":1,\"ref\":1}\nann > binary b\nbob < nothing");
        world.steps(how);
        world.steps(&format!("bob < message from=ann seq=2, binary b, presence_diff -ann:{reason}"));
        if !answer.is_empty() {
            world.steps(&format!("ann < ack ref=1 seq=2, {answer}"));
        }
        assert_eq!(world.engine.stats().ticks.expect("ticks are on").inbox_bytes, 0, "{how}");
    }
}

#[test]
fn the_inbox_is_dispatched_before_the_leave_of_a_kicked_member() {
    let mut world = world();
    world.enter(&["ann", "bob", "cid"]);
    world.run("cid > text c1\nbob > text b1\nann > text kick bob\nann > text a2");
    world.steps("advance 100ms\nbob < close 4003 kicked");
    world.expect_log(&["ann:kick bob", "bob:b1", "-bob kicked", "ann:a2", "cid:c1", "tick 1"]);
    // A member kicks itself, in the middle of its own inbox.
    world.run("ann > text kick ann\nann > text a3");
    world.steps("advance 100ms\nann < close 4003 kicked");
    world.expect_log(&["ann:kick ann", "ann:a3", "-ann kicked", "tick 2"]);
    // An operator kicks a member between two ticks.
    world.run("cid > text c2");
    let now = world.now;
    let target = lobbyd::operator::KickTarget::User("cid".into());
    world.engine.handle_operator(now, OperatorCommand::Kick { target, reconnect: false }).expect("cid is there");
    world.expect_log(&["cid:c2", "-cid kicked"]);
}

#[test]
fn the_inbox_is_dispatched_before_a_seat_takeover() {
    let mut world = world();
    world.enter(&["ann"]);
    world.run("ann > text old");
    world.steps("ann:2 > connect arena\nann:2 > text new\nadvance 100ms");
    world.expect_log(&["ann:old", "again ann", "ann:new", "tick 1"]);
}

#[test]
fn messages_waiting_at_a_seat_takeover_reach_the_others() {
    check(
        config(),
        r#"
        ann, bob join chess
        ann > {"type":"broadcast","data":1}
        ann:2 > connect chess
        ann < goodbye code=4004, close 4004 replaced
        ann:2 < upgrade, welcome seq=1, presence_state, message from=ann seq=2 data=1
        bob < message from=ann seq=2 data=1
        "#,
    );
}

#[test]
fn all_inboxes_are_delivered_before_the_drain() {
    check(
        Config { drain_batch: 1, max_connections: Limit::at_most(4), ..config() },
        r#"
        ann, bob join chess
        ann > {"type":"broadcast","data":1}
        bob > {"type":"broadcast","data":2}
        clock pause
        drain
        ann < message from=bob, goodbye code=1001, close 1001 server_shutdown
        bob < message from=ann
        bob > {"type":"broadcast","data":3,"ref":1}
        bob < nothing
        advance 100ms
        bob < ack ref=1 delivered=0, goodbye code=1001, close 1001 server_shutdown
        ann > close 1001
        ann < eof
        bob > close 1001
        bob < eof
        "#,
    );
}

#[test]
fn a_full_inbox_refuses_without_taking_tokens() {
    check(
        Config {
            max_inbox_bytes: ByteSize(400),
            message_burst: 4,
            messages_per_second: Limit::at_most(10),
            ..config()
        },
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        advance 30ms
        ann > {"type":"a","pad":"................................................................"}
        ann > {"type":"b","pad":"................................................................"}
        # Each message counts 64 bytes of overhead. A third does not fit, and its error says when it will.
        ann > {"type":"c","pad":"................................................................","ref":1}
        ann < error ref=1 code=rate_limited retry_after_ms=70
        ann > {"type":"c","pad":"................................................................","ref":2}
        ann < error ref=2 code=rate_limited retry_after_ms=70
        # Without a ref there is at most one error a second.
        ann > {"type":"c","pad":"................................................................"}
        ann < nothing
        advance 70ms
        # Two tokens of four are spent, and 70 ms have added less than one.
        ann > {"type":"d","ref":3}
        ann > {"type":"e","ref":4}
        ann > {"type":"f","ref":5}
        ann < error ref=5 code=rate_limited retry_after_ms=30
        advance 100ms
        ann < ack ref=3, ack ref=4
        "#,
    );
}

#[test]
fn one_message_always_fits() {
    let config = Config { max_inbox_bytes: ByteSize(0), ..config() };
    let mut world = World::new(config, LoggingApp::default());
    world.enter(&["ann"]);
    world.run("ann > text one\nann > text two\nadvance 100ms");
    world.expect_log(&["ann:one", "tick 1"]);
    assert_eq!(world.engine.stats().ticks.expect("ticks are on").refused, 1);
}

/// Messages sent while the clock is paused are refused once the inbox is full. This closes no connection and loses no message.
#[test]
fn no_connection_is_closed_while_the_clock_is_paused() {
    let config = Config {
        max_inbox_bytes: ByteSize(200),
        messages_per_second: Limit::UNLIMITED,
        max_rate_strikes: 2,
        ..config()
    };
    let mut world = World::new(config, Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nclock pause");
    world.run("ann > {\"type\":\"a\"}\nann > {\"type\":\"b\"}");
    for _ in 0..100 {
        world.run("ann > {\"type\":\"c\",\"ref\":1}\nann < error ref=1 code=rate_limited retry_after_ms=1000");
    }
    world.run("advance 20s\nann < ping\nann > pong\nadvance 20s\nann < ping\nann > pong");
    let ticks = world.engine.stats().ticks.expect("ticks are on");
    assert_eq!((ticks.ran, ticks.clock.paused, ticks.refused), (0, true, 100));
    world.run("bob > connect chess\nbob < upgrade, welcome, presence_state\nann < presence_diff +bob");
    world.run("clock resume\nadvance 100ms\nbob < message seq=2, message seq=3");
    assert_eq!(world.engine.stats().ticks.map(|ticks| (ticks.ran, ticks.skipped, ticks.inbox_bytes)), Some((1, 0, 0)));
}

#[test]
fn the_clock_is_paused_stepped_and_slowed() {
    let mut world = world();
    world.enter(&["ann"]);
    world.run("advance 150ms\nclock pause\nann > text a1\nadvance 10s");
    world.expect_log(&["tick 1"]);
    world.run("clock step 2");
    world.expect_log(&["ann:a1", "tick 2 more", "tick 3"]);
    // Tick 3 has just run. The next one comes a period after the resume.
    world.run("advance 10s\nann < ping\nann > pong\nclock resume\nadvance 99ms");
    world.expect_log(&[]);
    world.run("advance 1ms");
    world.expect_log(&["tick 4"]);
    world.run("clock slow 5\nadvance 499ms");
    world.expect_log(&[]);
    world.run("advance 1ms");
    world.expect_log(&["tick 5"]);
    // Half of a slowed period is left, which now passes at normal speed.
    world.run("advance 250ms\nclock slow 1\nadvance 49ms");
    world.expect_log(&[]);
    world.run("advance 1ms");
    world.expect_log(&["tick 6"]);
}

#[test]
fn invalid_clock_commands_are_refused() {
    #[track_caller]
    fn check(config: Config, command: ClockCommand, refusal: OperatorRefusal) {
        let mut world = World::new(config, LoggingApp::default());
        assert_eq!(world.engine.handle_operator(world.now, OperatorCommand::Clock(command)), Err(refusal));
    }
    check(Config::default(), ClockCommand::Pause, OperatorRefusal::NoTicks);
    check(config(), ClockCommand::Step(1), OperatorRefusal::ClockRuns);
    check(config(), ClockCommand::Slow(0), OperatorRefusal::OutOfRange);
    check(config(), ClockCommand::Slow(1001), OperatorRefusal::OutOfRange);
}

/// All frames of a tick are queued at once. A member that reads must not be closed as slow before a write is attempted.
#[test]
fn the_output_of_a_large_tick_is_written_in_between() {
    let config = Config { messages_per_second: Limit::UNLIMITED, max_catch_up_ticks: 0, ..config() };
    let mut world = World::new(config, LoggingApp::default());
    world.enter(&["ann", "bob"]);
    for _ in 0..40 {
        world.run("ann > text flood 20");
    }
    world.steps("advance 100ms");
    // 800 KiB are sent, and the outbox holds 256 KiB.
    assert_eq!((world.take("ann").len(), world.take("bob").len()), (800, 800));
    let log = std::mem::take(&mut world.engine.app_mut().log);
    assert_eq!((log.len(), &*log[40]), (41, "tick 1"));
}

#[test]
fn ticks_go_on_without_members() {
    let mut world = world();
    world.run("advance 300ms");
    world.expect_log(&["tick 1", "tick 2", "tick 3"]);
    assert_eq!(world.engine.poll_timeout().map(|at| at.as_micros()), Some(400_000));
}

#[test]
fn verbatim_messages_come_out_in_the_order_of_connections() {
    let mut world = World::new(config(), Verbatim::default());
    for name in ["ann", "bob", "cid"] {
        world.run(&format!("{name} > connect chess\n{name} < upgrade"));
    }
    world.steps("cid > text 3\nbob > binary 2\nann > text 1\nadvance 100ms");
    assert_eq!(world.take("ann"), ["binary 2", "3"]);
    assert_eq!(world.take("bob"), ["1", "3"]);
    assert_eq!(world.take("cid"), ["1", "binary 2"]);
}

// ---- output corked until the tick ----

fn corked() -> World<LoggingApp> {
    World::new(Config { flush: Flush::Tick, ..config() }, LoggingApp::default())
}

fn broadcast(world: &mut World<LoggingApp>, text: &str) {
    let sent = world.app(|_, cx| cx.broadcast_to_lobby("arena", Exclude::None, &Frame::text(text)));
    assert_eq!((sent.dropped, sent.excluded), (0, 0));
}

#[test]
fn corked_frames_go_out_with_the_tick_and_control_frames_overtake_them() {
    let mut world = corked();
    world.enter(&["ann", "bob"]);
    broadcast(&mut world, "one");
    assert!(world.app(|_, cx| cx.send_to_user("bob", &Frame::text("two"))).queued == 1);
    broadcast(&mut world, "three");
    let bob = world.conn("bob");
    assert_eq!(world.engine.queued_bytes(bob), 3 * 2 + "onetwothree".len());
    world.steps("bob > ping x");
    assert_eq!((world.take("ann"), world.take("bob")), (vec![], vec!["pong x".to_owned()]));
    world.steps("advance 99ms");
    assert!(world.take("ann").is_empty() && world.take("bob").is_empty());
    world.steps("advance 1ms");
    assert_eq!(world.take("ann"), ["one", "three"]);
    assert_eq!(world.take("bob"), ["one", "two", "three"]);
    assert_eq!(world.engine.queued_bytes(bob), 0);
}

#[test]
fn a_goodbye_uncorks_the_output() {
    let mut world = corked();
    world.enter(&["ann", "bob"]);
    broadcast(&mut world, "one");
    world.app(|_, cx| cx.close_user("ann", CloseReason::Kicked));
    assert_eq!(world.take("ann"), ["one", "close 4003 kicked"]);
    assert!(world.take("bob").is_empty(), "bob is not closing");
}

#[test]
fn a_paused_clock_uncorks_the_output() {
    let mut world = corked();
    world.enter(&["ann"]);
    broadcast(&mut world, "one");
    world.steps("clock pause");
    assert_eq!(world.take("ann"), ["one"]);
    broadcast(&mut world, "two");
    assert_eq!(world.take("ann"), ["two"]);
    world.steps("clock resume");
    broadcast(&mut world, "three");
    assert!(world.take("ann").is_empty());
}

/// A member that reads is not closed as slow because the server corked its output.
#[test]
fn a_full_outbox_uncorks_the_output() {
    let mut world = corked();
    world.enter(&["ann", "bob"]);
    for _ in 0..100 {
        broadcast(&mut world, &"x".repeat(10_000));
    }
    assert!(world.take("ann").len() > 90);
    world.steps("advance 100ms");
    world.take("ann");
    assert!(world.is_open("ann") && world.is_open("bob"));
    assert_eq!(world.engine.queued_bytes(world.conn("ann")), 0);
}

#[test]
fn an_answer_uncorks_the_frames_before_it() {
    let mut world = World::new(Config { flush: Flush::Tick, ..config() }, Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome\nadvance 100ms\nann < presence_state users=ann");
    world.run("bob > connect chess\nbob < upgrade, welcome");
    world.run(
        r#"ann > {"type":"presence","ref":1}
        ann < presence_diff +bob, presence_state users=ann,bob, ack ref=1"#,
    );
    world.run("advance 100ms\nbob < presence_state users=ann,bob");
}

#[test]
fn flush_tick_requires_ticks() {
    let problems = Config { flush: Flush::Tick, ..Config::default() }.check().expect_err("there is no tick");
    assert!(problems[0].to_string().contains("flush"), "{problems:?}");
}
