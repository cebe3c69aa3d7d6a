//! Ready checks, the countdown and the start.

use super::on;
use crate::common::scenario::check;

const READY: &str = r#"
    ann > connect chess session=page-of-ann-0001
    ann < upgrade, welcome, presence_state, lobby_state
    ann > {"type":"settings","settings":{"start":{"min":2,"ready":true,"countdown_ms":3000}}}
    ann < settings settings={"start":{"min":2,"ready":true,"countdown_ms":3000}}
    ann > {"type":"set","of":"s1","data":{"ready":true}}
    ann < state
    bob > connect chess session=page-of-bob-0001
    bob < upgrade, welcome, presence_state, lobby_state
    ann < presence_diff +bob
    bob > {"type":"set","of":"s2","data":{"ready":true},"ref":1}
    bob < state seq=4, ack seq=4, countdown seq=5 at=1000003000
    ann < state, countdown seq=5 at=1000003000
"#;

#[test]
fn a_lobby_starts_when_all_are_ready_and_the_countdown_is_over() {
    check(
        on(),
        &format!(
            r#"{READY}
            cid > connect chess
            cid < upgrade, goodbye, close 4002 lobby_locked
            bob > {{"type":"presence"}}
            bob < presence_state, lobby_state countdown=1000003000
            advance 2999ms
            bob < nothing
            advance 1ms
            ann < start seq=6 seats=[{{"user":"ann","conn":"s1"}},{{"user":"bob","conn":"s2"}}]
            ann < settings seq=7 by=null settings={{"locked":true,"start":null}}
            bob < start, settings
            cid:2 > connect chess
            cid:2 < upgrade, goodbye, close 4002 lobby_locked
            cid < *
            advance 10s
            ann < nothing
            cid:2 < *
            "#
        ),
    );
}

#[test]
fn the_countdown_is_cancelled_when_somebody_is_not_ready_any_more() {
    check(
        on(),
        &format!(
            r#"{READY}
            bob > {{"type":"set","of":"s2","data":{{"ready":null}}}}
            bob < state seq=6, countdown seq=7 at=null
            ann < state, countdown at=null
            advance 5s
            ann < nothing
            "#
        ),
    );
}

#[test]
fn the_countdown_is_cancelled_when_a_member_is_away() {
    check(
        on(),
        &format!(
            r#"{READY}
            bob > hangup
            ann < countdown seq=6 at=null
            bob > connect chess session=page-of-bob-0001 epoch=1000000000000 seq=5 n=0
            bob < upgrade, welcome resumed=true replay=1, countdown seq=6 at=null, presence_state, lobby_state !countdown
            bob < countdown seq=7 at=1000003000
            ann < countdown seq=7 at=1000003000
            advance 3s
            ann < start, settings
            bob < start, settings
            "#
        ),
    );
}

#[test]
fn the_countdown_is_cancelled_when_a_member_leaves_or_the_setting_changes() {
    check(
        on(),
        &format!(
            r#"{READY}
            ann > {{"type":"settings","settings":{{"start":{{"min":3}}}}}}
            ann < settings, countdown at=null
            bob < settings, countdown
            ann > {{"type":"settings","settings":{{"start":{{"min":2,"ready":true,"countdown_ms":1000}}}}}}
            ann < settings, countdown at=1000001000
            bob < settings, countdown
            bob > leave
            bob < goodbye, close 1000 left
            ann < presence_diff -bob:left, countdown at=null
            "#
        ),
    );
}

#[test]
fn without_a_countdown_the_lobby_starts_at_once() {
    check(
        on(),
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state, lobby_state
        ann > {"type":"settings","settings":{"start":{"min":1,"ready":false}},"ref":1}
        ann < settings seq=1, ack seq=1, start seq=2 seats=[{"user":"ann","conn":"s1"}]
        ann < settings seq=3 settings={"locked":true,"start":null}
        "#,
    );
}

#[test]
fn the_start_of_a_large_lobby_has_the_number_of_its_members() {
    check(
        lobbyd::Config { presence_max: 1, ..on() },
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state, lobby_state
        bob > connect chess session=page-of-bob-0001
        bob < upgrade, welcome, presence_state count=2, lobby_state host=s1
        ann < presence_state count=2
        ann > {"type":"settings","settings":{"start":{"min":2,"ready":false}}}
        ann < settings, start !seats count=2, settings
        bob < settings, start count=2, settings
        "#,
    );
}
