//! Limits with tiny values, and the result when each is reached.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{
    Authorization, ByteSize, CloseReason, Config, DuplicateLogin, Engine, Exclude, Frame, Full, Limit, Sent, Time,
};

use crate::scenario::{START, World, check, small_outbox};
use crate::witness::Witness;

fn seats(max_connections: u32) -> Config {
    Config { max_connections: Limit::at_most(max_connections), ..Config::default() }
}

/// Admits `users` (`user lobby`) to their lobbies. Then the next user is refused with `reason`, which affects no member.
#[track_caller]
fn check_refused(config: &Config, users: &[&str], next: &str, reason: CloseReason) {
    let mut world = World::new(config.clone(), Relay::default());
    for user in users {
        let (name, lobby) = user.split_once(' ').expect("a user and a lobby");
        world.steps(&format!("{name} > connect {lobby}\n{name} < upgrade, welcome, presence_state"));
    }
    let (name, lobby) = next.split_once(' ').expect("a user and a lobby");
    for user in users {
        world.take(user.split_once(' ').expect("a user and a lobby").0);
    }
    let (code, word) = (reason.code(), reason.word());
    world.run(&format!(
        "{name} > connect {lobby}\n{name} < upgrade, goodbye code={code} reason={word}, close {code} {word}"
    ));
    assert_eq!(world.engine.stats().total_connections, users.len());
    assert_eq!(world.engine.stats().counters.closed(reason), 1);
    // The refused connection counts as pending until it is closed.
    assert_eq!(world.engine.stats().pending, 1);
    world.run(&format!("advance 3100ms\n{name} < eof"));
    assert_eq!((world.engine.stats().pending, world.engine.stats().closing), (0, 0));
}

#[test]
fn seats_are_bounded_for_the_server_each_lobby_and_each_user() {
    use CloseReason::{LobbyFull, LobbyLimit, ServerFull, UserLimit};
    let two = Limit::at_most(2);
    check_refused(&seats(2), &["ann a", "bob b"], "cid a", ServerFull);
    check_refused(
        &Config { max_per_lobby: two, ..Config::default() },
        &["ann a", "bob a", "cid b"],
        "dan a",
        LobbyFull,
    );
    check_refused(&Config { max_lobbies: two, ..Config::default() }, &["ann a", "bob b", "cid b"], "dan c", LobbyLimit);
    let reject = Config { duplicate_login: DuplicateLogin::Reject, ..Config::default() };
    check_refused(&reject, &["ann a"], "ann:2 a", UserLimit);
    check_refused(&reject, &["ann a"], "ann:2 b", UserLimit);
    let allow = Config { duplicate_login: DuplicateLogin::Allow, max_per_user: two, ..Config::default() };
    check_refused(&allow, &["ann a", "bob a", "ann:2 b"], "ann:3 a", UserLimit);
    // The widest limit is reported first: waiting for room in the lobby would not help.
    check_refused(&Config { max_per_lobby: two, ..seats(2) }, &["ann a", "bob a"], "cid a", ServerFull);
    // A user that moves needs room in the new lobby, and keeps its seat if there is none.
    check_refused(&Config { max_per_lobby: Limit::at_most(1), ..seats(2) }, &["ann a", "bob b"], "ann:2 b", LobbyFull);
}

#[test]
fn zero_means_none() {
    let none = Limit::at_most(0);
    check_refused(&seats(0), &[], "ann a", CloseReason::ServerFull);
    check_refused(&Config { max_per_lobby: none, ..Config::default() }, &[], "ann a", CloseReason::LobbyFull);
    check_refused(&Config { max_lobbies: none, ..Config::default() }, &[], "ann a", CloseReason::LobbyLimit);
    let allow = Config { duplicate_login: DuplicateLogin::Allow, max_per_user: none, ..Config::default() };
    check_refused(&allow, &[], "ann a", CloseReason::UserLimit);
    check(
        Config { max_strikes: 0, ..Config::default() },
        "ann > connect a\nann < upgrade, welcome, presence_state\nann > {\nann < goodbye, close 4005 bad_message",
    );
}

