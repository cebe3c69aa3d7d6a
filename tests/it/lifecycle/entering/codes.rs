//! Lobbies with a new code, and lobbies that must exist.

use lobbyd::Config;
use lobbyd::config::{DuplicateLogin, Limit};

use super::{check, finish, lobby_of, on, recorded, welcome};

const IN: &str = "upgrade, welcome, presence_state, lobby_state";
const BAD: &str = "upgrade, goodbye code=4005 reason=bad_message reconnect=false, close 4005 bad_message";

#[test]
fn a_new_lobby_has_a_code_of_five_consonants_that_others_can_join() {
    let mut world = recorded(on());
    world.steps("ann > connect ~new");
    let code = lobby_of(&mut world, "ann");
    assert!(code.len() == 5 && code.bytes().all(|c| b"bcdfghjklmnpqrstvwxz".contains(&c)), "{code}");
    world.run(
        &format!("bob > connect {code}\nbob < {IN} users=ann,bob\nann < presence_diff +bob")
            .replace("presence_state, lobby_state users=ann,bob", "presence_state users=ann,bob, lobby_state"),
    );
    finish(world);
}

#[test]
fn every_new_lobby_has_another_code_and_a_replay_draws_the_same() {
    let mut world = recorded(on());
    let mut codes = Vec::new();
    for user in 0..200 {
        world.steps(&format!("user{user} > connect ~new"));
        codes.push(lobby_of(&mut world, &format!("user{user}")));
    }
    // They are not in use any more, and even so others follow.
    for user in 0..200 {
        world.steps(&format!("user{user} > hangup\nuser{user} < *\nuser{user} > connect ~new"));
        codes.push(lobby_of(&mut world, &format!("user{user}")));
    }
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), 400);
    finish(world);
}

#[test]
fn a_reloaded_page_comes_back_to_its_new_lobby() {
    let mut world = recorded(on());
    world.steps("ann > connect ~new session=page-of-ann-0001");
    let code = lobby_of(&mut world, "ann");
    world.steps("ann > close 1001\nann < *\nadvance 2s\nann > connect ~new session=page-of-ann-0001");
    let again = welcome(&mut world, "ann");
    assert_eq!((again["lobby"].as_str(), again["resumed"].as_bool()), (Some(&*code), Some(true)));
    world.steps("ann > close 1001\nann < *\nann > connect ~new session=page-of-ann-0002 was=page-of-ann-0001");
    let again = welcome(&mut world, "ann");
    assert_eq!((again["lobby"].as_str(), again["resumed"].as_bool()), (Some(&*code), Some(true)));
    // Another page wants a lobby of its own.
    world.steps("ann > close 1001\nann < *\nann > connect ~new session=page-of-ann-0003");
    let other = welcome(&mut world, "ann");
    assert_ne!(other["lobby"].as_str(), Some(&*code));
    assert_eq!(other["resumed"].as_bool(), Some(false));
    finish(world);
}

/// A session is one of its user: nobody gets into the lobby of another one by its name.
#[test]
fn a_session_of_another_user_is_not_resumed() {
    let mut world = recorded(on());
    world.steps("ann > connect ~new session=page-of-ann-0001");
    let code = lobby_of(&mut world, "ann");
    world.steps("bob > connect ~new session=page-of-ann-0001");
    assert_ne!(lobby_of(&mut world, "bob"), code);
    finish(world);
}

#[test]
fn create_0_joins_only_a_lobby_that_exists() {
    check(
        on(),
        &format!(
            r#"
            ann > connect chess create=0
            ann < upgrade, goodbye code=4007 reason=lobby_not_found reconnect=false, close 4007 lobby_not_found
            bob > connect chess create=1
            bob < {IN}
            ann:2 > connect chess create=0
            ann:2 < {IN}
            bob < presence_diff +ann
            "#
        ),
    );
}

/// The lobby is there as long as its away member is.
#[test]
fn a_lobby_with_an_away_member_exists() {
    check(
        on(),
        &format!(
            r#"
            ann > connect chess session=page-of-ann-0001
            ann < {IN}
            ann > close 1001
            ann < *
            bob > connect chess create=0
            bob < {IN}
            "#
        ),
    );
}

/// An `EventSource` and a client that keeps its URL come back with `create=0`.
#[test]
fn a_session_comes_back_whatever_else_the_request_says() {
    check(
        Config { max_per_lobby: Limit::at_most(2), ..on() },
        &format!(
            r#"
            ann > connect chess session=page-of-ann-0001
            ann < {IN}
            bob > connect chess
            bob < {IN}
            ann < presence_diff +bob
            ann > {{"type":"settings","settings":{{"password":"rose","locked":true}}}}
            ann < settings
            bob < settings
            ann > close 1001
            ann < *
            ann > connect chess session=page-of-ann-0001 create=0 role=watch password=tulip
            ann < upgrade, welcome resumed=true, *
            "#
        ),
    );
}

#[test]
fn malformed_parameters_are_closed_with_bad_message() {
    for target in [
        "chess create=2",
        "chess role=host",
        "chess seats=0",
        "chess seats=x",
        "chess create=0 x=%ff",
        "~new create=0",
        "~new role=watch",
        "~quick/chess role=watch",
        "~quick/chess seats=11",
    ] {
        check(Config { max_per_lobby: Limit::at_most(10), ..on() }, &format!("ann > connect {target}\nann < {BAD}"));
    }
    check(on(), &format!("ann > connect chess password={}\nann < {BAD}", "x".repeat(65)));
}

#[test]
fn other_paths_with_a_tilde_are_no_lobbies() {
    for code in ["~", "~newer", "~quick", "~quick/", "~quick/a%20b", "~quick/a/b", "~elsewhere", "x~new"] {
        check(
            on(),
            &format!("ann > connect {code}\nann < upgrade, goodbye reason=bad_lobby_code, close 4007 bad_lobby_code"),
        );
    }
    let long = "x".repeat(33);
    check(on(), &format!("ann > connect ~quick/{long}\nann < upgrade, goodbye, close 4007 bad_lobby_code"));
}

/// Without lobby control the parameters belong to the application, and the paths are no lobbies.
#[test]
fn without_lobby_control_nothing_changes() {
    let refused = "upgrade, goodbye reason=bad_lobby_code, close 4007 bad_lobby_code";
    for (target, expected) in [
        ("~new", refused),
        ("~quick/chess", refused),
        ("chess create=0", "upgrade, welcome, presence_state"),
        ("chess role=watch", "upgrade, welcome, presence_state users=ann"),
        ("chess password=%22 seats=none", "upgrade, welcome, presence_state"),
    ] {
        check(Config::default(), &format!("ann > connect {target}\nann < {expected}"));
    }
}

#[test]
fn a_new_lobby_counts_toward_the_limits() {
    check(
        Config { max_lobbies: Limit::at_most(1), ..on() },
        &format!(
            r#"
            ann > connect chess
            ann < {IN}
            bob > connect ~new
            bob < upgrade, goodbye, close 4002 lobby_limit
            ann:2 > connect ~new
            ann:2 < {IN}
            ann < goodbye, close 4004 replaced
            "#
        ),
    );
    check(
        Config { duplicate_login: DuplicateLogin::Reject, ..on() },
        &format!(
            r#"
            ann > connect ~new
            ann < {IN}
            ann:2 > connect ~new
            ann:2 < upgrade, goodbye, close 4002 user_limit
            ann < ping
            "#
        ),
    );
}
