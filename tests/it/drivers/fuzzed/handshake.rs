//! A request head, cut at arbitrary places. The first byte selects how the input is cut, the rest is the client's input.

use lobbyd::apps::Relay;
use lobbyd::config::{ByteSize, ForwardedHeader};
use lobbyd::driver::Flow;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{Reader, Received};
use lobbyd::{Config, Engine, Time};

use super::{START, pieces, without_rates};

pub fn run(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    let whole = answer(bytes, 0);
    assert_eq!(answer(bytes, 1), whole, "byte by byte");
    assert_eq!(answer(bytes, seed), whole, "in pieces");
    let (answered, finished) = whole;
    let mut reader = Reader::default();
    reader.push(&answered);
    let first = reader.next().expect("the server keeps to the protocol");
    let Some(Received::Answer(status, head)) = first else {
        assert!(answered.is_empty() && !finished, "without an answer the connection stays open");
        return;
    };
    if status == 101 {
        check_granted(bytes, &head);
        while reader.next().expect("the server keeps to the protocol").is_some() {}
    } else {
        assert!([200, 400, 404, 405, 414, 426, 431, 505].contains(&status), "{status}");
        assert!(finished, "nothing follows a refusal");
    }
}

/// Returns the answer to `bytes`, which arrive in one turn, and whether the connection has finished.
fn answer(bytes: &[u8], seed: u8) -> (Vec<u8>, bool) {
    // The client's address does not change the answer, from whichever header it is read.
    let (trusted_proxies, forwarded_header) = match seed % 4 {
        0 => (0, ForwardedHeader::XForwardedFor),
        1 => (1, ForwardedHeader::Forwarded),
        2 => (2, ForwardedHeader::XForwardedFor),
        _ => (1, ForwardedHeader::XRealIp),
    };
    let proxies = Config { trusted_proxies, forwarded_header, ..without_rates() };
    let config = Config { max_header_bytes: ByteSize(512), max_headers: 16, ..proxies };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, Relay::default());
    let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
    for piece in pieces(bytes, seed) {
        engine.handle_bytes(Time::ZERO, conn, piece);
    }
    let mut sockets = MemorySockets::default();
    engine.flush(&mut sockets).expect("the session is not recorded");
    engine.check();
    let answer = sockets.written(conn);
    let finished = sockets.take_writes().iter().any(|write| matches!(write.outcome, Ok(Flow::Finished | Flow::Closed)));
    (answer, finished)
}

/// Parses an accepted request in a second, simpler way.
fn check_granted(bytes: &[u8], answer: &str) {
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("the head has an end");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let request_line = lines.next().expect("split returns at least one part");
    let (method_and_target, minor_version) = request_line.rsplit_once(" HTTP/1.").expect("a version");
    assert!(method_and_target.starts_with("GET /"), "{request_line}");
    assert!(("1"..="9").contains(&minor_version) && minor_version.len() == 1, "{request_line}");
    let (mut hosts, mut keys, mut versions) = (0, Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header line has a colon");
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "sec-websocket-key" => keys.push(value.to_owned()),
            "sec-websocket-version" => versions.push(value.to_owned()),
            "content-length" if value.bytes().all(|c| c == b'0') => {}
            "content-length" | "transfer-encoding" => panic!("a request with a body was granted: {line}"),
            _ => {}
        }
    }
    assert_eq!((hosts, &versions[..]), (1, &["13".to_owned()][..]));
    let [key] = &keys[..] else { panic!("one key, not {keys:?}") };
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    assert!(answer.contains(&format!("Sec-WebSocket-Accept: {accept}\r\n")), "{answer}");
}