#[test]
fn unlimited_means_unlimited() {
    let config = Config {
        max_connections: Limit::UNLIMITED,
        max_per_lobby: Limit::UNLIMITED,
        max_lobbies: Limit::UNLIMITED,
        max_per_user: Limit::UNLIMITED,
        duplicate_login: DuplicateLogin::Allow,
        presence_max: 10,
        ..Config::default()
    };
    let mut world = World::new(config, Relay::default());
    for n in 0..600 {
        let lobby = if n % 2 == 0 { "one".into() } else { format!("lobby{n}") };
        world.act(&format!("ann:{n}"), &format!("connect {lobby}"));
    }
    world.flush();
    let stats = world.engine.stats();
    assert_eq!((stats.total_connections, stats.active_lobbies, stats.max_connections), (600, 301, None));
    world.app(|_, cx| assert_eq!(cx.can_accept_connection("one"), Ok(())));
}

#[test]
fn an_application_can_ask_whether_there_is_room() {
    let config = Config { max_lobbies: Limit::at_most(2), max_per_lobby: Limit::at_most(2), ..seats(3) };
    let mut world = World::new(config, Witness::<true>::default());
    let mut check_room = |script: &str, expected: [Result<(), CloseReason>; 3]| {
        world.steps(script);
        let room = world.app(|_, cx| ["a", "b", "c"].map(|lobby| cx.can_accept_connection(lobby)));
        assert_eq!(room, expected, "{script}");
    };
    let (full, limit) = (Err(CloseReason::LobbyFull), Err(CloseReason::LobbyLimit));
    check_room("", [Ok(()); 3]);
    check_room("ann > connect a", [Ok(()); 3]);
    // A reserved seat counts.
    check_room("bob > get /ws/a?token=bob&auth=later", [full, Ok(()), Ok(())]);
    check_room("cid > get /ws/b?token=cid&auth=later", [Err(CloseReason::ServerFull); 3]);
    check_room("bob > hangup", [Ok(()), Ok(()), limit]);
    check_room("cid > hangup", [Ok(()); 3]);
}

#[test]
fn sockets_without_a_seat_are_bounded() {
    let config = Config { max_pending: 2, ..seats(1) };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        # One connection without a request, and one that waits for its authorization.
        a > open
        b > get /ws/chess?token=b&auth=later
        c > open
        c < http 503, body the server is busy; try again in a moment, eof
        c > hangup
        # A connection with a seat is no longer pending.
        "#,
    );
    let conn = world.conn("b");
    world.engine.handle_authorized(world.now, conn, Authorization::allow("b"));
    world.flush();
    world.run(
        r#"
        b < upgrade, welcome, presence_state
        d > connect chess
        # A connection that is upgraded only to read its refusal is still pending.
        d < upgrade, goodbye code=4002, close 4002 server_full
        e > connect chess
        e < http 503, body, eof
        d > close 4002
        d < eof
        d > hangup
        f > connect chess
        f < upgrade, goodbye, close 4002 server_full
        "#,
    );
}

