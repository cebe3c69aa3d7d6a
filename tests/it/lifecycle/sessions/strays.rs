//! Late attempts of a client that gave them up: what the server has executed is not executed again.
//!
//! In each test the answer to a request is lost, an attempt takes the seat that was on its way for long, and the client comes
//! back. It sends its request again if the server says that it was not executed.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Relay;

use crate::common::scenario::{World, check};

const JOINED: &str = r#"
    bob joins chess
    ann > connect chess session=page-of-ann-0001
    ann < upgrade, welcome conn=s2 done=0, presence_state seq=1
    bob < presence_diff +ann
    "#;

/// The server executes a request whose answer is lost. It has no `seq`, so no position shows whether it was read.
const ACK_IS_LOST: &str = r#"
    ann > {"type":"direct","to":"bob","data":"once","ref":1}
    ann < ack ref=1
    bob < direct data="once"
    ann > hangup
    "#;

/// The page learns that nobody knows what became of its request, and does not send it again.
const IS_UNKNOWN: &str = "welcome conn=s2 resumed=false recovered=false done=0 replay=0, presence_state";

#[test]
fn an_attempt_with_a_position_of_an_earlier_session_changes_nothing() {
    let begins_anew = r#"
        ann > hangup
        advance 15s
        bob < presence_diff away=ann
        bob > {"type":"broadcast","data":0}
        advance 15s
        bob < presence_diff -ann
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome conn=s3 resumed=false done=0, presence_state seq=5
        bob < presence_diff +ann
        bob > {"type":"direct","to":"ann","data":0}
        ann < direct n=1
        "#;
    // The same position as that of the attempt with which the session began, and an older one of the same page.
    for position in ["seq=1 n=0", "seq=0 n=0"] {
        let stray = format!(
            r#"
            ann:2 > connect chess session=page-of-ann-0001 epoch=1000000000000 {position}
            ann:2 < upgrade, welcome resumed=false recovered=false, presence_state
            bob > {{"type":"direct","to":"ann","data":1}}
            ann:2 < direct n=2
            ann:2 > hangup
            "#
        );
        let page = r#"
            ann:3 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=5 n=1
            ann:3 < upgrade, welcome conn=s3 resumed=true recovered=true done=1 refused="0" replay=1 n=1, direct n=2, presence_state seq=5
            ann:3 > {"type":"direct","to":"bob","data":"once","ref":1}
            ann:3 < ack ref=1 repeated=true
            bob < nothing
            "#;
        check(Config::default(), &[JOINED, begins_anew, ACK_IS_LOST, &stray, page].concat());
    }
}

#[test]
fn an_attempt_without_a_position_changes_nothing() {
    let stray = r#"
        ann:2 > connect chess session=page-of-ann-0001
        ann:2 < upgrade, welcome resumed=true done=1, presence_state
        ann:2 > hangup
        ann:3 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann:3 < upgrade, welcome conn=s2 resumed=true recovered=true done=1, presence_state
        "#;
    check(Config::default(), &[JOINED, ACK_IS_LOST, stray].concat());
}

#[test]
fn an_attempt_that_takes_the_seat_back_from_another_tab_does_not_continue_the_session() {
    let reads_more = r#"
        bob > {"type":"broadcast","data":0}
        ann < message seq=2
        "#;
    let tab_leaves = "ann:2 > hangup\n";
    for (tab, end, stray) in [
        ("session=another-page-of-ann", tab_leaves, "epoch=1000000000000 seq=1 n=0"),
        ("session=another-page-of-ann", tab_leaves, ""),
        ("session=another-page-of-ann", "", ""),
        // A tab without a session.
        ("", "", ""),
    ] {
        let stray = format!(
            r#"
            ann:2 > connect chess {tab}
            ann:2 < upgrade, welcome conn=s2 resumed=false, presence_state seq=2
            {end}
            ann:3 > connect chess session=page-of-ann-0001 {stray}
            ann:3 < upgrade, welcome conn=s2 resumed=false done=0, presence_state seq=2
            ann:3 > hangup
            ann:4 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=2 n=0
            ann:4 < upgrade, {IS_UNKNOWN} seq=2
            "#
        );
        let mut world = World::new(Config::default(), Relay::default());
        world.steps(&[JOINED, reads_more, ACK_IS_LOST, &stray].concat());
    }
}

#[test]
fn an_attempt_of_a_page_that_was_reloaded_does_not_continue_the_session() {
    let reloaded = r#"
        ann > hangup
        ann > connect chess session=page-of-ann-0002 was=page-of-ann-0001
        ann < upgrade, welcome resumed=true done=0, presence_state seq=1
        "#;
    // Of the page before, and of the first attempt of this page.
    let strays = r#"
        ann:2 > connect chess session=page-of-ann-0001
        ann:2 < upgrade, welcome resumed=false done=0, presence_state
        ann:2 > hangup
        ann:3 > connect chess session=page-of-ann-0002 was=page-of-ann-0001
        ann:3 < upgrade, welcome resumed=true done=0, presence_state
        ann:3 > hangup
        "#;
    let mut world = World::new(Config::default(), Relay::default());
    world.steps(&[JOINED, reloaded, ACK_IS_LOST, strays].concat());
    // The page has read the number in its `welcome`.
    world.steps(&format!(
        r#"
        ann:4 > connect chess session=page-of-ann-0002 epoch=1000000000000 seq=1 n=33
        ann:4 < upgrade, {IS_UNKNOWN} seq=1
        "#
    ));
}

#[test]
fn a_new_session_gets_unwritten_messages_under_numbers_that_no_earlier_one_has_read() {
    let mut world = World::new(Config::default(), Relay::default());
    world.steps(JOINED);
    world.steps(
        r#"
        bob > {"type":"direct","to":"ann","data":{"n":1}}
        ann < direct n=1
        ann > hangup
        bob > {"type":"direct","to":"ann","data":{"n":2}}
        ann:2 > connect chess session=another-page-of-ann
        ann:2 < upgrade, welcome resumed=false replay=1 n=34, direct n=35 data={"n":2}, presence_state
        bob > {"type":"direct","to":"ann","data":3}
        ann:2 < direct n=36 data=3
        ann:2 > hangup
        ann:2 > connect chess session=another-page-of-ann epoch=1000000000000 seq=1 n=36
        ann:2 < upgrade, welcome resumed=true recovered=true n=36, presence_state
        "#,
    );
}

#[test]
fn a_session_that_took_a_seat_over_goes_on_in_a_quiet_lobby() {
    // Nothing is numbered between the two sessions, and the position of the second one is known by `n` alone.
    let mut world = World::new(Config::default(), Relay::default());
    world.steps(JOINED);
    world.steps(
        "
        ann > hangup
        ann:2 > connect chess session=another-page-of-ann epoch=1000000000000 seq=1 n=0
        ann:2 < upgrade, welcome resumed=false n=33, presence_state seq=1
        ",
    );
    for _ in 0..3 {
        world.steps(
            "
            ann:2 > hangup
            ann:2 > connect chess session=another-page-of-ann epoch=1000000000000 seq=1 n=33
            ann:2 < upgrade, welcome resumed=true recovered=true n=33, presence_state seq=1
            ",
        );
    }
    world.advance(Duration::from_secs(1));
    world.steps("bob < nothing");
}
