//! The journal's files: segments, the lock, and when bytes are written.

use std::fs;
use std::io::Read;
use std::path::Path;

use lobbyd::apps::Relay;
use lobbyd::config::ByteSize;
use lobbyd::journal::{self, Fault};
use lobbyd::net::{Error, Server, Status, open_journal};
use lobbyd::sim::wire::{self, Received};
use lobbyd::{App, Authorization, Config, Context, Frame, Member, Message, Protocol, Request};

use super::site::replay;
use crate::common::files::Folder;
use crate::common::sockets::{Client, SHORT, on_free_port};

fn read_all(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    open_journal(path).expect("the file exists").read_to_end(&mut bytes).expect("the file can be read");
    bytes
}

/// Sends each new member a random number and the number of joins so far.
#[derive(Default)]
struct Joins(u8);

impl App for Joins {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.0 += 1;
        let lot = cx.random().next_u64();
        cx.send_to_conn(member.conn(), &Frame::text(&format!(r#"{{"type":"lot","lot":"{lot}","number":{}}}"#, self.0)));
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}

    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(vec![self.0])
    }

    fn restore(&mut self, snapshot: &[u8]) {
        self.0 = snapshot[0];
    }
}

/// Connects, sends a number of messages and closes. Returns the name of the seat.
fn talk(server: &mut Server<Joins>, user: &str, messages: usize) -> String {
    let mut client = Client::connect(server.local_addr().expect("the server listens"), "chess", user);
    assert!(matches!(client.next(server), Received::Answer(101, _)));
    let welcome = client.json(server);
    assert_eq!(welcome["type"], "welcome");
    while !matches!(client.next(server), Received::Text(text) if text.contains("presence_state")) {}
    for n in 0..messages {
        client.send(&wire::text(&format!(r#"{{"type":"broadcast","data":"{}","ref":{n}}}"#, "x".repeat(300))));
        while !matches!(client.next(server), Received::Text(text) if text.contains("ack")) {}
    }
    client.send(&wire::close(1000, ""));
    while !matches!(client.next(server), Received::Close(..)) {}
    drop(client);
    while server.engine().stats().closing + server.engine().stats().total_connections > 0 {
        server.turn(SHORT).expect("the turn succeeds");
    }
    welcome["conn"].as_str().expect("a name").to_owned()
}

#[test]
fn segments_that_begin_without_connections_replay_alone() {
    let folder = Folder::new("segments");
    let config = Config {
        journal: Some(folder.journal()),
        journal_max_bytes: Some(ByteSize(20_000)),
        tick_hz: Some(1000),
        ..on_free_port()
    };
    let mut server = Server::bind(config.clone(), Joins::default()).expect("a free port");
    let names = ["ann", "bob", "cid"].map(|user| talk(&mut server, user, 60));
    assert_eq!(names, ["s1", "s2", "s3"], "every join has a new name, across segments");
    // How long a session is in the journal depends on its number of turns. One of these, which are short, ends when a segment is
    // between half full and full, so that the next one begins without connections.
    ["dan", "eve", "fay", "gil"].iter().for_each(|user| drop(talk(&mut server, user, 10)));
    let replay = |journal: &[u8]| journal::replay(journal, Joins::default());
    let stats = server.engine().stats();
    server.handle().stop();
    while server.turn(SHORT).expect("the turn succeeds") == Status::Running {}
    drop(server);

    let segments = folder.segments();
    assert!(segments.len() > 4, "{segments:?}");
    #[cfg(unix)]
    for segment in &segments {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(segment).expect("the file exists").permissions());
        assert_eq!(mode & 0o777, 0o600, "other users must not read members' messages");
    }
    let whole = replay(&read_all(&folder.journal())).expect("nothing differs");
    assert_eq!(whole.segments, segments.len() as u64);
    assert_eq!(whole.stats.counters.joined, stats.counters.joined);
    // From each segment that can be replayed alone, to the end.
    let mut starts = 0;
    for (index, segment) in segments.iter().enumerate() {
        match replay(&read_all(segment)) {
            Ok(summary) => {
                starts += 1;
                assert_eq!((&summary.stats, summary.turn), (&whole.stats, whole.turn), "from segment {index}");
            }
            Err(failure) => assert!(matches!(failure.fault, Fault::NoStart { .. }), "{failure}"),
        }
    }
    assert!(starts > 1 && starts < segments.len(), "{starts} of {}", segments.len());

    // A missing segment is detected. The next session is independent of this one.
    let pieces: Vec<Vec<u8>> = segments.iter().map(|path| fs::read(path).expect("the file exists")).collect();
    let failure = replay(&[&pieces[0][..], &pieces[2]].concat()).expect_err("a segment is missing");
    assert!(failure.to_string().contains("a segment is missing"), "{failure}");
    let server = Server::bind(config, Joins::default()).expect("a free port");
    drop(server);
    assert_eq!(folder.segments().len(), segments.len() + 1);
    assert_eq!(replay(&read_all(&folder.journal())).expect("nothing differs").stats.counters.accepted, 0);
    assert_eq!(replay(&read_all(&segments[0])).expect("nothing differs").turn, whole.turn, "up to the next session");
}

#[test]
fn the_server_does_not_start_without_its_journal() {
    let folder = Folder::new("nowhere");
    let config = Config { journal: Some(folder.0.join("missing/session")), ..on_free_port() };
    let error = Server::bind(config, Relay::default()).err().expect("there is no such folder");
    assert!(matches!(&error, Error::Journal(..)) && error.to_string().contains("missing/session"), "{error}");
}

#[test]
fn a_journal_has_one_server() {
    let folder = Folder::new("locked");
    let config = |name: &str| Config { journal: Some(folder.0.join(name)), ..on_free_port() };
    let first = Server::bind(config("session"), Relay::default()).expect("a free port");
    let error = Server::bind(config("session"), Relay::default()).err().expect("the journal is in use").to_string();
    assert!(error.contains("session: another server writes it"), "{error}");
    // Another spelling of the same path.
    let error = Server::bind(config("./session"), Relay::default()).err().expect("the journal is in use").to_string();
    assert!(error.contains("another server writes it"), "{error}");
    assert_eq!(folder.segments().len(), 1, "the second server has begun no segment");
    let other = Server::bind(config("other"), Relay::default()).expect("another name is another journal");
    drop(first);
    let again = Server::bind(config("session"), Relay::default()).expect("the first server has stopped");
    drop((other, again));
    assert_eq!(replay(&read_all(&folder.journal())).expect("nothing differs").segments, 1);
}

#[test]
fn a_journal_needs_the_name_of_a_file() {
    let folder = Folder::new("folder");
    for (path, words) in [
        (folder.0.join(""), "must name a file"),
        (folder.0.join(".."), "must name a file"),
        ("/".into(), "must name a file"),
        (folder.0.clone(), "it is a folder"),
    ] {
        let config = Config { journal: Some(path.clone()), ..on_free_port() };
        let error = Server::bind(config, Relay::default()).err().expect("the name is refused").to_string();
        assert!(error.contains(words) && error.contains("journal"), "{}: {error}", path.display());
    }
    assert!(folder.segments().is_empty());
}

/// Output is sent only after the inputs that caused it are in the file, so the death of the process loses nothing.
#[test]
fn bytes_a_client_has_read_are_already_recorded() {
    let folder = Folder::new("kept");
    let config = Config { journal: Some(folder.journal()), journal_sync: true, ..on_free_port() };
    let mut server = Server::bind(config, Relay::default()).expect("a free port");
    let mut ann = Client::connect(server.local_addr().expect("the server listens"), "chess", "ann");
    while !matches!(ann.next(&mut server), Received::Text(text) if text.contains("presence_state")) {}
    for n in 0..20 {
        ann.send(&wire::text(&format!(r#"{{"type":"broadcast","data":0,"ref":{n}}}"#)));
        while !matches!(ann.next(&mut server), Received::Text(text) if text.contains("ack")) {}
        let summary = replay(&read_all(&folder.journal())).expect("the journal is complete");
        assert_eq!(summary.stats.counters.messages_in, n + 1);
    }
}