#[test]
fn closing_sockets_are_bounded_and_the_oldest_is_dropped() {
    let config = Config { max_pending: 1, max_closing: 2, ..seats(1) };
    let mut world = World::new(config, Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        p > open
        # Each of these is refused, and stays closing until it is dropped.
        c1 > open
        c1 < http 503, body, eof
        c2 > open
        c2 < http 503, body, eof
        c3 > open
        c3 < http 503, body, eof
        c4 > open
        c4 < http 503, body, eof
        ann < nothing
        p < nothing
        "#,
    );
    assert_eq!(world.engine.stats().closing, 2);
    assert!(!world.is_open("c1") && !world.is_open("c2"), "the oldest are dropped, after their answers");
    assert!(world.is_open("c3") && world.is_open("c4"));
    // A seat that is freed leaves one more closing connection.
    world.run("ann > {\"type\":\"leave\"}\nann < goodbye, close 1000 left");
    assert_eq!(world.engine.stats().closing, 3, "there is room while seats are free");
    world.run("p > hangup\nbob > connect chess\nbob < upgrade, welcome, presence_state");
    assert_eq!((world.engine.stats().closing, world.is_open("c3")), (3, true));
    world.run("q > open");
    assert_eq!((world.engine.stats().closing, world.is_open("c3")), (2, false));
}

#[test]
fn no_socket_is_accepted_beyond_all_bounds() {
    // `check()` refuses such a configuration: it leaves no room for a closing connection.
    let config = Config { max_pending: 1, max_closing: 0, ..seats(0) };
    let mut engine = Engine::new(config, START, Relay::default());
    let peer = ([127, 0, 0, 1], 4000).into();
    assert!(engine.handle_accept(Time::ZERO, peer).is_ok());
    assert_eq!(engine.handle_accept(Time::ZERO, peer), Err(Full));
    assert_eq!((engine.stats().counters.shed, engine.stats().counters.accepted), (1, 1));
    engine.check();
}

#[test]
fn a_request_head_has_a_timeout() {
    let config = Config { handshake_timeout: Duration::from_millis(300), ..Config::default() };
    let mut world = World::new(config, Relay::default());
    world.run(
        r#"
        a > open
        b > open
        advance 290ms
        b > raw GET / HTTP/1.1\r\n
        advance 10ms
        a < http 408, body the request head took too long, eof
        b < http 408, body, eof
        # Input from a peer that keeps sending is read and ignored, until linger_timeout.
        b > raw Host: a\r\n\r\n
        b < nothing
        advance 1s
        "#,
    );
    assert_eq!((world.engine.stats().closing, world.is_open("a"), world.is_open("b")), (0, false, false));
}

#[test]
fn a_request_head_has_a_maximum_size() {
    let config = Config { max_header_bytes: ByteSize(300), max_headers: 6, ..Config::default() };
    #[track_caller]
    fn check_head(config: &Config, lines: &[&str], expected: &str) {
        for step in [1, 7, usize::MAX] {
            let mut world = World::new(config.clone(), Relay::default());
            world.open("ann");
            for piece in wire::upgrade_request("/ws/chess?token=ann", lines).chunks(step) {
                world.send("ann", piece);
                world.flush();
            }
            world.run(&format!("ann < {expected}"));
        }
    }
    let usual = wire::upgrade_request("/ws/chess?token=ann", &[]).len();
    let filler = |n: usize| format!("X: {}", "x".repeat(n - usual - "X: \r\n".len()));
    let accepted = "upgrade, welcome, presence_state";
    check_head(&config, &[&filler(300)], accepted);
    check_head(&config, &[&filler(301)], "http 431, body the request head is longer than 300 bytes, eof");
    check_head(&config, &[&filler(5000)], "http 431, body the request head is longer than 300 bytes, eof");
    check_head(&config, &["A: b"], accepted);
    check_head(&config, &["A: b", "A: b"], "http 431, body the request has more than 6 header lines, eof");
    // A head can be too long before it is complete.
    let mut world = World::new(config, Relay::default());
    world.run(&format!("ann > open\nann > raw G{}\nann < http 431, body, eof", "E".repeat(300)));
}

#[test]
fn input_before_authorization_is_bounded() {
    let config = Config { max_header_bytes: ByteSize(300), ..Config::default() };
    let mut world = World::new(config, Witness::<true>::default());
    world.run("ann > get /ws/chess?token=ann&auth=later");
    let conn = world.conn("ann");
    world.send("ann", &[0; 300]);
    world.run("ann < nothing");
    world.run("ann > raw x\nann < http 431, body wait for the upgrade before sending so much, eof");
    // The reserved seat is free again.
    assert_eq!(world.engine.stats().active_lobbies, 0);
    world.engine.handle_authorized(world.now, conn, Authorization::allow("ann"));
    world.flush();
    world.run("ann < nothing");
}

