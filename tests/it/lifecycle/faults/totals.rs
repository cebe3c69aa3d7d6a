//! Limits and statistics.

use lobbyd::apps::Relay;
use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::{Authorization, CloseReason, Config, Engine, Random};

use super::lobby_of;
use crate::common::scenario::{START, World};
use crate::common::witness::Witness;

/// The reference implementation checked the limit, waited, and then admitted all connections that had waited.
#[test]
fn concurrent_handshakes_never_exceed_the_limit() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let config = Config { max_connections: Limit::at_most(3), ..lobby_of(2) };
        let mut world = World::new(config, Witness::<true>::default());
        let refuses = seed % 2 == 1;
        let ways = ["", "&auth=later", "&auth=unnamed"];
        // Each client opens, sends its request in two pieces, and is authorized. The order among the clients is random.
        let requests: Vec<(String, Vec<u8>)> = (0..6)
            .map(|n| {
                let way = ways[random.below(3) as usize];
                let target = format!("/ws/{}?token=user{n}{way}", ["a", "b"][n % 2]);
                (format!("user{n}"), lobbyd::sim::wire::upgrade_request(&target, &[]))
            })
            .collect();
        let mut progress = [0; 6];
        while progress.iter().any(|&step| step < 4) {
            let n = random.below(6) as usize;
            let (name, request) = &requests[n];
            match progress[n] {
                0 => world.open(name),
                1 => world.send(name, &request[..60]),
                2 => world.send(name, &request[60..]),
                3 => {
                    let conn = world.conn(name);
                    let answer = match refuses && random.percent(40) {
                        true => Authorization::Refuse(CloseReason::Banned),
                        false => Authorization::allow(name.as_str()),
                    };
                    world.engine.handle_authorized(world.now, conn, answer);
                }
                _ => continue,
            }
            progress[n] += 1;
            // Counts the seats: no limit is exceeded at any moment.
            world.engine.check();
            if random.percent(30) {
                world.flush();
            }
        }
        world.flush();
        let stats = world.engine.stats();
        let counters = &stats.counters;
        let refused =
            [CloseReason::ServerFull, CloseReason::LobbyFull, CloseReason::Banned].map(|r| counters.closed(r));
        assert_eq!(stats.total_connections as u64 + refused.iter().sum::<u64>(), 6, "seed {seed}");
        assert!(stats.total_connections <= 3);
        if !refuses {
            assert_eq!(stats.total_connections, 3, "seed {seed}: no connection is refused while there is room");
        }
    }
}

/// The reference implementation swallowed every error without reporting it.
#[test]
fn every_close_is_counted_under_its_reason() {
    let mut world = World::new(Config { max_strikes: 0, ..Config::default() }, Relay::default());
    let (bad_utf8, unmasked) = ([0x81, 0x81, 0, 0, 0, 0, 0xff], [0x81, 0x01, b'x']);
    type End<'a> = &'a dyn Fn(&mut World<Relay>);
    let ends: &[(&str, CloseReason, End<'_>)] = &[
        ("left", CloseReason::Left, &|world| world.steps(r#"ann > {"type":"leave"}"#)),
        ("closed", CloseReason::PeerClosed, &|world| world.act("ann", "close 1000")),
        ("gone", CloseReason::PeerGone, &|world| world.act("ann", "close 1001")),
        ("hung up", CloseReason::Hangup, &|world| world.hangup("ann")),
        ("malformed", CloseReason::BadMessage, &|world| world.steps("ann > {")),
        ("bad UTF-8", CloseReason::BadUtf8, &|world| world.send("ann", &bad_utf8)),
        ("unmasked", CloseReason::ProtocolError, &|world| world.send("ann", &unmasked)),
        ("too big", CloseReason::MessageTooBig, &|world| world.act("ann", &format!("text {}", "x".repeat(70_000)))),
        ("broken", CloseReason::WriteFailed, &|world| world.steps("ann > break\nann > ping x")),
        ("kicked", CloseReason::Kicked, &|world| {
            world.app(|_, cx| cx.close_user("ann", CloseReason::Kicked));
        }),
    ];
    for (n, (case, reason, end)) in ends.iter().enumerate() {
        world.run("ann joins chess");
        end(&mut world);
        world.flush();
        world.take("ann");
        let counters = world.engine.stats().counters;
        assert_eq!(counters.closed(*reason), 1, "{case}");
        assert_eq!(counters.closed_in_all(), n as u64 + 1, "{case}");
        world.steps("advance 4s");
        world.take("ann");
    }
}

/// The reference implementation recomputed all totals for every new connection.
#[test]
fn totals_equal_a_full_recount() {
    for (seed, logins) in
        (0..15).zip([DuplicateLogin::Replace, DuplicateLogin::Allow, DuplicateLogin::Reject].iter().cycle())
    {
        let mut random = Random::new(seed);
        let config = Config {
            max_connections: Limit::at_most(7),
            max_lobbies: Limit::at_most(3),
            max_per_user: Limit::at_most(2),
            duplicate_login: *logins,
            ..lobby_of(3)
        };
        let mut world = World::new(config, Witness::<true>::default());
        for step in 0..150 {
            let name = format!("user{}:{}", random.below(5), random.below(3));
            let user = name.split(':').next().expect("split returns at least one part");
            let action = random.below(4);
            match (world.is_open(&name), action) {
                (false, _) => {
                    let auth = if random.percent(30) { "&auth=later" } else { "" };
                    let lobby = random.below(4);
                    world.act(&name, &format!("get /ws/lobby{lobby}?token={user}{auth}"));
                }
                (true, 0) => world.hangup(&name),
                (true, 1) => world.act(&name, r#"{"type":"broadcast","data":1}"#),
                (true, 2) => world.act(&name, "close 1000"),
                (true, _) => {
                    let conn = world.conn(&name);
                    world.engine.handle_authorized(world.now, conn, Authorization::allow(user));
                }
            }
            if random.percent(60) {
                world.flush();
            }
            // Recounts everything and compares.
            world.engine.check();
            let stats = world.engine.stats();
            let counted =
                world.app(|_, cx| (0..4).map(|n| cx.lobby_users(&format!("lobby{n}")).count()).sum::<usize>());
            assert_eq!(stats.total_connections, counted, "seed {seed} step {step}");
        }
        assert!(world.engine.stats().counters.joined > 10);
    }
}

/// The reference implementation divided by the limit, even if it was 0.
#[test]
fn capacity_is_a_number_for_every_limit() {
    #[track_caller]
    fn check_capacity(limit: Limit, expected: f64) {
        let config = Config { max_connections: limit, ..Config::default() };
        let mut world = World::new(config, Relay::default());
        world.steps("ann > connect chess");
        assert_eq!(world.engine.stats().capacity_percent, expected);
    }
    check_capacity(Limit::at_most(0), 100.0);
    check_capacity(Limit::at_most(1), 100.0);
    check_capacity(Limit::at_most(3), 33.3);
    check_capacity(Limit::at_most(500), 0.2);
    check_capacity(Limit::UNLIMITED, 0.0);
}

/// The reference implementation was one global object: workers did not see each other's users, and tests interfered.
#[test]
fn two_engines_share_nothing() {
    let mut one = World::new(lobby_of(1), Relay::default());
    let two = Engine::new(lobby_of(1).check().expect("the configuration is valid"), START, Relay::default());
    one.run("ann joins chess");
    assert_eq!((one.engine.stats().total_connections, two.stats().total_connections), (1, 0));
    let mut two = World::new(lobby_of(1), Relay::default());
    two.run("bob > connect chess\nbob < upgrade, welcome conn=s1, presence_state users=bob");
}
