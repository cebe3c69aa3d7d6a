//! Settings, and lobbies without members.

use lobbyd::Config;
use lobbyd::config::Limit;

use super::on;
use crate::common::scenario::check;

const JOINED: &str = r#"
    ann > connect chess session=page-of-ann-0001
    ann < upgrade, welcome, presence_state, lobby_state
"#;

#[test]
fn settings_apply_to_those_that_come_afterwards() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            ann > {{"type":"settings","settings":{{"max":2,"name":"The den","tags":{{"game":"chess"}}}},"ref":1}}
            ann < settings seq=1 by=ann settings={{"max":2,"name":"The den","tags":{{"game":"chess"}}}}, ack seq=1
            bob > connect chess session=page-of-bob-0001
            bob < upgrade, welcome, presence_state
            bob < lobby_state settings={{"max":2,"locked":false,"listed":false,"name":"The den",\
                "tags":{{"game":"chess"}},"has_password":false,"write":"host","watchers":32,"start":null,"empty_ttl_ms":0}}
            ann < presence_diff +bob
            cid > connect chess
            cid < upgrade, goodbye, close 4002 lobby_full
            ann > {{"type":"settings","settings":{{"max":1,"locked":true}}}}
            ann < settings
            bob < settings settings={{"max":1,"locked":true}}
            bob > leave
            bob < goodbye, close 1000 left
            ann < presence_diff -bob:left
            bob:2 > connect chess session=page-of-bob-0002
            bob:2 < upgrade, goodbye, close 4002 lobby_locked
            ann > {{"type":"settings","settings":{{"max":null,"locked":null}}}}
            ann < settings settings={{"max":10,"locked":false}}
            bob:3 > connect chess session=page-of-bob-0002
            bob:3 < upgrade, welcome, *
            ann < presence_diff +bob
            bob:3 > {{"type":"settings","settings":{{"max":4}},"ref":1}}
            bob:3 < error code=not_allowed
            "#
        ),
    );
}

#[test]
fn a_setting_that_breaks_a_rule_changes_nothing() {
    check(
        Config { max_strikes: 0, ..on() },
        &format!(
            r#"{JOINED}
            ann > {{"type":"settings","settings":{{"locked":true,"max":11}},"ref":1}}
            ann < error ref=1 code=bad_message message="max is 11: it must be from 1 to 10"
            bob > connect chess
            bob < upgrade, welcome, *
            ann < presence_diff +bob
            "#
        ),
    );
}

#[test]
fn operators_lock_lobbies_where_members_see_it() {
    let mut world = crate::common::scenario::World::new(on(), lobbyd::apps::Relay::default());
    world.steps(JOINED);
    let lock = lobbyd::operator::OperatorCommand::Lock { lobby: "chess".into(), locked: true };
    world.engine.handle_operator(world.now, lock).expect("the lobby exists");
    world.run(
        r#"
        advance 1ms
        ann < settings seq=1 by=null settings={"locked":true}
        bob > connect chess
        bob < upgrade, goodbye, close 4002 lobby_locked
        "#,
    );
}

#[test]
fn a_lobby_is_kept_without_members_for_its_time() {
    check(
        on(),
        &format!(
            r#"{JOINED}
            ann > {{"type":"settings","settings":{{"empty_ttl_ms":60000}}}}
            ann < settings
            ann > {{"type":"set","data":{{"round":3}}}}
            ann < state
            ann > leave
            ann < goodbye, close 1000 left
            advance 59999ms
            bob > connect chess session=page-of-bob-0001
            bob < upgrade, welcome seq=2, presence_state, lobby_state seq=2 host=s2 data={{"round":3}}
            bob > leave
            bob < goodbye, close 1000 left
            advance 60s
            bob:2 > connect chess session=page-of-bob-0001
            bob:2 < upgrade, welcome seq=0, presence_state, lobby_state data={{}}
            ann < *
            bob < *
            "#
        ),
    );
}

#[test]
fn the_lobby_that_is_empty_for_the_longest_time_gives_way() {
    check(
        Config { max_lobbies: Limit::at_most(2), ..on() },
        &format!(
            r#"{JOINED}
            ann > {{"type":"settings","settings":{{"empty_ttl_ms":60000}}}}
            ann < settings
            ann > leave
            ann < goodbye, close 1000 left
            advance 1s
            bob > connect go session=page-of-bob-0001
            bob < upgrade, welcome, presence_state, lobby_state
            bob > {{"type":"settings","settings":{{"empty_ttl_ms":60000}}}}
            bob < settings
            bob > leave
            bob < goodbye, close 1000 left
            cid > connect tarok
            cid < upgrade, welcome, *
            ann:2 > connect go
            ann:2 < upgrade, welcome seq=1, *
            bob:2 > connect chess
            bob:2 < upgrade, goodbye, close 4002 lobby_limit
            "#
        ),
    );
}
