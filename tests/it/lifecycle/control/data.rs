//! Data of lobbies and members.

use lobbyd::Config;
use lobbyd::config::ByteSize;

use super::on;
use crate::common::scenario::check;

const JOINED: &str = r#"
    ann > connect chess session=page-of-ann-0001
    ann < upgrade, welcome, presence_state
    ann < lobby_state seq=0 host=s1 data={} watchers=0 !countdown
    bob > connect chess session=page-of-bob-0001
    bob < upgrade, welcome, presence_state seq=1, lobby_state seq=1 host=s1
    ann < presence_diff +bob
"#;

#[test]
fn all_members_are_sent_what_the_host_sets() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            ann > {{"type":"set","data":{{"map":"e4","round":1}},"ref":1}}
            ann < state seq=2 by=ann !conn data={{"map":"e4","round":1}}, ack ref=1 seq=2
            bob < state seq=2 by=ann data={{"map":"e4","round":1}}
            ann > {{"type":"set","data":{{"map":null}}}}
            ann < state seq=3 data={{"map":null}}
            bob < state seq=3
            cid > connect chess
            cid < upgrade, welcome, presence_state seq=4, lobby_state seq=4 host=s1 data={{"round":1}}
            ann < presence_diff +cid
            bob < presence_diff +cid
            "#
        ),
    );
}

#[test]
fn members_write_their_own_data_and_the_host_that_of_all() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            bob > {{"type":"set","of":"s2","data":{{"ready":true}},"ref":1}}
            bob < state seq=2 by=bob conn=s2 data={{"ready":true}}, ack ref=1 seq=2
            ann < state seq=2 by=bob conn=s2
            ann > {{"type":"set","of":"s2","data":{{"team":"red"}},"ref":1}}
            ann < state seq=3 by=ann conn=s2, ack
            bob < state seq=3
            bob > {{"type":"set","of":"s1","data":{{"team":"red"}},"ref":2}}
            bob < error ref=2 code=not_allowed
            bob > {{"type":"set","data":{{"round":1}},"ref":3}}
            bob < error ref=3 code=not_allowed
            ann > {{"type":"set","of":"s7","data":{{"team":"red"}},"ref":2}}
            ann < error ref=2 code=user_not_found
            bob > {{"type":"presence"}}
            bob < presence_state \
                users=[{{"user":"ann","conn":"s1"}},{{"user":"bob","conn":"s2","data":{{"ready":true,"team":"red"}}}}]
            bob < lobby_state seq=3
            ann > {{"type":"settings","settings":{{"write":"all"}}}}
            ann < settings seq=4 by=ann settings={{"write":"all"}}
            bob < settings seq=4
            bob > {{"type":"set","data":{{"round":1}},"ref":4}}
            bob < state seq=5 by=bob, ack ref=4 seq=5
            ann < state seq=5
            "#
        ),
    );
}

#[test]
fn a_conditional_change_is_refused_if_a_key_has_changed_since() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            ann > {{"type":"settings","settings":{{"write":"all"}}}}
            ann < settings seq=2
            bob < settings
            bob > {{"type":"set","data":{{"turn":1}},"if":2,"ref":1}}
            bob < state seq=3, ack
            ann < state
            ann > {{"type":"set","data":{{"turn":2,"other":1}},"if":2,"ref":1}}
            ann < error ref=1 code=conflict seq=3 data={{"turn":1,"other":null}}
            ann > {{"type":"set","data":{{"other":1}},"if":2,"ref":2}}
            ann < state seq=4, ack
            bob < state
            ann > {{"type":"set","data":{{"turn":null}},"if":3,"ref":3}}
            ann < state seq=5, ack
            bob < state
            bob > {{"type":"set","data":{{"turn":9}},"if":4,"ref":2}}
            bob < error code=conflict seq=5 data={{"turn":null}}
            bob > {{"type":"set","of":"s2","data":{{"ready":true}},"if":0,"ref":3}}
            bob < state seq=6, ack
            ann < state
            ann > {{"type":"set","of":"s2","data":{{"ready":false}},"if":5,"ref":4}}
            ann < error code=conflict seq=6 data={{"ready":true}}
            "#
        ),
    );
}

