//! `/ws/~lobbies` and `/sse/~lobbies`.

use std::time::Duration;

use lobbyd::config::{ByteSize, Limit};
use lobbyd::{Config, Random};

use super::{View, finish, on, open, quiet, recorded, set};
use crate::common::scenario::check;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn changes_are_told_at_most_once_a_second() {
    check(
        on(),
        r#"
        eve > connect ~lobbies
        eve < upgrade, {"type":"lobbies","lobbies":[],"more":false}
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state, lobby_state
        ann > {"type":"settings","settings":{"listed":true,"name":"A \"game\"","tags":{"game":"chess"},"max":2}}
        ann < settings
        eve < nothing
        advance 1s
        eve < {"type":"lobbies_diff","set":[{"code":"chess","name":"A \"game\"","tags":{"game":"chess"},"members":1,"max":2,"has_password":false}],"gone":[]}
        # Changes that end as they began are none.
        ann > {"type":"settings","settings":{"locked":true}}
        ann > {"type":"settings","settings":{"locked":false}}
        ann < settings, settings
        advance 1s
        # The lobby was gone for a moment: it is told again.
        eve < lobbies_diff
        ann > {"type":"settings","settings":{"password":"rose"}}
        ann > {"type":"settings","settings":{"name":null,"tags":{}}}
        ann < settings, settings
        advance 1s
        eve < {"type":"lobbies_diff","set":[{"code":"chess","name":null,"tags":{},"members":1,"max":2,"has_password":true}],"gone":[]}
        # It is full now.
        bob > connect chess password=rose
        bob < upgrade, welcome, presence_state, lobby_state
        ann < presence_diff +bob
        advance 1s
        eve < {"type":"lobbies_diff","set":[],"gone":["chess"]}
        bob > leave
        bob < goodbye, close 1000 left
        bob > close 1000
        bob < eof
        ann < presence_diff -bob:left
        advance 1s
        eve < lobbies_diff gone=[]
        ann > {"type":"settings","settings":{"listed":false}}
        ann < settings
        advance 1s
        eve < {"type":"lobbies_diff","set":[],"gone":["chess"]}
        advance 5s
        eve < nothing
        "#,
    );
}

