//! `~quick/{pool}`: the oldest open lobby of a pool, or a new one.

use lobbyd::Config;
use lobbyd::config::{DuplicateLogin, Limit};

use super::{check, finish, lobby_of, on, recorded, welcome};

const IN: &str = "upgrade, welcome, presence_state, lobby_state";

/// Connects a client to a pool and returns the code of its lobby.
#[track_caller]
fn join(world: &mut crate::common::scenario::World<lobbyd::apps::Relay>, name: &str, target: &str) -> String {
    world.steps(&format!("{name} > connect {target}"));
    lobby_of(world, name)
}

#[test]
fn lobbies_of_a_pool_fill_up_oldest_first() {
    let mut world = recorded(on());
    let codes: Vec<String> =
        (0..7).map(|user| join(&mut world, &format!("user{user}"), "~quick/chess seats=3")).collect();
    assert!(codes[..3].iter().all(|code| *code == codes[0]) && codes[3..6].iter().all(|code| *code == codes[3]));
    assert!(codes[0] != codes[3] && codes[3] != codes[6] && codes[6] != codes[0]);
    // A seat becomes free in the oldest one.
    world.steps("user1 > leave\nuser1 < *");
    assert_eq!(join(&mut world, "zoe", "~quick/chess seats=3"), codes[0]);
    assert_eq!(join(&mut world, "yan", "~quick/chess seats=3"), codes[6]);
    finish(world);
}

#[test]
fn pools_and_numbers_of_seats_are_apart() {
    let mut world = recorded(on());
    let mut codes: Vec<String> =
        ["~quick/chess seats=2", "~quick/chess seats=3", "~quick/chess", "~quick/go seats=2", "~new"]
            .iter()
            .enumerate()
            .map(|(user, target)| join(&mut world, &format!("user{user}"), target))
            .collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), 5);
    // A lobby named like the pool is not of the pool.
    join(&mut world, "zoe", "chess");
    assert!(codes.contains(&join(&mut world, "yan", "~quick/chess")));
    finish(world);
}

#[test]
fn the_lobby_has_the_seats_of_the_pool() {
    check(
        on(),
        r#"
        ann > connect ~quick/chess seats=2
        ann < upgrade, welcome, presence_state
        ann < lobby_state \
            settings={"max":2,"locked":false,"listed":false,"name":null,"tags":{},"has_password":false,"write":"host","watchers":32,"start":null,"empty_ttl_ms":0}
        "#,
    );
}

