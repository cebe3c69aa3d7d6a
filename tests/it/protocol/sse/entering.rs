//! The ways to enter a lobby, with event streams.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::sim::wire;

use super::{ANN, BOB, Site};

fn site() -> Site {
    Site::with(Config { lobby_control: true, ..Config::default() }, |_, _, _| {})
}

/// The `welcome` among the events that arrived.
#[track_caller]
fn welcome(site: &mut Site, name: &str) -> serde_json::Value {
    let events = site.events(name);
    let welcome = events.iter().find(|event| event.data["type"] == "welcome");
    welcome.unwrap_or_else(|| panic!("{name} got {events:?}")).data.clone()
}

/// An `EventSource` connects again with the URL with which it began.
#[test]
fn a_stream_comes_back_to_its_new_lobby_by_the_same_url() {
    for path in ["/sse/~new", "/sse/~quick/chess"] {
        let mut site = site();
        let target = format!("{path}?token=ann&session={ANN}");
        site.get("ann", &target, &[]);
        let first = welcome(&mut site, "ann");
        let code = first["lobby"].as_str().expect("a code").to_owned();
        // POSTs may name the lobby in both ways.
        for (post, place) in [("a", path), ("b", &*format!("/sse/{code}"))] {
            site.post(post, &format!("{place}?token=ann&session={ANN}"), &[], r#"{"type":"ping","ref":1}"#);
            assert_eq!((site.status(post), site.names("ann")), (202, vec!["pong".to_owned()]), "{place}");
        }
        site.hangup("ann");
        site.advance(Duration::from_secs(2));
        let epoch = &first["epoch"];
        site.get("ann", &target, &[&format!("Last-Event-ID: {epoch}.0.0")]);
        let again = welcome(&mut site, "ann");
        assert_eq!((again["lobby"].as_str(), again["resumed"].as_bool()), (Some(&*code), Some(true)));
        assert_eq!(again["recovered"], true);
        // A POST for the stream of another user finds none.
        site.post("c", &format!("{path}?token=bob&session={ANN}"), &[], r#"{"type":"ping"}"#);
        assert_eq!(site.status("c"), 404);
    }
}

#[test]
fn a_stream_watches() {
    let mut site = site();
    site.join("ann", ANN);
    site.get("eve", &format!("/sse/chess?token=eve&session={BOB}&role=watch"), &[]);
    let (events, epoch) = (site.names("eve"), welcome(&mut site, "ann")["epoch"].clone());
    assert_eq!(
        events,
        ["welcome".to_owned(), format!("presence_state {epoch}.0.0"), format!("lobby_state {epoch}.0.0")]
    );
    assert!(site.names("ann").is_empty());
    let target = format!("/sse/chess?token=eve&session={BOB}");
    site.post("post", &target, &[], "{\"type\":\"broadcast\",\"data\":1}\n{\"type\":\"presence\"}");
    assert_eq!(site.status("post"), 202);
    assert_eq!(
        site.names("eve"),
        ["error".to_owned(), format!("presence_state {epoch}.0.0"), format!("lobby_state {epoch}.0.0")]
    );
    assert!(site.names("ann").is_empty());
}

/// A final refusal ends the stream for good; that of an address that guesses ends it for a while.
#[test]
fn a_stream_reads_why_it_is_refused() {
    let mut site = site();
    site.send("ann", &wire::upgrade_request(&format!("/ws/chess?token=ann&session={ANN}"), &[]));
    site.send("ann", &wire::text(r#"{"type":"settings","settings":{"password":"quiet"}}"#));
    let goodbye = |site: &mut Site, name: &str| {
        let events = site.events(name);
        let last = events.last().expect("a goodbye").clone();
        assert_eq!(last.data["type"], "goodbye");
        (last.data["reason"].as_str().expect("a word").to_owned(), last.id.is_some(), last.retry.is_some())
    };
    let final_one = |word: &str| (word.to_owned(), true, false);
    site.get("a", "/sse/chess?token=a&password=hush", &[]);
    assert_eq!(goodbye(&mut site, "a"), final_one("wrong_password"));
    site.get("b", "/sse/go?token=b&create=0", &[]);
    assert_eq!(goodbye(&mut site, "b"), final_one("lobby_not_found"));
    site.get("c", "/sse/go?token=c&create=maybe", &[]);
    assert_eq!(goodbye(&mut site, "c"), final_one("bad_message"));
    for guess in 0..8 {
        site.get(&format!("x{guess}"), "/sse/chess?token=a&password=hush", &[]);
    }
    site.get("y", "/sse/chess?token=a&password=quiet", &[]);
    assert_eq!(goodbye(&mut site, "y"), ("rate_limited".to_owned(), false, true));
    site.advance(Duration::from_secs(6));
    site.get("z", "/sse/chess?token=a&password=quiet", &[]);
    assert_eq!(welcome(&mut site, "z")["lobby"], "chess");
}