/// The first change after a pause is told at once, and the next one a second later.
#[test]
fn a_server_without_changes_does_not_wake_up() {
    let mut world = recorded(on());
    world.steps("eve > connect ~lobbies\neve < upgrade, lobbies");
    open(&mut world, "chess", "");
    world.steps("advance 1s\neve < lobbies_diff");
    let next = world.engine.poll_timeout().expect("the next ping");
    assert!(next >= world.now + SECOND * 10, "{next:?} at {:?}", world.now);
    world.steps("advance 5s");
    set(&mut world, "chess", r#"{"max":3}"#);
    world.steps("advance 0s\neve < lobbies_diff");
    set(&mut world, "chess", r#"{"max":4}"#);
    world.steps("advance 999ms\neve < nothing\nadvance 1ms\neve < lobbies_diff");
    // Without anybody that follows the list, no change is looked at.
    world.steps("eve > leave\neve < goodbye, close 1000 left");
    set(&mut world, "chess", r#"{"max":5}"#);
    assert!(world.engine.poll_timeout().is_none_or(|next| next > world.now + SECOND));
    finish(world);
}

#[test]
fn filters_select_lobbies_by_pool_and_tags() {
    let mut world = recorded(on());
    open(&mut world, "a", r#","tags":{"game":"chess","map":"x"}"#);
    open(&mut world, "b", r#","tags":{"game":"chess","map":"y"}"#);
    open(&mut world, "c", r#","tags":{"game":"go"}"#);
    world.steps("d > connect ~quick/fun session=page-of-quick-0001");
    set(&mut world, "d", r#"{"listed":true,"tags":{"game":"chess"}}"#);
    for (name, filter, count) in [
        ("u", "", 4),
        ("v", "tag.game=chess", 3),
        ("w", "tag.map=y tag.game=chess", 1),
        ("x", "pool=fun", 1),
        ("y", "pool=fun tag.game=go", 0),
        ("z", "tag.game=Chess", 0),
    ] {
        world.steps(&format!("{name} > connect ~lobbies {filter}"));
        let mut view = View::default();
        view.read(&mut world, name);
        assert_eq!((view.lobbies.len(), view.more, view.frames), (count, false, (1, 0)), "{filter}");
        view.check(&mut world, &filter.replace(' ', "&"));
    }
    set(&mut world, "c", r#"{"tags":{"game":"chess"}}"#);
    world.steps(
        "advance 1s\nu < lobbies_diff gone=[]\nv < lobbies_diff gone=[]\nw < nothing\nx < nothing\ny < nothing\nz < nothing",
    );
    set(&mut world, "b", r#"{"tags":null}"#);
    world.steps(r#"advance 1s"#);
    world.steps(r#"v < lobbies_diff set=[] gone=["b"]"#);
    world.steps(r#"w < lobbies_diff set=[] gone=["b"]"#);
    world.steps("u < lobbies_diff gone=[]\nx < nothing");
    assert_eq!(world.engine.stats().list_watchers, 6);
    finish(world);
}

#[test]
fn a_lobby_that_is_created_anew_under_its_code_is_there() {
    let mut world = recorded(on());
    open(&mut world, "chess", r#","name":"old""#);
    world.steps("eve > connect ~lobbies\neve < upgrade, lobbies\nchess > leave\nchess > hangup");
    open(&mut world, "chess", r#","name":"new""#);
    world.steps("advance 1s");
    let mut view = View::default();
    view.read(&mut world, "eve");
    assert_eq!(view.lobbies["chess"]["name"], "new");
    view.check(&mut world, "");
    finish(world);
}

/// Lobbies come and go at random, and so do clients that follow the list. After each update every view is the first page.
#[test]
fn every_view_is_the_first_page_of_the_list() {
    let filters = ["", "tag.game=chess", "tag.game=chess&tag.map=x", "pool=fun"];
    let config = Config {
        lists_per_minute: Limit::UNLIMITED,
        max_per_lobby: Limit::at_most(3),
        // No seat is freed shortly before a view is compared.
        seat_grace: Duration::from_secs(3600),
        ..quiet()
    };
    let mut world = recorded(config);
    let mut random = Random::new(11);
    let mut views: Vec<(String, &str, View)> = Vec::new();
    let mut created = 0;
    for step in 0..60 {
        for _ in 0..1 + random.below(12) {
            match random.below(6) {
                0 | 1 => {
                    created += 1;
                    let name = format!("n{created}");
                    let target = ["~quick/fun seats=2", &name][random.below(2) as usize];
                    world.steps(&format!("{name} > connect {target} session=page-of-{name:_>16}"));
                    world.take(&name);
                    world.steps(&format!(
                        r#"{name} > {{"type":"settings","settings":{{"listed":true,"tags":{{"game":"{}","map":"{}"}}}}}}"#,
                        ["chess", "go"][random.below(2) as usize],
                        ["x", "y"][random.below(2) as usize]
                    ));
                }
                2 if created > 0 => {
                    let name = format!("n{}", 1 + random.below(created));
                    if world.is_open(&name) {
                        let end = ["leave", "hangup"][random.below(2) as usize];
                        world.steps(&format!("{name} > {end}"));
                        if end == "leave" {
                            world.steps(&format!("{name} > hangup"));
                        }
                    }
                }
                3 if created > 0 => {
                    let name = format!("n{}", 1 + random.below(created));
                    let settings =
                        [r#""locked":true"#, r#""locked":false"#, r#""max":1"#, r#""max":3"#, r#""password":"p""#]
                            [random.below(5) as usize];
                    if world.is_open(&name) {
                        world.steps(&format!(r#"{name} > {{"type":"settings","settings":{{{settings}}}}}"#));
                    }
                }
                4 if views.len() < 12 => {
                    let (name, filter) = (format!("view{step}-{}", views.len()), filters[random.below(4) as usize]);
                    world.steps(&format!("{name} > connect ~lobbies {}", filter.replace('&', " ")));
                    views.push((name, filter, View::default()));
                }
                5 if !views.is_empty() => {
                    let at = random.below(views.len() as u64) as usize;
                    let (name, _, view) = &mut views[at];
                    view.read(&mut world, name);
                }
                _ => {}
            }
            world.advance(Duration::from_millis(random.below(60)));
        }
        world.advance(SECOND + Duration::from_millis(200));
        for (name, filter, view) in &mut views {
            view.read(&mut world, name);
            view.check(&mut world, filter);
        }
        (1..=created).for_each(|n| drop(world.take(&format!("n{n}"))));
    }
    assert!(views.iter().any(|(_, _, view)| view.frames.1 > 20));
    finish(world);
}

#[test]
fn the_window_is_the_oldest_100_lobbies() {
    let mut world = recorded(on());
    for n in 0..103 {
        open(&mut world, &format!("n{n}"), "");
    }
    world.steps("eve > connect ~lobbies");
    let mut view = View::default();
    view.read(&mut world, "eve");
    assert!(view.more && view.lobbies.len() == 100 && !view.lobbies.contains_key("n100"));
    // A change behind the window is none in it.
    set(&mut world, "n101", r#"{"name":"other"}"#);
    world.steps("advance 1s\neve < nothing");
    // One leaves the window, and the next one comes in.
    set(&mut world, "n7", r#"{"locked":true}"#);
    world.steps("advance 1s");
    view.read(&mut world, "eve");
    assert!(view.lobbies.contains_key("n100") && !view.lobbies.contains_key("n7"));
    view.check(&mut world, "");
    set(&mut world, "n7", r#"{"locked":false}"#);
    world.steps("advance 1s");
    view.read(&mut world, "eve");
    assert!(!view.lobbies.contains_key("n100"));
    view.check(&mut world, "");
    assert_eq!(view.frames, (1, 2));
    finish(world);
}

/// Nothing piles up for a socket that takes no bytes. When it takes some again, it gets the whole list, once.
#[test]
fn a_slow_reader_receives_the_list_anew() {
    let mut world = recorded(quiet());
    open(&mut world, "chess", "");
    world.steps("eve > connect ~lobbies\nfay > connect ~lobbies\nfay < upgrade, lobbies\neve < upgrade, lobbies");
    world.steps("eve > window 10");
    for n in 0..20 {
        set(&mut world, "chess", &format!(r#"{{"name":"{n}"}}"#));
        world.steps("advance 1s\nfay < lobbies_diff\neve < nothing");
        let queued = world.engine.queued_bytes(world.conn("eve"));
        assert!((1..400).contains(&queued), "{queued}");
    }
    world.steps("eve > read\neve < lobbies_diff\nadvance 1s");
    let mut view = View::default();
    view.read(&mut world, "eve");
    assert_eq!(view.frames, (1, 0));
    view.check(&mut world, "");
    // From now on it gets the differences again.
    set(&mut world, "chess", r#"{"name":"last"}"#);
    world.steps("advance 1s\nfay < lobbies_diff\neve < lobbies_diff\nadvance 5s\neve < nothing\nfay < nothing");
    finish(world);
}

/// A client that comes between two updates knows more than its group. It gets the whole list with the next update.
#[test]
fn a_newcomer_misses_no_change() {
    let mut world = recorded(on());
    open(&mut world, "chess", "");
    open(&mut world, "go", "");
    world.steps("eve > connect ~lobbies\neve < upgrade, lobbies\nadvance 1s");
    set(&mut world, "chess", r#"{"locked":true}"#);
    world.steps("advance 0s\neve < lobbies_diff");
    set(&mut world, "chess", r#"{"locked":false}"#);
    world.steps("fay > connect ~lobbies");
    let mut view = View::default();
    view.read(&mut world, "fay");
    assert_eq!(view.lobbies.len(), 2);
    // For eve, nothing has happened: fay has to forget the lobby nevertheless.
    set(&mut world, "chess", r#"{"locked":true}"#);
    world.steps("advance 1s\neve < nothing");
    view.read(&mut world, "fay");
    view.check(&mut world, "");
    assert_eq!((view.lobbies.len(), view.frames), (1, (2, 0)));
    finish(world);
}

#[test]
fn only_ping_and_leave_are_understood() {
    let config = Config { max_strikes: 4, ..on() };
    check(
        config,
        r#"
        eve > connect ~lobbies session=page-of-eve-0001
        eve < upgrade, lobbies
        eve > {"type":"ping","ref":1}
        eve < pong ref=1 server_time=1000000000
        eve > {"type":"health_pong","timestamp":5,"ref":2}
        eve < ack ref=2
        eve > ping hello
        eve < pong hello
        eve > {"type":"broadcast","data":1,"ref":3}
        eve < error ref=3 code=not_allowed
        eve > {"type":"set","data":{"a":1}}
        eve < error code=not_allowed
        eve > {"type":"presence"}
        eve < error code=not_allowed
        eve > {"type":
        eve < error code=bad_message
        eve > binary x
        eve < goodbye, close 4005 bad_message
        eve > close
        eve < eof
        fay > connect ~lobbies
        fay < upgrade, lobbies
        fay > {"type":"leave","ref":"x"}
        fay < ack ref=x, goodbye code=1000 reason=left, close 1000 left
        "#,
    );
}

#[test]
fn a_connection_is_kept_alive_and_closed_as_others_are() {
    let config = Config { max_lifetime: Some(Duration::from_secs(100)), ..on() };
    check(
        config,
        r#"
        eve > connect ~lobbies
        eve < upgrade, lobbies
        fay > connect ~lobbies
        fay < upgrade, lobbies
        advance 20s
        eve < ping
        fay < ping
        eve > pong
        advance 10s
        fay < goodbye code=4201 reason=stale, close 4201 stale
        advance 2s
        fay < eof
        advance 8s
        eve < ping
        eve > pong
        advance 20s
        eve < ping
        eve > pong
        advance 20s
        eve < ping
        eve > pong
        advance 20s
        eve < goodbye code=4202 reason=max_lifetime, close 4202 max_lifetime
        eve > close 4202
        eve < eof
        eve > connect ~lobbies
        eve < upgrade, lobbies
        drain
        eve < goodbye code=1001 reconnect=true, close 1001 server_shutdown
        eve > close 1001
        eve < eof
        fay > connect ~lobbies
        fay < http 503, body, eof
        "#,
    );
}

#[test]
fn limits_and_origins_are_those_of_all_connections() {
    let limited =
        Config { max_list_watchers: 3, max_per_ip: Limit::at_most(2), lists_per_minute: Limit::at_most(8), ..on() };
    check(
        limited,
        r#"
        # A member counts on its own.
        ann > connect chess
        ann < upgrade, welcome, presence_state, lobby_state
        a > connect ~lobbies
        a < upgrade, lobbies
        b > connect ~lobbies tag.game=chess
        b < upgrade, lobbies
        c > connect ~lobbies
        c < upgrade, goodbye code=4002 reason=ip_limit, close 4002 ip_limit
        from 10.0.0.2
        d > connect ~lobbies
        d < upgrade, lobbies
        e > connect ~lobbies
        e < upgrade, goodbye code=4002 reason=server_full, close 4002 server_full
        d > hangup
        from 127.0.0.1
        f > connect ~lobbies tag.game=a tag.game=b
        f < upgrade, goodbye code=4005 reason=bad_message, close 4005 bad_message
        g > connect ~lobbies x=%ff
        g < upgrade, goodbye code=4005 reason=bad_message, close 4005 bad_message
        h > get /ws/~lobbies Origin: https://evil.example
        h < upgrade, goodbye code=4003 reason=forbidden_origin, close 4003 forbidden_origin
        a > hangup
        i > connect ~lobbies
        i < upgrade, lobbies
        b > hangup
        j > connect ~lobbies
        j < upgrade, lobbies
        k > connect ~lobbies
        k < http 429, body, eof
        # Other requests are not refused.
        bob > connect chess
        bob < upgrade, welcome, presence_state, lobby_state
        ann < presence_diff +bob
        "#,
    );
    check(
        Config { max_list_watchers: 0, ..on() },
        "a > connect ~lobbies\na < upgrade, goodbye, close 4002 server_full",
    );
}

#[test]
fn without_lobby_control_there_is_no_list() {
    check(
        Config::default(),
        r#"
        a > connect ~lobbies
        a < upgrade, goodbye, close 4007 bad_lobby_code
        b > open
        b > raw GET /lobbies HTTP/1.1\r\nHost: a\r\n\r\n
        b < http 404, body, eof
        "#,
    );
}

/// A queue that is smaller than the list holds it even so: the list is sent as a whole.
#[test]
fn a_list_may_be_larger_than_max_outbound_bytes() {
    let bytes = ByteSize(100);
    let small = Config {
        max_message_bytes: ByteSize(3000),
        max_outbound_bytes: ByteSize::kib(16),
        outbound_high_mark: ByteSize::kib(8),
        outbound_low_mark: ByteSize::kib(4),
        max_per_lobby: Limit::at_most(4),
        history_bytes: ByteSize(500),
        direct_bytes: bytes,
        max_lobby_data: bytes,
        max_member_data: bytes,
        max_members_data: bytes,
        ..on()
    };
    let mut world = recorded(small);
    for n in 0..100 {
        open(&mut world, &format!("n{n}"), &format!(r#","name":"{0}","tags":{{"a":"{0}"}}"#, "x".repeat(64)));
    }
    world.open("eve");
    let conn = world.conn("eve");
    world.sockets.limit(conn, 300);
    world.send("eve", &lobbyd::sim::wire::upgrade_request("/ws/~lobbies", &[]));
    world.steps("advance 1s\nadvance 1s\neve > read");
    let mut view = View::default();
    view.read(&mut world, "eve");
    assert_eq!((view.lobbies.len(), view.frames), (100, (1, 0)));
    finish(world);
}
