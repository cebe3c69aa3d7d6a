//! The host: who it is, when it moves, and what it may do.

use std::time::Duration;

use lobbyd::Config;

use super::on;
use crate::common::scenario::check;

const JOINED: &str = r#"
    ann > connect chess session=page-of-ann-0001
    ann < upgrade, welcome, presence_state, lobby_state host=s1
    bob > connect chess session=page-of-bob-0001
    bob < upgrade, welcome, presence_state seq=1, lobby_state seq=1 host=s1
    ann < presence_diff +bob
    cid > connect chess session=page-of-cid-0001
    cid < upgrade, welcome, presence_state seq=2, lobby_state seq=2 host=s1
    ann < presence_diff +cid
    bob < presence_diff +cid
"#;

#[test]
fn the_next_member_becomes_the_host_when_the_host_leaves() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            ann > leave
            ann < goodbye, close 1000 left
            bob < presence_diff seq=3 -ann:left, host seq=4 conn=s2
            cid < presence_diff seq=3 -ann, host seq=4
            bob > leave
            bob < goodbye, close 1000 left
            cid < presence_diff -bob:left, host seq=6 conn=s3
            "#
        ),
    );
}

#[test]
fn a_host_that_is_away_stays_the_host_for_the_grace() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            ann > hangup
            advance 1s
            bob < presence_diff away=ann
            cid < presence_diff away=ann
            advance 3999ms
            bob < nothing
            ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=2 n=0
            ann < upgrade, welcome resumed=true, presence_diff, presence_diff back=ann, presence_state, lobby_state host=s1
            bob < presence_diff back=ann
            cid < presence_diff
            advance 10s
            bob < nothing
            ann > hangup
            advance 1s
            bob < presence_diff away=ann
            cid < presence_diff
            advance 4s
            bob < host seq=6 conn=s2
            cid < host
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome resumed=true, *
            bob < presence_diff back=ann
            cid < presence_diff
            ann > {{"type":"settings","settings":{{"max":4}},"ref":1}}
            ann < error code=not_allowed
            "#
        ),
    );
}

#[test]
fn while_nobody_is_present_the_host_does_not_change() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            turn begins
            ann > hangup
            bob > hangup
            cid > hangup
            turn ends
            advance 20s
            bob > connect chess session=page-of-bob-0001 epoch=1000000000000 seq=2 n=0
            bob < upgrade, welcome resumed=true replay=2, presence_diff, presence_diff
            bob < presence_state, lobby_state host=s1, host conn=s2
            "#
        ),
    );
}

#[test]
fn a_member_without_a_session_is_never_the_host() {
    check(
        on(),
        r#"
        zoe > connect chess
        zoe < upgrade, welcome, presence_state, lobby_state host=null
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state seq=2, lobby_state seq=2 host=s2
        zoe < presence_diff seq=1 +ann, host seq=2 conn=s2
        ann:2 > connect chess token=ann
        ann:2 < upgrade, welcome resumed=false, presence_state, lobby_state host=s2
        ann < goodbye, close 4004 replaced
        bob > connect chess session=page-of-bob-0001
        bob < upgrade, welcome, presence_state, lobby_state host=s3
        zoe < presence_diff +bob, host conn=s3
        ann:2 < presence_diff +bob, host conn=s3
        "#,
    );
}

#[test]
fn the_host_hands_over() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            bob > {{"type":"host","conn":"s2","ref":1}}
            bob < error code=not_allowed
            ann > {{"type":"host","conn":"s9","ref":1}}
            ann < error code=user_not_found
            ann > {{"type":"host","conn":"s3","ref":2}}
            ann < host seq=3 conn=s3, ack ref=2 seq=3
            bob < host
            cid < host
            ann > {{"type":"host","conn":"s1","ref":3}}
            ann < error code=not_allowed
            ann > hangup
            cid > {{"type":"host","conn":"s1","ref":1}}
            cid < error code=not_allowed message="the member is away, or has no session: it cannot be the host"
            "#
        ),
    );
}

#[test]
fn the_host_kicks_and_bans() {
    check(
        Config { seat_grace: Duration::from_secs(5), ..on() },
        &format!(
            r#"{JOINED}
            bob > {{"type":"kick","user":"cid","ref":1}}
            bob < error code=not_allowed
            ann > {{"type":"kick","user":"zoe","ref":1}}
            ann < error code=user_not_found
            ann > {{"type":"kick","user":"ann","ref":2}}
            ann < error code=not_allowed
            ann > {{"type":"kick","user":"cid","ref":3}}
            cid < goodbye code=4003, close 4003 kicked
            ann < ack ref=3 !seq, presence_diff -cid:kicked
            bob < presence_diff -cid:kicked
            cid:2 > connect chess session=page-of-cid-0001
            cid:2 < upgrade, goodbye, close 4003 kicked
            advance 6s
            cid:3 > connect chess session=page-of-cid-0001
            cid:3 < upgrade, welcome, presence_state, lobby_state
            ann < presence_diff +cid
            bob < presence_diff +cid
            cid:3 > hangup
            ann > {{"type":"kick","user":"cid","ban":true,"ref":4}}
            ann < ack, presence_diff -cid:kicked
            bob < presence_diff -cid:kicked
            advance 6s
            cid:4 > connect chess session=page-of-cid-0001
            cid:4 < upgrade, goodbye code=4003 reconnect=false, close 4003 banned
            ann > {{"type":"unban","user":"cid","ref":5}}
            ann < ack
            ann > {{"type":"unban","user":"cid","ref":6}}
            ann < error code=user_not_found
            cid:5 > connect chess session=page-of-cid-0001
            cid:5 < upgrade, welcome, *
            ann < presence_diff +cid
            bob < presence_diff +cid
            cid < *
            cid:2 < *
            "#
        ),
    );
}

#[test]
fn the_oldest_ban_ends_when_there_are_too_many() {
    check(
        Config { max_bans: 1, ..on() },
        &format!(
            r#"{JOINED}
            ann > {{"type":"kick","user":"zoe","ban":true,"ref":1}}
            ann < ack
            ann > {{"type":"kick","user":"yan","ban":true,"ref":2}}
            ann < ack
            yan > connect chess
            yan < upgrade, goodbye, close 4003 banned
            zoe > connect chess
            zoe < upgrade, welcome, *
            ann < presence_diff +zoe
            bob < presence_diff +zoe
            cid < presence_diff +zoe
            "#
        ),
    );
}

#[test]
fn the_lobby_ends_with_its_last_seat() {
    check(
        Config { seat_grace: Duration::from_secs(3), ..on() },
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state, lobby_state host=s1
        ann > {"type":"set","data":{"a":1}}
        ann < state
        ann > hangup
        advance 3s
        bob > connect chess session=page-of-bob-0001
        bob < upgrade, welcome seq=0, presence_state, lobby_state host=s2 data={}
        "#,
    );
}

#[test]
fn a_kicked_user_without_a_session_is_kept_out_too() {
    check(
        Config { seat_grace: Duration::from_secs(5), ..on() },
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state, lobby_state host=s1
        bob > connect chess
        bob < upgrade, welcome, *
        ann < presence_diff +bob
        ann > {"type":"kick","user":"bob"}
        bob < goodbye, close 4003 kicked
        ann < presence_diff -bob:kicked
        bob:2 > connect chess
        bob:2 < upgrade, goodbye, close 4003 kicked
        advance 6s
        bob:3 > connect chess
        bob:3 < upgrade, welcome, *
        ann < presence_diff +bob
        bob < *
        bob:2 < *
        "#,
    );
}
