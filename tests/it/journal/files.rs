//! Files of the program in journals: the head of the answer and the length of the body are recorded, never the contents.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::sim::MemorySockets;

use super::site::{Site, replay, timeline};

fn config() -> Config {
    Config { playground: true, ..Config::default() }
}

#[test]
fn requests_for_files_are_replayed_without_the_contents() {
    let mut site = Site::new(config(), Relay::default());
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD /playground.js HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /lobby.js?v=1&token=hush HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /lobby.js HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\n\r\n",
        "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        site.connect_raw(request.as_bytes());
        site.turn();
    }
    let journal = site.journal();
    for contents in [&b"<!doctype"[..], b"import ", b"hush"] {
        assert!(!journal.windows(contents.len()).any(|window| window == contents), "{}", contents.escape_ascii());
    }
    assert!(journal.len() < 6000, "{} bytes for five requests", journal.len());
    replay(&journal).expect("nothing differs");
    let text = timeline(&journal, Relay::default());
    assert_eq!(text.matches("asks for a file of the program").count(), 4, "{text}");
}

/// The boundary between the head and the contents may be anywhere in a write.
#[test]
fn a_file_that_is_written_in_pieces_is_replayed() {
    for room in [1, 7, 100, 511, 4096] {
        let mut site = Site::new(config(), Relay::default());
        let conn = site.connect_raw(b"GET /lobby.js HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut sockets = MemorySockets::default();
        for _ in 0..800 {
            sockets.limit(conn, room);
            site.engine.end_turn(site.now, &mut sockets).expect("it is recorded in memory");
            site.engine.handle_writable(site.now, conn);
        }
        assert!(sockets.written(conn).len() >= 800, "the head and some of the contents");
        site.now = site.now + Duration::from_secs(10);
        site.turn();
        replay(&site.journal()).expect("nothing differs");
    }
}