#[test]
fn authorization_has_a_timeout() {
    let config = Config { auth_timeout: Duration::from_secs(1), ..seats(1) };
    for auth in ["later", "unnamed"] {
        let mut world = World::new(config.clone(), Witness::<true>::default());
        world.run(&format!(
            r#"
            ann > get /ws/chess?token=ann&auth={auth}
            # Neither handshake_timeout nor input sent meanwhile has an effect.
            advance 900ms
            ann > {{"type":"ping"}}
            advance 90ms
            ann < nothing
            advance 10ms
            ann < upgrade, goodbye code=4101 reason=auth_timeout reconnect=true, close 4101 auth_timeout
            bob > connect chess
            bob < upgrade, welcome, presence_state users=bob
            "#
        ));
        // The decision comes too late.
        let conn = world.conn("ann");
        world.engine.handle_authorized(world.now, conn, Authorization::allow("ann"));
        world.flush();
        world.run("ann < nothing\nbob < nothing");
    }
}

#[test]
fn an_authorization_is_decided_once() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann > get /ws/chess?token=ann&auth=later");
    let conn = world.conn("ann");
    let mut answer = |answer: Authorization, script: &str| {
        world.engine.handle_authorized(world.now, conn, answer);
        world.flush();
        world.engine.check();
        world.run(script);
    };
    answer(Authorization::Pending { user: Some("eve".into()) }, "ann < nothing");
    // The user may differ from the claimed one.
    answer(Authorization::allow("bob"), "ann < upgrade, welcome user=bob, presence_state users=bob");
    answer(Authorization::allow("cid"), "ann < nothing");
    answer(Authorization::Refuse(CloseReason::Banned), "ann < nothing");

    for (answer, expected) in [
        (Authorization::Refuse(CloseReason::TokenExpired), "close 4001 token_expired"),
        (Authorization::Refuse(CloseReason::Banned), "close 4003 banned"),
        (Authorization::allow(""), "close 4001 unauthorized"),
        (Authorization::allow("a\nb"), "close 4001 unauthorized"),
    ] {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run("ann > get /ws/chess?token=ann&auth=later");
        let conn = world.conn("ann");
        world.engine.handle_authorized(world.now, conn, answer);
        world.flush();
        world.run(&format!("ann < upgrade, goodbye, {expected}"));
        assert_eq!(world.engine.stats().active_lobbies, 0, "no lobby is reserved");
        assert_eq!(world.engine.app_mut().take(), [""; 0]);
    }
}

/// A connection whose authorization for a new lobby is pending reserves that lobby in addition to the user's current one.
#[test]
fn a_lobby_pending_authorization_counts_against_max_lobbies() {
    let config = Config { max_lobbies: Limit::at_most(1), ..Config::default() };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann:2 > get /ws/go?token=ann&auth=later
        ann:2 < upgrade, goodbye code=4002, close 4002 lobby_limit
        # Without a reservation, the new lobby replaces the one that becomes empty.
        ann:3 > get /ws/go?token=ann&auth=unnamed
        "#,
    );
    let conn = world.conn("ann:3");
    world.engine.handle_authorized(world.now, conn, Authorization::allow("ann"));
    world.flush();
    world.run(
        r#"
        ann < goodbye code=4004, close 4004 replaced
        ann:3 < upgrade, welcome lobby=go, presence_state users=ann
        "#,
    );
}

