//! Sessions in requests: `session`, `was`, `epoch`, `seq` and `n` of the query.

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::{App, Authorization, Config, Context, Frame, Member, Message, Protocol, Request};

use crate::common::scenario::{World, check};
use crate::journal::site::{Site, replay, timeline};

const IN: &str = "upgrade, welcome, presence_state";
const BAD: &str = "upgrade, goodbye code=4005 reason=bad_message reconnect=false, close 4005 bad_message";
const NAME: &str = "0123456789abcdef";
const OTHER: &str = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

#[track_caller]
fn check_query(query: &str, expected: &str) {
    let query = query.replace("{NAME}", NAME).replace("{OTHER}", OTHER);
    check(Config::default(), &format!("ann > get /ws/chess?token=ann&{query}\nann < {expected}"));
}

/// The upgrade is accepted, so that a page can read the reason.
#[test]
fn a_malformed_session_is_closed_with_bad_message() {
    for query in [
        "session=short",
        "session={NAME}%20",
        "session={NAME}&was=short",
        "session={NAME}&epoch=1&seq=2",
        "session={NAME}&epoch=1&seq=2&n=-3",
        "session={NAME}&epoch=1&seq=9007199254740992&n=3",
        "session={NAME}&x=%ff",
        "session=%ff",
    ] {
        check_query(query, BAD);
    }
}

#[test]
fn clients_without_a_session_may_use_the_other_names_for_themselves() {
    for query in ["seq=-1&epoch=x&n=1.5&was=short", "session=&seq=x", "session&n="] {
        check_query(query, IN);
    }
}

#[test]
fn a_valid_session_is_accepted() {
    for query in ["session={NAME}", "session={NAME}&was={OTHER}", "session={NAME}&epoch=1&seq=0&n=9007199254740991"] {
        check_query(query, IN);
    }
}

#[test]
fn a_malformed_session_is_judged_after_the_origin_and_the_lobby_and_before_the_token() {
    let evil = "ann > get /ws/chess?token=ann&session=x Origin: http://evil.example\n\
                ann < upgrade, goodbye reason=forbidden_origin, close 4003 forbidden_origin";
    check(Config::default(), evil);
    let nowhere = "ann > get /ws/no%20code?session=x\n\
                   ann < upgrade, goodbye reason=bad_lobby_code, close 4007 bad_lobby_code";
    check(Config::default(), nowhere);
    check(Config::default(), &format!("ann > get /ws/chess?session=x\nann < {BAD}"));
}

#[test]
fn raw_applications_have_no_sessions() {
    let mut world = World::new(Config::default(), Verbatim::default());
    world.run("ann > get /ws/chess?token=ann&session=x&seq=y\nann < upgrade");
}

/// Answers with the parameters of its request.
struct Parameters(Vec<String>);

impl App for Parameters {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        self.0 =
            ["session", "seq", "x"].iter().filter_map(|name| request.query(name)).map(|v| v.into_owned()).collect();
        Authorization::allow("ann")
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        let text = format!(r#"{{"type":"read","names":"{}"}}"#, self.0.join(","));
        cx.send_to_conn(member.conn(), &Frame::text(&text));
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

#[test]
fn an_application_still_reads_these_parameters() {
    for (query, names) in [
        ("session=0123456789abcdef&seq=7&epoch=1&n=2", "0123456789abcdef,7"),
        ("seq=x&x=y", "x,y"),
        // A query that cannot be decoded has no parameters.
        ("x=%ff&seq=7", "\"\""),
    ] {
        let script = format!("ann > get /ws/chess?{query}\nann < {IN}, read names={names}");
        World::new(Config::default(), Parameters(Vec::new())).run(&script);
    }
}

/// Names of sessions are not in a journal: hashes are, and a replay decides by them.
#[test]
fn claims_are_recorded_as_hashes() {
    let mut site = Site::new(Config::default(), Relay::default());
    for query in ["session={NAME}", "session={NAME}&was={OTHER}&epoch=3&seq=2&n=1", "session={NAME}.", "seq=1"] {
        let query = query.replace("{NAME}", NAME).replace("{OTHER}", OTHER);
        site.connect(&format!("/ws/chess?token=ann&{query}"), &[]);
        site.turn();
    }
    let (stats, journal) = (site.engine.stats(), site.journal());
    assert_eq!(replay(&journal).expect("nothing differs").stats, stats);
    let shown = timeline(&journal, Relay::default());
    // `printf 0123456789abcdef | sha1sum`, and the same of the other name
    for line in [
        "asks for lobby chess, session=fe5567e8\n",
        "asks for lobby chess, session=fe5567e8, was=ab6a761f, position=3.2.1\n",
        "asks for lobby chess, malformed session\n",
        "asks for lobby chess\n",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    for name in [NAME, OTHER] {
        assert!(!shown.contains(name) && !journal.windows(name.len()).any(|window| window == name.as_bytes()));
    }
}