#[test]
fn data_that_exceeds_a_bound_is_refused_and_changes_nothing() {
    let config = Config {
        max_lobby_keys: 2,
        max_lobby_data: ByteSize(30),
        max_member_keys: 2,
        max_member_data: ByteSize(30),
        max_members_data: ByteSize(40),
        ..on()
    };
    check(
        config,
        &format!(
            r#"{JOINED}
            ann > {{"type":"set","data":{{"a":1,"b":2,"c":3}},"ref":1}}
            ann < error ref=1 code=too_large \
                message="the lobby would have 3 keys of data: at most 2 are allowed"
            ann > {{"type":"set","data":{{"a":"xxxxxxxxxxxxxxxxxxxxxxxx"}},"ref":2}}
            ann < error ref=2 code=too_large \
                message="the lobby would have 31 bytes of data: at most 30 are allowed"
            ann > {{"type":"set","data":{{"a":"xxxxxxxxxxxxxxxxxxxxxxx"}},"ref":3}}
            ann < state seq=2, ack
            bob < state
            ann > {{"type":"set","data":{{"a":null,"b":"xxxxxxxxxxxxxxxxxxxxxxx"}},"ref":4}}
            ann < state seq=3, ack
            bob < state
            ann > {{"type":"set","of":"s1","data":{{"a":"xxxxxxxxxxxxxxxxxxxxxxx"}},"ref":5}}
            ann < state seq=4, ack
            bob < state
            bob > {{"type":"set","of":"s2","data":{{"a":"xxxxxxx"}},"ref":1}}
            bob < error code=too_large \
                message="all members together would have 44 bytes of data: at most 40 are allowed"
            bob > {{"type":"set","of":"s2","data":{{"a":1,"b":2,"c":3}},"ref":3}}
            bob < error code=too_large message="a member would have 3 keys of data: at most 2 are allowed"
            bob > {{"type":"set","of":"s2","data":{{"a":"xxxxxxxxxxxxxxxxxxxxxxxx"}},"ref":4}}
            bob < error code=too_large message="a member would have 31 bytes of data: at most 30 are allowed"
            ann > leave
            ann < goodbye, close 1000 left
            bob < presence_diff -ann:left, host seq=6 conn=s2
            bob > {{"type":"set","of":"s2","data":{{"a":"xxxxxxx"}},"ref":5}}
            bob < state seq=7, ack
            "#
        ),
    );
}

#[test]
fn malformed_requests_are_strikes_with_the_rule() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            ann > {{"type":"set","data":[1],"ref":1}}
            ann < error ref=1 code=bad_message message="data must be an object"
            ann > {{"type":"state","data":{{"a":1}},"ref":2}}
            ann < error ref=2 code=bad_message message="only the server sends this type"
            ann > {{"type":"kick","ref":3}}
            ann < error ref=3 code=bad_message message="user must be a string"
            "#
        ),
    );
}

#[test]
fn a_session_that_comes_back_is_sent_what_has_changed() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            ann > {{"type":"set","data":{{"round":1}},"ref":1}}
            ann < state seq=2, ack
            bob < state
            bob > hangup
            ann > {{"type":"set","data":{{"round":2}},"ref":2}}
            ann < state seq=3, ack
            ann > {{"type":"settings","settings":{{"max":4}}}}
            ann < settings seq=4
            bob > connect chess session=page-of-bob-0001 epoch=1000000000000 seq=2 n=0
            bob < upgrade, welcome resumed=true recovered=true replay=2
            bob < state seq=3 data={{"round":2}}, settings seq=4 settings={{"max":4}}
            bob < presence_state seq=4, lobby_state seq=4 data={{"round":2}}
            ann > hangup
            bob > {{"type":"set","of":"s2","data":{{"x":1}},"ref":1}}
            bob < state seq=5, ack
            ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=4 n=0
            ann < upgrade, welcome resumed=true replay=1 done=2, state seq=5, presence_state, lobby_state host=s1
            "#
        ),
    );
}

#[test]
fn the_words_are_the_applications_without_a_session_or_with_lobby_control_off() {
    let script = r#"
        ann, bob join chess
        ann > {"type":"set","data":5,"ref":1}
        ann < ack ref=1 seq=2
        bob < message seq=2 data={"type":"set","data":5,"ref":1}
        ann > {"type":"state","ref":2}
        ann < ack ref=2 seq=3
        bob < message seq=3
    "#;
    check(Config::default(), script);
    check(
        on(),
        &script.replace(
            "ann, bob join chess",
            "
        ann > connect chess
        ann < upgrade, welcome, presence_state, lobby_state host=null
        bob > connect chess
        bob < upgrade, welcome, presence_state, lobby_state host=null
        ann < presence_diff +bob",
        ),
    );
    check(
        Config::default(),
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        ann > {"type":"set","data":5,"ref":1}
        ann < ack ref=1 seq=1
        "#,
    );
}

#[test]
fn changes_wait_for_the_tick() {
    check(
        Config { tick_hz: Some(10), ..on() },
        &format!(
            r#"{JOINED}
            ann > {{"type":"set","data":{{"a":1}},"ref":1}}
            ann < nothing
            advance 100ms
            ann < state seq=2, ack ref=1 seq=2
            bob < state
            "#
        ),
    );
}