#[test]
fn closed_lobbies_are_passed_over() {
    for (settings, reopened) in [
        (r#"{"locked":true}"#, r#"{"locked":false}"#),
        (r#"{"max":1}"#, r#"{"max":3}"#),
        (r#"{"password":"rose"}"#, r#"{"password":null}"#),
    ] {
        let mut world = recorded(on());
        let first = join(&mut world, "ann", "~quick/chess session=page-of-ann-0001");
        world.steps(&format!(r#"ann > {{"type":"settings","settings":{settings}}}"#));
        let second = join(&mut world, "bob", "~quick/chess");
        assert_ne!(first, second, "{settings}");
        world.steps(&format!(r#"ann > {{"type":"settings","settings":{reopened}}}"#));
        assert_eq!(join(&mut world, "cid", "~quick/chess"), first, "{reopened}");
        world.steps("ann < *\nbob < *");
        finish(world);
    }
}

#[test]
fn a_lobby_that_counts_down_is_passed_over() {
    let mut world = recorded(on());
    let first = join(&mut world, "ann", "~quick/chess session=page-of-ann-0001");
    world.steps(r#"ann > {"type":"settings","settings":{"start":{"min":1,"ready":false,"countdown_ms":5000}}}"#);
    assert!(world.take("ann").iter().any(|text| text.contains("countdown")));
    assert_ne!(join(&mut world, "bob", "~quick/chess"), first);
    finish(world);
}

#[test]
fn a_user_that_was_kicked_gets_another_lobby() {
    let mut world = recorded(on());
    let first = join(&mut world, "ann", "~quick/chess session=page-of-ann-0001");
    assert_eq!(join(&mut world, "bob", "~quick/chess session=page-of-bob-0001"), first);
    world.steps(r#"ann > {"type":"kick","user":"bob","ban":true}"#);
    assert_ne!(join(&mut world, "bob:3", "~quick/chess session=page-of-bob-0001"), first);
    assert_eq!(join(&mut world, "cid", "~quick/chess"), first);
    world.steps(&format!("bob:2 > connect {first}\nbob:2 < upgrade, goodbye, close 4003 banned\nann < *\nbob < *"));
    finish(world);
}

#[test]
fn create_0_joins_only_an_open_lobby_of_the_pool() {
    check(
        on(),
        &format!(
            r#"
            ann > connect ~quick/chess create=0
            ann < upgrade, goodbye, close 4007 lobby_not_found
            bob > connect ~quick/chess
            bob < {IN}
            ann:2 > connect ~quick/chess create=0
            ann:2 < {IN}
            bob < presence_diff +ann
            "#
        ),
    );
}

#[test]
fn a_session_comes_back_to_its_lobby_even_if_an_older_one_has_room() {
    let mut world = recorded(on());
    let first = join(&mut world, "ann", "~quick/chess seats=2");
    assert_eq!(join(&mut world, "bob", "~quick/chess seats=2"), first);
    let second = join(&mut world, "cid", "~quick/chess seats=2 session=page-of-cid-0001");
    world.steps("ann > leave\nann < *\nbob < *\ncid > close 1001\ncid < *");
    world.steps("cid > connect ~quick/chess seats=2 session=page-of-cid-0001");
    let back = welcome(&mut world, "cid");
    assert_eq!((back["lobby"].as_str(), back["resumed"].as_bool()), (Some(&*second), Some(true)));
    // The same session resumes it from any pool.
    world.steps("cid > close 1001\ncid < *\ncid > connect ~quick/go session=page-of-cid-0001");
    assert_eq!(lobby_of(&mut world, "cid"), second);
    finish(world);
}

/// In one turn, more clients than seats ask for a lobby: each gets a seat, and no lobby gets one too many.
#[test]
fn many_joins_at_once_overfill_no_lobby() {
    for seats in [1, 2, 3, 7] {
        let mut world = recorded(on());
        let joins: String = (0..40).map(|user| format!("user{user} > connect ~quick/chess seats={seats}\n")).collect();
        world.steps(&format!("turn begins\n{joins}turn ends"));
        world.flush();
        let mut codes: Vec<String> = (0..40).map(|user| lobby_of(&mut world, &format!("user{user}"))).collect();
        let in_order = codes.clone();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), 40usize.div_ceil(seats));
        assert!(in_order.chunks(seats).all(|chunk| chunk.iter().all(|code| *code == chunk[0])));
        finish(world);
    }
}

#[test]
fn a_refused_join_creates_no_lobby() {
    let mut world =
        recorded(Config { max_connections: Limit::at_most(1), duplicate_login: DuplicateLogin::Reject, ..on() });
    join(&mut world, "ann", "~quick/chess seats=1");
    for user in ["ann:2", "bob"] {
        world.steps(&format!("{user} > connect ~quick/chess seats=1\n{user} < upgrade, goodbye code=4002, *"));
    }
    assert_eq!(world.engine.stats().active_lobbies, 1);
    world.steps("ann < *");
    finish(world);
}

/// The lobby that the user is in is the oldest open one of its pool: it takes its own seat over.
#[test]
fn a_second_login_takes_over_the_seat_in_its_open_lobby() {
    let mut world = recorded(on());
    let first = join(&mut world, "ann", "~quick/chess seats=2");
    assert_eq!(join(&mut world, "ann:2", "~quick/chess seats=2"), first);
    assert_eq!(world.engine.stats().total_connections, 1);
    world.steps("ann < goodbye, close 4004 replaced");
    finish(world);
}
