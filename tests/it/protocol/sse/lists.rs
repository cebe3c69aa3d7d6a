//! The list of lobbies as an event stream.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::config::Limit;
use lobbyd::sim::wire;

use super::{ANN, Site};

fn site(config: Config) -> Site {
    Site::with(Config { lobby_control: true, ..config }, |_, _, _| {})
}

#[test]
fn an_event_stream_follows_the_list() {
    let mut site = site(Config::default());
    site.send("host", &wire::upgrade_request(&format!("/ws/chess?token=ann&session={ANN}"), &[]));
    site.send("host", &wire::text(r#"{"type":"settings","settings":{"listed":true}}"#));
    site.get("eve", "/sse/~lobbies?tag.game=", &[]);
    let events = site.events("eve");
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0].data["type"], &events[0].data["lobbies"][0]["code"]), (&"lobbies".into(), &"chess".into()));
    site.send("host", &wire::text(r#"{"type":"settings","settings":{"max":3}}"#));
    site.advance(Duration::from_secs(1));
    // There is no position, so no event has an id.
    assert_eq!(site.names("eve"), ["lobbies_diff"]);
    site.advance(Duration::from_secs(20));
    assert_eq!(site.bytes("eve"), ":\n\n", "a comment keeps it alive");
    site.advance(Duration::from_secs(9));
    assert!(!site.has_ended("eve"));
    site.post("post", &format!("/sse/~lobbies?session={ANN}"), &[], "{}");
    assert_eq!(site.status("post"), 404);
    assert_eq!(site.engine.stats().list_watchers, 1);
    site.engine.handle_drain(site.now);
    site.turn();
    assert_eq!(site.names("eve"), ["goodbye"]);
    assert!(site.has_ended("eve"));
}

/// An `EventSource` reads no status, so each refusal is a stream that ends at once.
#[test]
fn a_refusal_is_a_goodbye() {
    let config = Config { max_list_watchers: 1, lists_per_minute: Limit::at_most(4), ..Config::default() };
    let mut site = site(config);
    site.get("a", "/sse/~lobbies", &[]);
    assert_eq!(site.names("a"), ["lobbies"]);
    for (name, target, lines, reason, id) in [
        ("b", "/sse/~lobbies", &[][..], "server_full", true),
        ("c", "/sse/~lobbies?after=x", &[], "bad_message", true),
        ("d", "/sse/~lobbies", &["Origin: https://evil.example"], "forbidden_origin", true),
        ("e", "/sse/~lobbies", &[], "rate_limited", false),
    ] {
        site.get(name, target, lines);
        let events = site.events(name);
        assert_eq!((&events[0].data["type"], &events[0].data["reason"]), (&"goodbye".into(), &reason.into()), "{name}");
        assert_eq!((events.len(), events[0].id.as_deref() == Some("end")), (1, id), "{name}");
        assert!(site.has_ended(name));
    }
}
