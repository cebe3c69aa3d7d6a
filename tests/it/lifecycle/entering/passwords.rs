//! Passwords of lobbies, and addresses that guess.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::config::Limit;
use lobbyd::journal::{self, RotateHint};

use super::{check, finish, on, recorded};
use crate::common::scenario::{START, World};
use crate::common::segments::Segments;
use crate::journal::site::timeline;

const IN: &str = "upgrade, welcome, presence_state, lobby_state";
const WRONG: &str = "upgrade, goodbye code=4003 reason=wrong_password reconnect=false, close 4003 wrong_password";

fn protected(password: &str) -> String {
    format!(
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < {IN}
        ann > {{"type":"settings","settings":{{"password":"{password}"}}}}
        ann < settings settings={{"has_password":true}}
        "#
    )
}

#[test]
fn only_clients_with_the_password_come_in() {
    let script = format!(
        r#"{}
        bob > connect chess
        bob < {WRONG}
        bob:2 > connect chess password=tulip
        bob:2 < {WRONG}
        bob:3 > connect chess password=a%20Rose+
        bob:3 < {WRONG}
        bob:4 > connect chess password=a%20rose
        bob:4 < {IN}
        ann < presence_diff +bob
        cid > connect chess role=watch
        cid < {WRONG}
        cid:2 > connect chess role=watch password=a+rose
        cid:2 < {IN}
        "#,
        protected("a rose")
    );
    check(on(), &script);
}

/// The member has proved that it knows the password.
#[test]
fn a_member_takes_over_its_own_seat_without_the_password() {
    let script = format!(
        r#"{}
        ann:2 > connect chess session=page-of-ann-0002
        ann:2 < {IN}
        ann < goodbye, close 4004 replaced
        ann:3 > connect chess role=watch
        ann:3 < {WRONG}
        ann:2 > {{"type":"settings","settings":{{"password":null}}}}
        ann:2 < settings settings={{"has_password":false}}
        bob > connect chess
        bob < {IN}
        ann:2 < presence_diff +bob
        "#,
        protected("rose")
    );
    check(on(), &script);
}

#[test]
fn an_address_guesses_ten_passwords_a_minute() {
    let mut world = recorded(on());
    world.run(&protected("rose"));
    for guess in 0..10 {
        world.run(&format!("x{guess} > connect chess password=tulip{guess}\nx{guess} < {WRONG}"));
    }
    world.steps(&format!(
        r#"
        # Not even the right one is judged.
        y > connect chess password=rose
        y < http 429, body, eof
        y:2 > connect other create=0
        y:2 < http 429, body, eof
        # Clients that guess nothing come in.
        z > connect other
        z < {IN}
        # So do those of other addresses.
        from 10.0.0.7
        w > connect chess password=rose
        w < {IN}
        ann < presence_diff +w
        from 127.0.0.1
        advance 6s
        y:3 > connect chess password=rose
        y:3 < {IN}
        ann < presence_diff +y
        w < presence_diff +y
        "#
    ));
    finish(world);
}

#[test]
fn unknown_codes_are_guesses_too_and_a_session_in_its_seat_guesses_nothing() {
    let mut world = recorded(on());
    world.run("early > connect chess session=page-of-ann-0001 create=0 password=x\nearly < upgrade, goodbye, close 4007 lobby_not_found");
    world.run(&protected("rose"));
    for guess in 1..10 {
        world.run(&format!(
            "x{guess} > connect code{guess} create=0\nx{guess} < upgrade, goodbye, close 4007 lobby_not_found"
        ));
    }
    world.run("x > connect chess create=0\nx < http 429, body, eof");
    // One guess is possible every six seconds: a right one does not use it up.
    world.advance(Duration::from_secs(7));
    for user in ["bob", "cid", "dan"] {
        world.steps(&format!("{user} > connect chess create=0 password=rose\n{user} < upgrade, welcome, *"));
    }
    world.steps("ann < *\nann > close 1001\nann < *\nann > connect chess session=page-of-ann-0001 create=0\nann < upgrade, welcome resumed=true, *");
    finish(world);
}

#[test]
fn the_number_of_guesses_is_configured() {
    let mut world = recorded(Config { guesses_per_minute: Limit::UNLIMITED, ..on() });
    for guess in 0..100 {
        world.run(&format!(
            "x{guess} > connect code{guess} create=0\nx{guess} < upgrade, goodbye, close 4007 lobby_not_found"
        ));
    }
    finish(world);
    check(
        Config { guesses_per_minute: Limit::at_most(0), ..on() },
        "x > connect chess create=0\nx < http 429, body, eof",
    );
}

/// The bucket of an address is in the checkpoint of a segment that begins without connections.
#[test]
fn guesses_are_remembered_without_connections_and_across_segments() {
    let mut world = World::new(Config { guesses_per_minute: Limit::at_most(2), ..on() }, Relay::default());
    let segments = Segments::new(|_| RotateHint::WhenEmpty);
    journal::record(&mut world.engine, START, segments).expect("memory takes all bytes");
    let guess = |world: &mut World<Relay>, name: &str, expected: &str| {
        world.steps(&format!("{name} > connect chess create=0\n{name} < {expected}, *\n{name} > hangup"));
        // The connection is dropped, and then the next segment begins.
        (0..3).for_each(|_| world.advance(Duration::from_millis(1)));
    };
    for name in ["a", "b"] {
        guess(&mut world, name, "upgrade, goodbye, close 4007 lobby_not_found");
    }
    guess(&mut world, "c", "http 429");
    let stats = world.engine.stats();
    let Segments { segments, .. } = journal::finish(&mut world.engine).expect("it was recorded in memory");
    assert!(segments.len() > 1);
    for first in 0..segments.len() {
        let session = segments[first..].concat();
        assert_eq!(journal::replay(&*session, Relay::default()).expect("nothing differs").stats, stats, "{first}");
    }
}

/// Neither the password nor a part of it is in a journal, in an answer or in a log line.
#[test]
fn no_password_is_in_a_journal_or_in_an_answer() {
    const PASSWORD: &str = "swordfish-of-ann";
    let mut world = recorded(on());
    world.run(&protected(PASSWORD));
    for (at, target) in ["chess", "~new", "~quick/chess", "no%20lobby", "go"].into_iter().enumerate() {
        for (step, rest) in ["", " create=0", " create=2", " role=watch", " x=%ff"].into_iter().enumerate() {
            let name = format!("bob{at}{step}");
            world.steps(&format!("{name} > connect {target} password={PASSWORD}{rest}"));
            let got = world.take(&name);
            assert!(!got.is_empty() && !got.iter().any(|text| text.contains("swordfish")), "{got:?}");
        }
    }
    let got = world.take("ann");
    assert!(!got.iter().any(|text| text.contains("swordfish")), "{got:?}");
    let journal = finish(world);
    assert!(!journal.windows(9).any(|window| window == b"swordfish"));
    let shown = timeline(&journal, Relay::default());
    let requests: Vec<&str> = shown.lines().filter(|line| line.contains("asks for")).collect();
    assert!(requests.len() == 27 && !requests.iter().any(|line| line.contains("swordfish")), "{requests:?}");
    for line in [
        "asks for lobby chess, if it exists, with a password",
        "asks for lobby go, to watch, with a password",
        "asks for a new lobby, with a password",
        "asks for an open lobby of the pool chess, with a password",
        "asks for lobby chess, malformed parameters",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
}