/// A receiver is sent the presence update before a message. The update alone may exceed its outbox.
#[test]
fn a_receiver_closed_by_a_presence_update_gets_no_message() {
    for logins in [DuplicateLogin::Replace, DuplicateLogin::Allow] {
        let config = Config { duplicate_login: logins, max_per_user: Limit::at_most(2), ..small_outbox() };
        let mut world = World::new(
            config,
            Witness::<true>::reacting(|cx, member, event| {
                if event == "join bob" {
                    let hello = Frame::text(r#"{"type":"hello"}"#);
                    let ann = cx.lobby_users("chess").position(|user| user == "ann");
                    assert_eq!(ann, Some(0));
                    assert_eq!(cx.send_to_user("ann", &hello), Sent::default());
                    let sent = cx.broadcast_to_lobby("chess", Exclude::None, &hello);
                    assert_eq!(sent, Sent { queued: 1, dropped: 0, excluded: 0 });
                    assert!(cx.send_to_conn(member.expect("bob").conn(), &hello));
                }
            }),
        );
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 0");
        let ann = world.conn("ann");
        // Leaves too little room for the presence_diff of bob's join.
        let filler = Frame::binary(&vec![0; 5030]);
        assert!(world.app(|_, cx| cx.send_to_conn(ann, &filler)));
        world.run(
            r#"
            bob > connect chess
            bob < upgrade, welcome, presence_state users=ann,bob, presence_diff -ann:slow, hello, hello
            ann > read
            ann < goodbye code=4102, close 4102 slow_consumer
            "#,
        );
        assert_eq!(world.engine.stats().counters.closed(CloseReason::SlowConsumer), 1);
    }
}

/// Frames mean nothing to a peer that has not read the upgrade.
#[test]
fn a_slow_consumer_gets_its_upgrade_before_the_close() {
    let mut world = World::new(
        small_outbox(),
        Witness::<true>::reacting(|cx, member, event| {
            if event == "join ann" {
                let ann = member.expect("ann").conn();
                while cx.send_to_conn(ann, &Frame::binary(&[0; 1000])) {}
            }
        }),
    );
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, goodbye code=4102, close 4102 slow_consumer
        "#,
    );
}

#[test]
fn a_message_has_a_maximum_size() {
    #[track_caller]
    fn check_message(frames: &[Vec<u8>], fits: bool) {
        let config = Config { max_message_bytes: ByteSize(200), ..Config::default() };
        let mut world = World::new(config, Witness::<true>::default());
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
        world.send("ann", &frames.concat());
        world.flush();
        world.run(if fits { "" } else { "ann < goodbye code=1009, close 1009 message_too_big, eof" });
        let log = world.engine.app_mut().take();
        assert_eq!(log.len(), 2);
        assert_eq!(log[1] == "leave ann dropped", !fits, "{log:?}");
        assert_eq!(world.engine.stats().total_connections, usize::from(fits));
    }
    let json = |n: usize| format!("{{\"type\":\"x\",\"x\":\"{}\"}}", "x".repeat(n - 19)).into_bytes();
    let mask = [3, 5, 7, 9];
    assert_eq!(json(200).len(), 200);
    for (opcode, payload) in [(Opcode::TEXT, json(200)), (Opcode::BINARY, vec![1; 200])] {
        check_message(&[wire::frame(opcode, true, &payload, mask)], true);
        let (front, back) = payload.split_at(150);
        let fragments = [wire::frame(opcode, false, front, mask), wire::frame(Opcode::CONTINUATION, true, back, mask)];
        check_message(&fragments, true);
    }
    for (opcode, payload) in [(Opcode::TEXT, json(201)), (Opcode::BINARY, vec![1; 201])] {
        check_message(&[wire::frame(opcode, true, &payload, mask)], false);
        let (front, back) = payload.split_at(150);
        let fragments = [wire::frame(opcode, false, front, mask), wire::frame(Opcode::CONTINUATION, true, back, mask)];
        check_message(&fragments, false);
        // The header is enough: the server does not wait for the payload and allocates nothing for it.
        let header = wire::frame(opcode, true, &payload, mask)[..8].to_vec();
        check_message(&[header], false);
    }
    check_message(&[vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]], false);
}

