//! Authorizations that take a while: seats and lobbies are reserved, and nobody guesses meanwhile.

use std::time::Duration;

use lobbyd::config::Limit;
use lobbyd::{Authorization, CloseReason, Config};

use super::{finish, lobby_of, on, recorded_with};
use crate::common::scenario::World;
use crate::common::witness::Witness;

fn world(config: Config) -> World<Witness<true>> {
    recorded_with(config, Witness::default())
}

/// Both are reserved a seat in the first lobby: the third client gets another one.
#[test]
fn reserved_seats_of_a_pool_are_taken() {
    let mut world = world(on());
    for user in ["ann", "bob", "cid"] {
        world.steps(&format!("{user} > connect ~quick/chess seats=2 auth=later"));
    }
    for user in ["cid", "ann", "bob"] {
        world.authorize(user, Authorization::allow(user));
    }
    let codes = ["ann", "bob", "cid"].map(|user| lobby_of(&mut world, user));
    assert!(codes[0] == codes[1] && codes[1] != codes[2]);
    finish(world);
}

/// A client that is refused in the end gives its reserved seat back.
#[test]
fn a_reserved_seat_is_free_again_when_its_client_is_refused() {
    let mut world = world(on());
    world.steps("ann > connect ~quick/chess seats=2\nbob > connect ~quick/chess seats=2 auth=later");
    world.authorize("bob", Authorization::Refuse(CloseReason::Unauthorized));
    world.steps("cid > connect ~quick/chess seats=2\nbob < *");
    let code = lobby_of(&mut world, "ann");
    assert_eq!(lobby_of(&mut world, "cid"), code);
    world.steps("dan > connect ~quick/chess seats=2 auth=later");
    world.advance(Duration::from_secs(15));
    world.steps("dan < *\nann < *\ncid < *");
    assert_eq!(world.engine.stats().active_lobbies, 1);
    finish(world);
}

/// A seat is reserved for a user only if it is known. At the answer the client gets one that is free then.
#[test]
fn clients_of_unknown_users_race_for_the_last_seat() {
    let mut world = world(on());
    for user in ["ann", "bob", "cid"] {
        world.steps(&format!("{user} > connect ~quick/chess seats=2 auth=unnamed"));
    }
    for user in ["cid", "ann", "bob"] {
        world.authorize(user, Authorization::allow(user));
    }
    let codes = ["ann", "bob", "cid"].map(|user| lobby_of(&mut world, user));
    assert!(codes[0] == codes[2] && codes[1] != codes[2]);
    finish(world);
}

#[test]
fn a_new_lobby_is_the_one_that_was_reserved() {
    let mut world = world(on());
    world.steps("ann > connect ~new auth=later\nbob > connect ~new");
    assert_eq!(world.engine.stats().active_lobbies, 2);
    world.authorize("ann", Authorization::allow("ann"));
    assert_eq!(world.engine.stats().active_lobbies, 2);
    assert_ne!(lobby_of(&mut world, "ann"), lobby_of(&mut world, "bob"));
    finish(world);
}

/// The lobby in which a seat was reserved is locked when the answer comes.
#[test]
fn a_pool_finds_another_lobby_if_the_reserved_one_was_closed_meanwhile() {
    let mut world = world(on());
    world.steps("ann > connect ~quick/chess session=page-of-ann-0001\nbob > connect ~quick/chess auth=later");
    let code = lobby_of(&mut world, "ann");
    world.steps(r#"ann > {"type":"settings","settings":{"locked":true}}"#);
    world.authorize("bob", Authorization::allow("bob"));
    assert_ne!(lobby_of(&mut world, "bob"), code);
    world.steps("ann < *");
    finish(world);
}

/// A client that is known only afterwards cannot try more passwords at once than its address may guess.
#[test]
fn guesses_are_limited_while_authorizations_are_pending() {
    let mut world = world(Config { guesses_per_minute: Limit::at_most(3), ..on() });
    world.steps("ann > connect chess session=page-of-ann-0001");
    world.steps(r#"ann > {"type":"settings","settings":{"password":"rose"}}"#);
    for guess in 0..5 {
        world.steps(&format!("x{guess} > connect chess password=tulip{guess} auth=unnamed"));
    }
    world.steps("y > connect chess password=rose auth=unnamed");
    for guess in 0..5 {
        world.authorize(&format!("x{guess}"), Authorization::allow("x"));
        let reason = if guess < 3 { "close 4003 wrong_password" } else { "close 4009 rate_limited" };
        world.steps(&format!("x{guess} < upgrade, goodbye, {reason}"));
    }
    // It does not learn that it was right.
    world.authorize("y", Authorization::allow("y"));
    world.steps("y < upgrade, goodbye, close 4009 rate_limited\nann < *");
    finish(world);
}

#[test]
fn an_identity_for_one_lobby_opens_no_other_one() {
    let mut world = world(on());
    for (user, target) in [("ann", "~new"), ("bob", "~quick/chess")] {
        world.run(&format!("{user} > connect {target} only=chess\n{user} < upgrade, goodbye, close 4001 unauthorized"));
    }
    assert_eq!(world.engine.stats().active_lobbies, 0);
    finish(world);
}

#[test]
fn an_away_seat_is_kept_while_a_claim_from_a_new_lobby_is_pending() {
    let mut world = world(on());
    world.steps("ann > connect ~new session=page-of-ann-0001");
    let code = lobby_of(&mut world, "ann");
    world.steps("ann > close 1001\nann < *");
    world.advance(Duration::from_secs(29));
    world.steps("ann > connect ~new session=page-of-ann-0001 auth=unnamed");
    world.advance(Duration::from_secs(4));
    world.authorize("ann", Authorization::allow("ann"));
    assert_eq!(lobby_of(&mut world, "ann"), code);
    finish(world);
}
