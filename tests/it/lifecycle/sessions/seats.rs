//! Which seat a client gets, and when a seat is freed.

use lobbyd::Config;
use lobbyd::config::{DuplicateLogin, Limit};

use crate::common::scenario::{World, check};

fn three_seats() -> Config {
    Config { max_per_lobby: Limit::at_most(3), ..Config::default() }
}

#[test]
fn a_seat_is_kept_when_its_connection_is_lost_and_freed_after_the_grace() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome away_ms=30000 done=0 refused="0" replay=0 n=0 resumed=false recovered=false conn=s2
        ann < presence_state seq=1 users=bob,ann away=
        bob < presence_diff +ann
        ann > hangup
        bob < nothing
        advance 999ms
        bob < nothing
        advance 1ms
        bob < presence_diff seq=2 away=ann
        cid > connect chess
        cid < upgrade, welcome !away_ms !done, presence_state users=bob,ann,cid away=ann
        bob < presence_diff +cid
        advance 28999ms
        bob < ping
        bob > pong
        cid < ping
        cid > pong
        bob < nothing
        advance 1ms
        bob < presence_diff -ann:dropped !away
        cid < presence_diff -ann:dropped
        "#,
    );
}

#[test]
fn a_client_that_comes_back_gets_its_seat_and_what_it_missed() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome conn=s2, presence_state seq=1
        bob < presence_diff +ann
        bob > {"type":"broadcast","data":1}
        ann < message from=bob seq=2 data=1
        ann > hangup
        bob > {"type":"broadcast","data":2}
        bob > {"type":"direct","to":"ann","data":3,"ref":"x"}
        bob < ack ref=x
        bob > {"type":"move"}
        advance 1s
        bob < presence_diff seq=5 away=ann
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=2 n=0
        ann < upgrade, welcome conn=s2 resumed=true recovered=true replay=5 n=0 done=0
        ann < message seq=3 data=2, direct from=bob n=1 data=3, message seq=4 data={"type":"move"}
        ann < presence_diff seq=5 away=ann, presence_diff seq=6 back=ann, presence_state seq=6 users=bob,ann away=
        bob < presence_diff seq=6 back=ann
        ann > hangup
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=6 n=1
        ann < upgrade, welcome conn=s2 resumed=true recovered=true replay=0 n=1, presence_state seq=6
        bob < nothing
        "#,
    );
}

#[test]
fn the_socket_of_a_session_that_comes_back_is_closed_even_if_it_looks_alive() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann:2 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < goodbye code=4004, close 4004 replaced
        ann:2 < upgrade, welcome resumed=true recovered=true conn=s2, presence_state
        ann > close 4004
        ann < eof
        advance 20s
        bob < ping
        bob > pong
        ann:2 < ping
        ann:2 > pong
        advance 15s
        bob > {"type":"broadcast","data":1}
        ann:2 < message data=1
        bob < nothing
        "#,
    );
}

#[test]
fn closes_that_are_no_drops_give_the_seat_up_at_once() {
    for (action, reason) in [
        ("close 1000", "left"),
        ("close 4000", "left"),
        ("text {\"type\":\"leave\"}", "left"),
        ("raw \u{8f}0123456789abcdef", "dropped"),
    ] {
        let script = format!(
            "
            bob joins chess
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome, presence_state
            bob < presence_diff +ann
            ann > {action}
            bob < presence_diff -ann:{reason}
            "
        );
        World::new(Config::default(), lobbyd::apps::Relay::default()).steps(&script);
    }
}

#[test]
fn away_seats_count_toward_every_limit_but_not_against_their_user() {
    let config = Config { duplicate_login: DuplicateLogin::Reject, ..three_seats() };
    check(
        config,
        "
        bob, cid join chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome conn=s3, presence_state
        bob < presence_diff +ann
        cid < presence_diff +ann
        ann > hangup
        dan > connect chess
        dan < upgrade, goodbye code=4002 reason=lobby_full reconnect=true retry_after_ms=30010, close 4002 lobby_full
        ann:2 > connect chess session=another-page-of-ann
        ann:2 < upgrade, welcome conn=s3 resumed=false, presence_state users=bob,cid,ann
        bob < nothing
        ann:3 > connect chess session=third-page-of-ann1
        ann:3 < upgrade, goodbye code=4002 reason=lobby_full reconnect=false, close 4002 lobby_full
        ",
    );
}

#[test]
fn a_return_never_displaces_a_newer_login() {
    check(
        Config::default(),
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        ann:2 > connect chess session=another-page-of-ann
        ann < goodbye code=4004, close 4004 replaced
        ann:2 < upgrade, welcome resumed=false conn=s1, presence_state
        ann > close 4004
        ann < eof
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=0 n=0
        ann < upgrade, goodbye code=4004 reconnect=false, close 4004 replaced
        ann:3 > connect chess session=page-of-ann-0001
        ann:2 < goodbye code=4004, close 4004 replaced
        ann:3 < upgrade, welcome resumed=false, presence_state
        ",
    );
}

#[test]
fn a_reloaded_page_continues_the_session_that_it_was() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > {"type":"broadcast","data":0,"ref":1}
        ann < ack ref=1 seq=2
        bob < message
        ann > close 1001
        ann < close 1001 , eof
        bob > {"type":"direct","to":"ann","data":1}
        ann > connect chess session=page-of-ann-0002 was=page-of-ann-0001
        ann < upgrade, welcome conn=s2 resumed=true recovered=false done=0 replay=1 n=33
        ann < direct n=34 data=1, presence_state users=bob,ann
        ann > {"type":"broadcast","data":0,"ref":1}
        ann < ack ref=1 seq=3
        bob < message
        ann > hangup
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome conn=s2 resumed=false, presence_state
        "#,
    );
}

#[test]
fn the_session_of_another_user_or_lobby_is_an_ordinary_join() {
    check(
        Config::default(),
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob > connect chess session=page-of-ann-0001
        bob < upgrade, welcome resumed=false conn=s2, presence_state
        ann < presence_diff +bob
        ann > hangup
        bob:2 > connect go session=page-of-bob-0001 was=page-of-ann-0001
        bob < goodbye code=4004, close 4004 replaced
        bob:2 < upgrade, welcome resumed=false conn=s3, presence_state
        ",
    );
}

#[test]
fn a_session_may_come_back_three_times_in_a_row_and_before_anything_was_said() {
    World::new(Config::default(), lobbyd::apps::Relay::default()).steps(
        r#"
        turn begins
        ann > connect chess session=page-of-ann-0001
        ann > hangup
        ann:2 > connect chess session=page-of-ann-0001
        ann:2 > hangup
        ann:3 > connect chess session=page-of-ann-0001
        ann:3 > {"type":"broadcast","data":1,"ref":1}
        ann:3 > hangup
        ann:4 > connect chess session=page-of-ann-0001
        turn ends
        ann:4 < upgrade, welcome conn=s1 resumed=true recovered=true done=1 refused="0", ack ref=1 seq=1, presence_state seq=1
        "#,
    );
}

#[test]
fn without_a_delay_a_member_is_said_to_be_away_in_the_turn_after_it_is_lost() {
    // The write fails at the end of the turn, after its timers have expired.
    check(
        Config { away_after: std::time::Duration::ZERO, ..Config::default() },
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > break
        bob > {"type":"broadcast","data":1}
        ann < cut
        bob < nothing
        advance 1ms
        bob < presence_diff seq=3 away=ann
        "#,
    );
}