#[test]
fn pongs_count_against_the_outbox() {
    let mut world = World::new(small_outbox(), Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 0");
    let ping = wire::frame(Opcode::PING, true, &[b'x'; 125], [1; 4]);
    let ann = world.conn("ann");
    let mut pings = 0;
    while world.engine.stats().total_connections == 1 {
        world.send("ann", &ping);
        world.flush();
        pings += 1;
        assert!(world.app(|_, cx| cx.queued_bytes(ann)) <= 5100 + 200);
    }
    // Each pong counts its 127 bytes and 64 bytes of overhead.
    assert_eq!(pings, 5100 / (127 + 64) + 1);
    world.run("ann > read\nann < goodbye code=4102, close 4102 slow_consumer");
}

/// The close frame and its goodbye always fit.
#[test]
fn a_partly_written_frame_is_completed_before_the_goodbye() {
    let mut world = World::new(small_outbox(), Witness::<true>::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 10");
    let ann = world.conn("ann");
    world.app(|_, cx| assert!(cx.send_to_conn(ann, &Frame::text(&"x".repeat(50)))));
    world.app(|_, cx| while cx.send_to_conn(ann, &Frame::text(&"y".repeat(1000))) {});
    world.run(&format!("ann > read\nann < {}, goodbye, close 4102 slow_consumer", "x".repeat(50)));
}

/// No write is attempted until the socket is reported writable.
#[test]
fn a_blocked_socket_is_not_written_until_it_is_writable() {
    let mut world = World::new(small_outbox(), Witness::<true>::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 0");
    let ann = world.conn("ann");
    world.app(|_, cx| assert!(cx.send_to_conn(ann, &Frame::text("one"))));
    world.app(|_, cx| assert!(cx.send_to_conn(ann, &Frame::text("two"))));
    let check_nothing_is_written = |world: &mut World<_>| {
        let mut sockets = MemorySockets::default();
        world.engine.flush(&mut sockets).expect("the session is not recorded");
        assert_eq!(sockets.take_writes(), []);
    };
    check_nothing_is_written(&mut world);
    world.run("ann > read\nann < one, two");
    check_nothing_is_written(&mut world);
}

#[test]
fn a_user_can_move_to_another_lobby_of_a_full_server() {
    let config = Config { max_lobbies: Limit::at_most(2), ..seats(2) };
    check(
        config,
        r#"
        ann > connect chess
        ann < upgrade, welcome conn=s1, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
        # The server is full, and ann is one of its members.
        ann:2 > connect go
        ann < goodbye code=4004, close 4004 replaced
        bob < presence_diff -ann:replaced
        ann:2 < upgrade, welcome conn=s3 lobby=go, presence_state users=ann
        # There are two lobbies. The one that bob leaves is removed.
        bob:2 > connect hearts
        bob < goodbye code=4004, close 4004 replaced
        bob:2 < upgrade, welcome lobby=hearts, presence_state users=bob
        "#,
    );
}

#[test]
fn draining_closes_all_members_and_refuses_new_connections() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
        p > open
        w > get /ws/chess?token=w&auth=later
        advance 1s
        drain
        # No member is sent a presence_diff, because all members leave.
        ann < goodbye code=1001 reason=server_shutdown reconnect=true, close 1001 server_shutdown
        bob < goodbye code=1001 reason=server_shutdown reconnect=true, close 1001 server_shutdown
        p < http 503, body the server is shutting down; try again in a moment, eof
        w < http 503, body, eof
        late > connect chess
        late < http 503, body, eof
        # A second drain has no effect.
        drain
        ann < nothing
        ann > close 1001
        ann < eof
        ann > hangup
        p > hangup
        "#,
    );
    assert_eq!(world.engine.stats().total_connections, 0);
    assert_eq!(world.engine.stats().counters.closed(CloseReason::ServerShutdown), 4);
    assert!(!world.engine.is_drained());
    let log = world.engine.app_mut().take();
    assert_eq!(log, ["join ann", "join bob", "drain until 31.000000s", "leave ann shutdown", "leave bob shutdown"]);
    // A peer that does not answer is given close_timeout, and then linger_timeout to read the rest.
    world.run(
        r#"
        advance 2s
        bob < eof
        advance 990ms
        "#,
    );
    assert!(!world.engine.is_drained());
    world.run("advance 10ms");
    assert!(world.engine.is_drained());
    assert_eq!(world.engine.drain_totals().map(|totals| totals.forced), Some(0));
    assert_eq!(world.engine.poll_timeout(), None);
}

#[test]
fn draining_ends_at_its_deadline() {
    let config = Config {
        drain_deadline: Duration::from_millis(500),
        close_timeout: Duration::from_secs(5),
        ..Config::default()
    };
    let mut world = World::new(config, Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
        bob > window 0
        drain
        ann < goodbye, close 1001 server_shutdown
        advance 499ms
        bob < nothing
        advance 1ms
        ann < cut
        bob < cut
        "#,
    );
    assert!(world.engine.is_drained());
    assert_eq!(world.engine.drain_totals().map(|totals| totals.forced), Some(2));
    assert_eq!(world.engine.stats().counters.closed(CloseReason::ServerShutdown), 2);
}

#[test]
fn draining_an_empty_server_is_over_at_once() {
    let mut world = World::new(Config::default(), Relay::default());
    assert!(!world.engine.is_drained());
    world.run("drain");
    assert!(world.engine.is_drained());
    assert_eq!(world.engine.poll_timeout(), None);
}

/// A peer that goes on sending after the goodbye is read for max_linger_bytes only.
#[test]
fn a_peer_that_keeps_sending_after_the_close_is_dropped() {
    let config = Config { max_linger_bytes: ByteSize(1000), ..Config::default() };
    let mut world = World::new(config, Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
    world.app(|_, cx| assert_eq!(cx.close_user("ann", CloseReason::Kicked), 1));
    world.run("ann < goodbye, close 4003 kicked");
    world.send("ann", &wire::text(&"x".repeat(900)));
    world.flush();
    world.run("ann < nothing");
    world.send("ann", &wire::text(&"x".repeat(100)));
    world.flush();
    world.run("ann < cut");
    assert_eq!(world.engine.stats().counters.closed(CloseReason::Kicked), 1);
}

/// Sockets without a request block only sockets of their own address.
#[test]
fn silent_sockets_of_one_address_do_not_block_others() {
    let config = Config { max_pending: 3, ..Config::default() };
    let mut engine = Engine::new(config, START, Relay::default());
    let attacker = ([127, 0, 0, 2], 4000).into();
    for _ in 0..20 {
        engine.handle_accept(Time::ZERO, attacker).expect("there is room for it, or an answer");
        engine.check();
    }
    assert_eq!(engine.stats().pending, 3);
    for user in 0..5 {
        let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("another socket makes room");
        let request = wire::upgrade_request(&format!("/ws/chess?token=user{user}"), &[]);
        engine.handle_bytes(Time::ZERO, conn, &request);
        engine.check();
        assert_eq!(engine.stats().total_connections, user + 1);
    }
    // The attacker has two of the three pending sockets, and another address has one that may still send a request. No socket
    // is displaced for one more.
    engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("another socket makes room");
    engine.handle_accept(Time::ZERO, attacker).expect("there is room");
    let before = engine.stats().counters.closed(CloseReason::HttpRefused);
    engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4001).into()).expect("an answer");
    assert_eq!(engine.stats().counters.closed(CloseReason::HttpRefused), before + 1, "with 503");
    engine.check();
}
