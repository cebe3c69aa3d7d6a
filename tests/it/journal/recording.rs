//! Recording and replay: what a journal contains, which secrets it omits, and how damaged journals are handled.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use lobbyd::apps::{Auth, Relay, Tokens, Verbatim};
use lobbyd::journal::{self, Fault, Replay, ReplayFailure, Sink, Step, Summary};
use lobbyd::net::{Error, Server, Status, open_journal};
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Received};
use lobbyd::{
    App, Authorization, ByteSize, CloseReason, Config, ConnId, Context, Engine, Frame, Member, Message, OnJournalError,
    OperatorCommand, Protocol, Request, Route, Secrets, Start, Time,
};

use crate::fuzzed::journal::{blocks_of, crc32, put_number, written};
use crate::net::Client;

const START: Start = Start { unix_micros: 1_700_000_000_000_000, seed: 7 };

/// An engine with a driver that has no sockets.
struct Site<A: App> {
    engine: Engine<A>,
    now: Time,
    conns: Vec<ConnId>,
}

impl<A: App> Site<A> {
    fn new(config: Config, app: A) -> Site<A> {
        Site::with(config, app, Vec::new())
    }

    fn with(config: Config, app: A, sink: impl Sink) -> Site<A> {
        let mut engine = Engine::new(config, START, app);
        journal::record(&mut engine, START, sink).expect("it can be recorded");
        Site { engine, now: Time::ZERO, conns: Vec::new() }
    }

    fn accept(&mut self) -> ConnId {
        let conn = self.engine.handle_accept(self.now, "127.0.0.1:4000".parse().expect("an address")).expect("room");
        self.conns.push(conn);
        conn
    }

    fn connect(&mut self, target: &str, lines: &[&str]) -> ConnId {
        let conn = self.accept();
        self.bytes(conn, &wire::upgrade_request(target, lines));
        conn
    }

    fn connect_raw(&mut self, head: &[u8]) -> ConnId {
        let conn = self.accept();
        self.bytes(conn, head);
        conn
    }

    fn bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.engine.handle_bytes(self.now, conn, bytes);
    }

    fn turn(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        let _ = self.engine.end_turn(self.now, &mut MemorySockets::default());
    }

    fn journal(&mut self) -> Vec<u8> {
        journal::finish(&mut self.engine).expect("it was recorded in memory")
    }
}

/// A session with most kinds of recordable input.
fn session() -> Vec<u8> {
    let mut site = Site::new(Config::default(), Relay::default());
    let ann = site.connect("/ws/chess?token=ann", &[]);
    let bob = site.connect("/ws/chess?token=bob", &[]);
    site.turn();
    site.bytes(ann, &wire::text(r#"{"type":"broadcast","data":"hello","ref":1}"#));
    site.engine.handle_command(site.now, b"anything");
    site.engine.handle_reload(site.now, b"very-secret list");
    site.turn();
    site.connect("/ws/chess?token=eve", &["Origin: https://evil.example"]);
    let half = site.accept();
    site.bytes(half, b"GET /ws/chess?tok");
    site.turn();
    site.bytes(half, b"en=cid HTTP/1.1\nSo: wrong\n\n");
    site.engine.handle_hangup(site.now, bob);
    site.turn();
    site.engine.handle_drain(site.now);
    site.turn();
    site.journal()
}

fn replay(journal: &[u8]) -> Result<Summary, ReplayFailure> {
    journal::replay(journal, Relay::default())
}

#[test]
fn a_replay_sends_the_same_bytes() {
    let summary = replay(&session()).expect("nothing differs");
    assert_eq!((summary.turn, summary.is_open_ended, summary.torn, summary.omitted_reloads), (5, false, None, 1));
    let counters = &summary.stats.counters;
    assert_eq!((counters.accepted, counters.joined, counters.messages_in), (4, 2, 1));
    assert_eq!(counters.closed(CloseReason::ForbiddenOrigin), 1);
    assert_eq!(summary.span, Duration::from_millis(50));
}

/// If too many answers wait to be polled, a further ping is refused. Polling is not a command, so it is recorded separately.
#[test]
fn polling_an_operators_answer_is_recorded() {
    let mut site = Site::new(Config::default(), Relay::default());
    site.connect("/ws/chess?token=ann", &[]);
    site.turn();
    let ping = || OperatorCommand::Ping { user: "ann".into(), timeout: Duration::from_millis(10) };
    while site.engine.handle_operator(site.now, ping()).is_ok() {}
    (0..20).for_each(|_| site.turn());
    assert!(site.engine.handle_operator(site.now, ping()).is_err(), "no answer has been polled");
    while site.engine.poll_operator().is_some() {}
    assert!(site.engine.handle_operator(site.now, ping()).is_ok());
    site.turn();
    let stats = site.engine.stats();
    assert_eq!(replay(&site.journal()).expect("nothing differs").stats, stats);
}

// ---- secrets ----

/// Counts its calls of `authorize`: a replay must not make any.
struct CountingAuth(Rc<Cell<u32>>);

impl App for CountingAuth {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        self.0.set(self.0.get() + 1);
        // Draws a number here. A replay must skip it in the generator, as it does not call `authorize`.
        cx.random().next_u64();
        match request.token() {
            Some("secret-late") => Authorization::Pending { user: Some("late".into()) },
            Some(token) if token.starts_with("secret") => Authorization::allow(format!("user{}", token.len())),
            _ => Authorization::Refuse(CloseReason::Unauthorized),
        }
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        let lot = cx.random().next_u64();
        cx.send_to_conn(member.conn(), &Frame::text(&format!("{} {lot}", member.user())));
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

#[test]
fn no_token_is_in_a_journal_and_a_replay_does_not_authorize() {
    let asked = Rc::new(Cell::new(0));
    let mut site = Site::new(Config::default(), CountingAuth(Rc::clone(&asked)));
    site.connect("/ws/a?x=secret-q&token=secret-query", &["Cookie: id=secret-cookie", "X-Api-Key: secret-key"]);
    site.connect("/ws/a", &["Authorization: Bearer secret-header"]);
    let coded = base64url("secret-subprotocol");
    site.connect("/ws/a", &[&format!("Sec-WebSocket-Protocol: base64url.bearer.lobby.{coded}, other")]);
    site.turn();
    let late = site.connect("/ws/a?token=secret-late", &[]);
    site.bytes(late, &wire::text("early"));
    site.turn();
    site.engine.handle_authorized(site.now, late, Authorization::allow("late"));
    site.turn();
    // Requests in pieces, malformed requests, and requests behind a refused one.
    for pieces in [
        &["GET /ws/a?token=sec", "ret-torn HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-t", "orn\r\n\r\n"][..],
        &["GET /ws/a HTTP/1.1\nAuthorization: Bearer secret-bare\n", "Cookie: secret-after\n\n"],
        &["GET /health/live HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nAuthorization: Bearer secret-piped\r\n\r\n"],
        &["POST /ws/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-post\r\n\r\n"],
    ] {
        let conn = site.accept();
        pieces.iter().for_each(|piece| site.bytes(conn, piece.as_bytes()));
        site.turn();
    }
    assert_eq!(asked.get(), 4);
    let (stats, journal) = (site.engine.stats(), site.journal());
    for word in ["secret-", &coded] {
        assert!(!journal.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
    let again = Rc::new(Cell::new(0));
    let summary = journal::replay(&*journal, CountingAuth(Rc::clone(&again))).expect("nothing differs");
    assert_eq!((again.get(), summary.stats), (0, stats));
}

fn base64url(token: &str) -> String {
    // base64url without padding. Written here, because the tests need no library for it otherwise.
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in token.as_bytes().chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        let digits = (0..=chunk.len()).map(|at| char::from(DIGITS[(word >> (18 - 6 * at)) as usize & 63]));
        text.extend(digits);
    }
    text
}

/// A secret that may appear anywhere in a request and must not appear in the journal.
const SECRET: &str = "s3cret+4f1c";

/// The encoded forms of a secret.
fn forms_of(secret: &str) -> Vec<String> {
    let upper: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    vec![secret.into(), secret.replace('+', "%2B"), secret.replace('+', " "), upper, base64url(secret)]
}

#[track_caller]
fn check_no_secret(bytes: &[u8], name: &str) {
    for form in forms_of(SECRET) {
        let found = bytes.windows(form.len()).any(|window| window == form.as_bytes());
        assert!(!found, "{form} is in the {name}: {}", bytes.escape_ascii());
    }
}

/// The events of a journal as `lobbyd replay --print` prints them, and the state at its end.
fn timeline<A: App>(journal: &[u8], app: A) -> String {
    let mut replay = Replay::open(journal, app, false).expect("the first block is complete");
    replay.trace_events();
    let mut text = String::new();
    loop {
        let step = replay.step().expect("nothing differs");
        replay.events().iter().for_each(|event| text.push_str(&format!("{event}\n")));
        if step == Step::End {
            return text + &replay.state();
        }
    }
}

/// Request heads with the secret in every place a client can write, one place per head.
fn heads_with(secret: &str) -> Vec<String> {
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let head = |target: &str, lines: &[&str]| {
        let mut all = vec![format!("GET {target} HTTP/1.1")];
        let usual = ["Host: a", "Upgrade: websocket", "Connection: Upgrade", KEY, "Sec-WebSocket-Version: 13"];
        // A given line replaces the usual line of the same name.
        let is_replaced = |line: &str| lines.iter().any(|other| other.split(':').next() == line.split(':').next());
        all.extend(usual.iter().filter(|line| !is_replaced(line)).map(|line| (*line).to_owned()));
        all.extend(lines.iter().map(|line| (*line).to_owned()));
        all.join("\r\n") + "\r\n\r\n"
    };
    let s = secret;
    let targets = [
        format!("/ws/chess?token={s}"),
        format!("/ws/chess?token=known&token={s}"),
        format!("/ws/chess?token={s}&token=known"),
        format!("/ws/chess?{s}=1&x={s}"),
        format!("/ws/chess?x={s}%zz"),
        format!("/ws/chess?x={s}%00"),
        format!("/ws/chess&token={s}"),
        format!("/ws/chess%26token%3D{s}"),
        format!("/ws/chess%3Ftoken={s}"),
        format!("/ws/chess;token={s}"),
        format!("/ws/chess/{s}"),
        format!("/ws/chess/{s}?token=known"),
        // A lobby code is not secret.
        if lobbyd::is_lobby_code(s) { "/ws/".to_owned() } else { format!("/ws/{s}") },
        format!("/ws/%zz{s}"),
        format!("/{s}"),
        format!("/{s}/ws/chess"),
        format!("/health/live?{s}"),
        format!("/health/{s}"),
        format!("/ws/chess#{s}"),
        format!("http://a/ws/chess?token={s}"),
        format!("http://{s}/ws/chess"),
        s.to_owned(),
    ];
    let mut heads = Vec::new();
    for target in &targets {
        heads.push(head(target, &[]));
        heads.push(head(target, &["Authorization: Bearer known"]));
        heads.push(head(target, &["Upgrade: none"]));
    }
    const NAMES: [&str; 20] = [
        "Host",
        "Origin",
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "User-Agent",
        "Referer",
        "X-Forwarded-For",
        "X-Real-IP",
        "Forwarded",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Upgrade",
        "Connection",
        "Content-Length",
        "Transfer-Encoding",
        "Accept-Language",
        "X-Api-Key",
    ];
    for name in NAMES {
        for value in [
            s.to_owned(),
            format!("Bearer {s}"),
            format!("http://{s}"),
            format!("{s}, lobby.v1.json"),
            format!("lobby.v1.json, {s}"),
            format!("base64url.bearer.lobby.{s}, {s}"),
            format!("BASE64URL.bearer.lobby.{s}"),
            format!("{s}, 9.9.9.9"),
            format!("9.9.9.9, {s}"),
        ] {
            let line = format!("{name}: {value}");
            heads.push(head("/ws/chess?token=known", &[&line]));
            heads.push(head("/ws/chess?token=known", &[&line, &line]));
            heads.push(head("/ws/chess?token=known", &[&line, &format!("{name}: other")]));
            heads.push(head("/ws/chess", &[&format!("{name}: other"), &line]));
            heads.push(head("/ws/bad%20code", &[&line]));
            heads.push(head("/nowhere", &[&line]));
        }
    }
    heads.push(head("/ws/chess?token=known", &[&format!("{s}: x")]));
    heads.push(head("/ws/chess?token=known", &[s]));
    heads.push(head("/ws/chess?token=known", &["X: y", &format!(" {s}")]));
    heads.push(format!("{s} /ws/chess HTTP/1.1\r\nHost: a\r\n\r\n"));
    heads.push(format!("POST /{s} HTTP/1.1\r\nHost: {s}\r\n\r\n"));
    heads.push(format!("HEAD /{s} HTTP/1.1\r\nHost: {s}\r\n\r\n"));
    heads.push(format!("GET /ws/chess {s}/1.1\r\nHost: a\r\n\r\n"));
    heads.push(format!("GET /ws/chess HTTP/1.1\r\nHost: {s}\nX: {s}\r\n\r\n"));
    heads.push(format!("{s}\r\n\r\n"));
    heads
}

/// Records requests with the secret in every place, and searches for it in the journal and in the printed events.
fn check_secrets<A: App>(config: &Config, app: impl Fn() -> A) -> Summary {
    let mut site = Site::new(config.clone(), app());
    for form in forms_of(SECRET) {
        for head in heads_with(&form) {
            let conn = site.connect_raw(head.as_bytes());
            let is_refused = site.engine.ending(conn) == Some(CloseReason::HttpRefused);
            site.turn();
            site.engine.handle_hangup(site.now, conn);
            site.turn();
            if is_refused {
                // Input after a refused request is ignored, whether it arrives with the request or later. The head may come in
                // pieces.
                let more = format!("GET /ws/chess?token={form} HTTP/1.1\r\nAuthorization: Bearer {form}\r\n\r\n{form}");
                let conn = site.connect_raw(format!("{head}{more}").as_bytes());
                site.bytes(conn, more.as_bytes());
                site.turn();
                let conn = site.accept();
                head.as_bytes().chunks(head.len() / 2).for_each(|piece| site.bytes(conn, piece));
                site.bytes(conn, more.as_bytes());
                site.turn();
            }
        }
        // A head that is never complete.
        let conn = site.connect_raw(format!("GET /{form} HTTP/1.1\r\nCookie: {form}").as_bytes());
        site.turn();
        site.engine.handle_hangup(site.now, conn);
        site.turn();
    }
    let (stats, journal) = (site.engine.stats(), site.journal());
    check_no_secret(&journal, "journal");
    check_no_secret(timeline(&journal, app()).as_bytes(), "timeline");
    let summary = journal::replay(&*journal, app()).expect("nothing differs");
    assert_eq!(summary.stats, stats);
    summary
}

/// Any word of a request may be the client's token, wherever it stands.
#[test]
fn no_word_of_a_request_is_in_a_journal() {
    let tokens = || Auth::Tokens(Tokens::parse("known ann").expect("a valid list"));
    for (trusted_proxies, any) in [(0, false), (1, true)] {
        let allowed_origin = lobbyd::Origins { any, ..lobbyd::Origins::default() };
        let config = Config { trusted_proxies, allowed_origin, ..Config::default() };
        let summaries =
            [check_secrets(&config, || Relay::new(tokens())), check_secrets(&config, || Verbatim::new(tokens()))];
        for Summary { stats, .. } in summaries {
            assert!(stats.counters.joined > 100, "{}", stats.counters.joined);
            for reason in [CloseReason::HttpRefused, CloseReason::Unauthorized, CloseReason::BadLobbyCode] {
                assert!(stats.counters.closed(reason) > 10, "{reason}: {}", stats.counters.closed(reason));
            }
            assert!(any || stats.counters.closed(CloseReason::ForbiddenOrigin) > 10);
        }
    }
}

/// Takes the lobby, the user and the decision from the query.
struct QueryApp;

impl App for QueryApp {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn route(&self, request: &Request<'_>) -> Route {
        Route::Lobby(request.query("lobby").unwrap_or_default().into_owned())
    }

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        let user = request.query("user").map(|user| user.into_owned());
        match request.query("answer").as_deref() {
            Some("later") => Authorization::Pending { user },
            Some("elsewhere") => Authorization::Allow(lobbyd::Identity::new("ann").only_in(user.unwrap_or_default())),
            _ => Authorization::allow(user.unwrap_or_default()),
        }
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

/// A text from the application that is no valid lobby code or user id may be a token: `--auth open` uses the token as the
/// user id.
#[test]
fn invalid_names_from_an_application_are_not_in_a_journal() {
    let long = SECRET.replace('+', "-").repeat(20);
    let mut site = Site::new(Config::default(), QueryApp);
    let has = |journal: &[u8]| journal.windows(11).any(|window| window == b"s3cret-4f1c");
    let mut reasons = Vec::new();
    for target in [
        format!("/?lobby={long}&user=ann"),
        format!("/?lobby=chess&user={long}"),
        format!("/?lobby=chess&user={long}&answer=elsewhere"),
    ] {
        let conn = site.connect(&target, &[]);
        reasons.push(site.engine.ending(conn));
        site.turn();
    }
    assert_eq!(reasons, [CloseReason::BadLobbyCode, CloseReason::Unauthorized, CloseReason::Unauthorized].map(Some));
    // A late decision, with a user other than the claimed one.
    for (user, ending) in [("bob", None), (&*long, Some(CloseReason::Unauthorized))] {
        let conn = site.connect(&format!("/?lobby=chess&user={long}&answer=later"), &[]);
        site.turn();
        site.engine.handle_authorized(site.now, conn, Authorization::allow(user));
        assert_eq!(site.engine.ending(conn), ending);
        site.turn();
    }
    let (stats, journal) = (site.engine.stats(), site.journal());
    assert!(!has(&journal), "{}", journal.escape_ascii());
    assert_eq!(journal::replay(&*journal, QueryApp).expect("nothing differs").stats, stats);
}

/// The subprotocol is sent to the client but is not in the journal, even if the answer is late or written in pieces.
#[test]
fn a_subprotocol_is_echoed_and_not_recorded() {
    let line = format!("Sec-WebSocket-Protocol: {SECRET}, other");
    for answer in ["now", "later"] {
        for first in 0..180 {
            let mut site = Site::new(Config::default(), QueryApp);
            // The slot of a connection that never read its answer is used again.
            let earlier = site.connect("/?lobby=chess&user=bob", &[&line]);
            site.engine.handle_hangup(site.now, earlier);
            site.turn();
            let conn = site.connect(&format!("/?lobby=chess&user=ann&answer={answer}"), &[&line]);
            site.engine.handle_authorized(site.now, conn, Authorization::allow("ann"));
            let mut sockets = MemorySockets::default();
            for room in [first, 1, 3, 30, 1000] {
                site.now = site.now + Duration::from_millis(10);
                site.engine.handle_writable(site.now, conn);
                sockets.limit(conn, room);
                site.engine.flush(&mut sockets).expect("memory can be written to");
            }
            let sent = sockets.written(conn);
            let echoed = format!("\r\nSec-WebSocket-Protocol: {SECRET}\r\n\r\n");
            assert!(sent.ends_with(echoed.as_bytes()), "{}", sent.escape_ascii());
            let (stats, journal) = (site.engine.stats(), site.journal());
            check_no_secret(&journal, "journal");
            assert_eq!(journal::replay(&*journal, QueryApp).expect("nothing differs").stats, stats);
        }
    }
}

#[test]
fn a_reload_is_recorded_only_if_configured() {
    let has = |journal: &[u8]| journal.windows(11).any(|window| window == b"very-secret");
    assert!(!has(&session()));
    let config = Config { journal_secrets: Secrets::Keep, ..Config::default() };
    let mut site = Site::new(config, Relay::new(Auth::Tokens(Tokens::default())));
    site.engine.handle_reload(site.now, b"very-secret ann");
    site.turn();
    let journal = site.journal();
    assert!(has(&journal));
    assert_eq!(replay(&journal).expect("nothing differs").omitted_reloads, 0);
}

// ---- divergences ----

/// Behaves differently depending on a number, as a nondeterministic application would from process to process.
struct Nondeterministic(u8);

impl App for Nondeterministic {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        match message {
            Message::Text("mood") => cx.broadcast_to_lobby(
                from.lobby(),
                lobbyd::Exclude::None,
                &Frame::text(if self.0 == 0 { "good" } else { "evil" }),
            ),
            Message::Text("more") if self.0 == 1 => cx.send_to_user(from.user(), &Frame::text("more")),
            Message::Text("less") if self.0 == 0 => cx.send_to_user(from.user(), &Frame::text("less")),
            Message::Text("less") => lobbyd::Sent::default(),
            _ => cx.broadcast_from(from, &Frame::text("as ever")),
        };
    }
}

#[test]
fn the_first_difference_is_named_by_turn_connection_and_byte() {
    #[track_caller]
    fn check(word: &str, named: bool, words: &str) {
        let mut site = Site::new(Config::default(), Nondeterministic(0));
        let users = ["ann", "bob"].map(|user| site.connect(&format!("/ws/a?token={user}"), &[]));
        site.turn();
        for word in ["other", word, "other"] {
            site.bytes(users[1], &wire::text(word));
            site.turn();
        }
        let journal = site.journal();
        assert_eq!(journal::replay(&*journal, Nondeterministic(0)).expect("nothing differs").turn, 4);
        let failure = journal::replay(&*journal, Nondeterministic(1)).expect_err("something differs");
        assert_eq!(failure.summary.as_ref().map(|summary| summary.turn), Some(3), "{failure}");
        let Fault::Diverged(divergence) = &failure.fault else { panic!("{failure}") };
        assert!(failure.to_string().contains(words), "{failure}");
        if named {
            // The 101, then the text `as ever` in its frame.
            let answer = 129 + 2 + 7;
            assert_eq!((divergence.conn, divergence.byte), (Some(users[0]), answer), "{failure}");
        }
    }
    check("mood", true, r"6 bytes, which begin with \x81\x04evil");
    check("more", false, "which begin with");
    check("less", false, "nothing more is sent");
}

#[test]
fn a_closure_of_the_embedder_ends_a_replay() {
    let check = |act: fn(&mut Site<Relay>)| {
        let mut site = Site::new(Config::default(), Relay::default());
        site.connect("/ws/a?token=ann", &[]);
        site.turn();
        act(&mut site);
        site.turn();
        let failure = replay(&site.journal()).expect_err("the closure is not recorded");
        assert!(matches!(failure.fault, Fault::Closure), "{failure}");
        assert!(failure.to_string().starts_with("turn 1 at 0.010000s: the embedding program"), "{failure}");
    };
    check(|site| {
        site.engine.act(site.now, |_, cx| cx.close_user("ann", CloseReason::Kicked));
    });
    check(|site| {
        site.engine.app_mut();
    });
}

// ---- damaged journals ----

/// Replays a journal and returns the fault, if any. A panic fails the test.
fn fault_of(journal: &[u8]) -> Option<Fault> {
    replay(journal).err().map(|failure| {
        assert!(!failure.to_string().is_empty());
        failure.fault
    })
}

#[test]
fn a_truncated_journal_is_replayed_up_to_the_cut() {
    let journal = session();
    let whole = replay(&journal).expect("nothing differs");
    let mut turns = 0;
    for end in 0..journal.len() {
        match replay(&journal[..end]) {
            Ok(summary) => {
                assert!(summary.turn >= turns, "cut at {end}");
                turns = summary.turn;
            }
            // Nothing can be replayed before the first block of the segment is complete.
            Err(ReplayFailure { fault: Fault::Empty, .. }) => assert_eq!(end, 0),
            Err(ReplayFailure { fault: Fault::Broken { .. }, summary: None }) => assert_eq!(turns, 0),
            Err(failure) => panic!("cut at {end}: {failure}"),
        }
    }
    assert_eq!(turns, whole.turn);
}

#[test]
fn every_flipped_bit_is_detected() {
    let journal = session();
    for bit in 0..journal.len() * 8 {
        let mut broken = journal.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        match fault_of(&broken) {
            Some(Fault::NotAJournal | Fault::OtherVersion(_)) => assert!(bit / 8 < 17, "bit {bit}"),
            Some(Fault::Broken { .. }) => assert!(bit / 8 >= 17, "bit {bit}"),
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_is_no_journal_is_reported_as_such() {
    let journal = session();
    assert!(matches!(fault_of(b""), Some(Fault::Empty)));
    assert!(matches!(fault_of(b"{}"), Some(Fault::NotAJournal)));
    assert!(matches!(fault_of(&[0; 100]), Some(Fault::NotAJournal)));
    assert!(matches!(fault_of(&journal[20..]), Some(Fault::NotAJournal)));
    for other in ["2", "9"] {
        let other_version = [format!("lobbyd journal {other}\n").as_bytes(), &journal[17..]].concat();
        let fault = fault_of(&other_version).expect("another version");
        assert!(matches!(&fault, Fault::OtherVersion(version) if version == other));
        let words = format!("it is written in version {other} of the format, and this build reads version 3");
        assert_eq!(fault.to_string(), words);
    }
    // Bytes behind the journal are not taken for a part of it.
    for more in [&b"more"[..], &[0; 64], &journal] {
        assert!(fault_of(&[&journal, more].concat()).is_none_or(|fault| matches!(fault, Fault::Broken { .. })));
    }
    assert!(matches!(fault_of(&[&journal[..], &journal].concat()), Some(Fault::Broken { .. })), "another session");
}

/// Of a block that declares a large length, only the bytes present are read.
#[test]
fn a_declared_length_allocates_no_memory() {
    let journal = session();
    for length in [u32::MAX, 64 << 20, (64 << 20) + 1] {
        // The check of the length is right, but no block of that length follows.
        let check = crc32(0, &length.to_le_bytes());
        let claimed =
            [&b"lobbyd journal 3\n"[..], &length.to_le_bytes(), &check.to_le_bytes(), &[0; 4], &journal[29..]];
        assert!(matches!(fault_of(&claimed.concat()), Some(Fault::Broken { .. })), "{length}");
    }
}

/// A journal with correct checks and invalid entries. Only a faulty build writes one, but it must not cause a panic.
#[test]
fn invalid_entries_give_a_fault_and_never_panic() {
    let journal = session();
    let blocks = blocks_of(&journal);
    assert!(blocks.len() > 5);
    let mut faults = 0;
    for block in 1..blocks.len() {
        for at in 0..blocks[block].len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff, blocks[block][at] ^ 1, blocks[block][at].wrapping_add(1)] {
                let mut blocks = blocks.clone();
                blocks[block][at] = byte;
                match fault_of(&written(&blocks)) {
                    None => {}
                    Some(Fault::Broken { .. } | Fault::Diverged(_) | Fault::Closure) => faults += 1,
                    Some(other) => panic!("byte {at} of block {block}: {other}"),
                }
            }
        }
    }
    assert!(faults > 1000, "{faults}");
}

/// The first block of a segment. `numbers` are session, number, check, wall time, seed and turn.
fn first_block(numbers: [u64; 6], build: &str, config: &str, start: &[u8]) -> Vec<u8> {
    let mut block = vec![1];
    numbers.iter().for_each(|&number| put_number(&mut block, number));
    for text in [build, "an application", config] {
        put_number(&mut block, text.len() as u64);
        block.extend_from_slice(text.as_bytes());
    }
    block.extend_from_slice(start);
    block
}

/// This includes numbers far out of range and configurations that the server refuses.
#[test]
fn an_invalid_first_block_is_refused() {
    #[track_caller]
    fn check(numbers: [u64; 6], config: &str, start: &[u8], entries: &[u8]) {
        let blocks = [first_block(numbers, journal::BUILD, config, start), entries.to_vec()];
        let fault = fault_of(&written(&blocks));
        assert!(matches!(fault, Some(Fault::Broken { .. })), "{config}: {fault:?}");
    }
    const TIMEOUT: u8 = 13;
    let numbers = [1, 1, 0, START.unix_micros, 1, 0];
    let none = &[0];
    for config in ["wheel_granule=2s", "tick_hz=1001", "max_message_bytes=1", "max_headers=0"] {
        check(numbers, config, none, &[TIMEOUT]);
    }
    let most = u64::MAX;
    check([1, most, 0, 0, 1, 0], "", none, &[TIMEOUT]);
    check([1, 1, 0, most, 1, 0], "", none, &[2, 1, TIMEOUT]);
    check([1, 1, 0, 0, 1, most], "", none, &[24, 29]);
    let mut late = vec![2];
    put_number(&mut late, most);
    check(numbers, "", none, &[&*late, &[TIMEOUT]].concat());
    late = vec![2];
    put_number(&mut late, 1 << 62);
    check(numbers, "", none, &[&*late, &[TIMEOUT], &late, &[TIMEOUT]].concat());

    // A start state with one number too large.
    let ahead = [5_000_000, 1_000_000, 500, 3, 9, 2, 1, 1, 2, 3, 4, 0, 0];
    let ticks = [300, 0, 0, 1, 0, 0, 300, 0, 0, 0, 0, 0];
    let entries = [2, 0x80, 0x80, 4, TIMEOUT];
    let first_counter = ahead.len() + 1;
    for wrong in
        [0, 1, 2, 3, 4, 5, 6, 11, 12, 13, first_counter, first_counter + COUNTERS - 1, first_counter + COUNTERS]
    {
        let start = start_block(ahead, &ticks, &[], Some((wrong, most)));
        check(numbers, "tick_hz=60", &start, &entries);
    }
    // Start states that are valid in themselves: a repeated user, more users than are remembered, a wheel ahead of time.
    for (config, users) in
        [("max_remembered_rates=1", &["ann", "ann", "bob"][..]), ("wheel_granule=100ms", &["", "ann"])]
    {
        let start = start_block([7, 0, 1 << 61, 3, 9, 2, 1, 0, 0, 0, 0, 1, 1 << 62], &[], users, None);
        let blocks = [first_block(numbers, journal::BUILD, config, &start), entries.to_vec()];
        assert!(fault_of(&written(&blocks)).is_none(), "{config}");
    }
}

/// Number of counters of an engine.
const COUNTERS: usize = lobbyd::CloseReason::ALL.len() + lobbyd::Reject::ALL.len() + 14;

/// The start state of a segment without connections. The numbers `ahead` precede the counters. One number can be `wrong`.
fn start_block(ahead: [u64; 13], ticks: &[u64], users: &[&str], wrong: Option<(usize, u64)>) -> Vec<u8> {
    let mut start = vec![1];
    let counters = std::iter::once(COUNTERS as u64).chain(vec![0; COUNTERS]);
    let numbers = ahead.into_iter().chain(counters).chain([ticks.len() as u64]).chain(ticks.iter().copied());
    for (at, number) in numbers.enumerate() {
        put_number(&mut start, wrong.filter(|(wrong, _)| *wrong == at).map_or(number, |(_, number)| number));
    }
    put_number(&mut start, users.len() as u64);
    for user in users {
        put_number(&mut start, user.len() as u64);
        start.extend_from_slice(user.as_bytes());
        put_number(&mut start, u64::MAX);
        put_number(&mut start, 1);
    }
    put_number(&mut start, 1);
    start.extend_from_slice(&[4, 127, 0, 0, 1]);
    put_number(&mut start, u64::MAX);
    // The application's own state, empty.
    put_number(&mut start, 0);
    start
}

/// A clock near its maximum is resumed.
#[test]
fn a_clock_at_its_maximum_does_not_panic() {
    const MOST: u64 = 1 << 62;
    // The clock: the last tick, a reference time and the clock's value then, slowdown, paused, and one pending step; then
    // counters.
    let clock = [MOST, 0, 0, 1, 1, 1, MOST, 0, 0, 0];
    let start = start_block([0, 0, 0, 3, 9, 2, 1, 1, 2, 3, 4, 0, 0], &clock, &[], None);
    let resume = [18, 3, 7, 1, 0];
    let entries = [&[13][..], &resume, &[2, 1, 13]].concat();
    let blocks = [first_block([1, 1, 0, 0, 1, 0], journal::BUILD, "tick_hz=1", &start), entries];
    assert!(fault_of(&written(&blocks)).is_none_or(|fault| matches!(fault, Fault::Broken { .. })));
}

/// This covers characters that reverse or hide the rest of the line.
#[test]
fn journal_text_cannot_reorder_a_line() {
    for c in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{2028}'] {
        let build = first_block([1, 1, 0, 0, 1, 0], &format!("1{c}2"), "", &[0]);
        let shown = replay(&written(&[build])).expect_err("another build").to_string();
        assert!(!shown.contains(c), "{shown:?}");
    }
}

/// Printed text may reach a terminal.
#[test]
fn journal_text_is_shown_without_control_characters() {
    let build = first_block([1, 1, 0, 0, 1, 0], "\x1b[2J", "", &[0]);
    let shown = replay(&written(&[build])).expect_err("another build").to_string();
    assert!(shown.contains("\\u{1b}[2J"), "{shown}");
    let shown = replay(b"lobbyd journal \x1b\n").expect_err("another version").to_string();
    assert!(shown.contains("\\u{1b}"), "{shown}");

    let mut blocks = blocks_of(&session());
    let code = b"chess";
    let answered = blocks[1].windows(code.len()).position(|window| window == code).expect("a request names the lobby");
    blocks[1][answered] = 0x1b;
    let journal = written(&blocks);
    let mut replay = Replay::open(&*journal, Relay::default(), false).expect("the first block is complete");
    replay.trace_events();
    while !matches!(replay.step(), Err(_) | Ok(Step::End)) {}
    let shown: Vec<String> = replay.events().iter().map(ToString::to_string).collect();
    assert!(shown.iter().any(|line| line.contains("asks for lobby \\u{1b}hess")), "{shown:?}");
    assert!(!shown.concat().contains(char::is_control), "{shown:?}");
}

#[test]
fn another_build_is_named_and_can_be_allowed() {
    let mut blocks = blocks_of(&session());
    assert_eq!(written(&blocks), session(), "the test writes the journal's format");
    let at = blocks[0].windows(journal::BUILD.len()).position(|window| window == journal::BUILD.as_bytes());
    blocks[0][at.expect("the block names its build")] ^= 1;
    let other = written(&blocks);
    assert!(matches!(fault_of(&other), Some(Fault::OtherBuild(build)) if build != journal::BUILD));
    assert!(Replay::open(&*other, Relay::default(), true).is_ok());
}

/// Panics on the token `nobody` and on the message `boom`.
struct Fragile;

impl App for Fragile {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        assert_ne!(request.token(), Some("nobody"), "as the token requires");
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, message: Message<'_>) {
        assert_ne!(message, Message::Text("boom"));
    }
}

#[test]
fn the_input_that_caused_a_panic_is_last_in_the_journal() {
    for (token, word) in [("ann", "boom"), ("nobody", "well")] {
        let stored = Rc::default();
        let mut site = Site::with(Config::default(), Fragile, Disk { left: usize::MAX, stored: Rc::clone(&stored) });
        let panics = AssertUnwindSafe(|| {
            let conn = site.connect(&format!("/ws/a?token={token}"), &[]);
            site.turn();
            site.bytes(conn, &wire::text(word));
        });
        assert!(panic::catch_unwind(panics).is_err());
        drop(site);
        let replay = AssertUnwindSafe(|| journal::replay(&**stored.borrow(), Fragile));
        match panic::catch_unwind(replay) {
            // The replay panics at the same input, where it can be debugged.
            Err(_) => assert_eq!(word, "boom"),
            // The replay does not call `authorize`, and the decision was not recorded.
            Ok(summary) => {
                let summary = summary.expect("nothing differs");
                assert_eq!((word, summary.is_open_ended, summary.stats.pending), ("well", true, 1));
            }
        }
    }
}

// ---- write errors ----

/// A disk that stores a number of bytes and then fails for ever.
struct Disk {
    left: usize,
    stored: Rc<std::cell::RefCell<Vec<u8>>>,
}

impl Sink for Disk {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let bytes = [block, rest].concat();
        let accepted = bytes.len().min(self.left);
        self.left -= accepted;
        self.stored.borrow_mut().extend_from_slice(&bytes[..accepted]);
        if accepted == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }
}

#[test]
fn a_full_disk_stops_unrecorded_output_or_ends_the_journal() {
    for on_error in [OnJournalError::Stop, OnJournalError::Continue] {
        let config = Config { journal_on_error: on_error, ..Config::default() };
        let stored = Rc::default();
        let mut site = Site::with(config, Verbatim::default(), Disk { left: 8000, stored: Rc::clone(&stored) });
        let ann = site.connect("/ws/a?token=ann", &[]);
        let bob = site.connect("/ws/a?token=bob", &[]);
        site.turn();
        let mut before = site.engine.stats().counters.bytes_out;
        let mut refused = 0;
        for _ in 0..100 {
            site.bytes(ann, &wire::text(&"x".repeat(100)));
            let mut sockets = MemorySockets::default();
            refused += u32::from(site.engine.flush(&mut sockets).is_err());
            before += sockets.take_writes().iter().map(|write| write.bytes.len() as u64).sum::<u64>();
        }
        assert!(site.engine.ending(bob).is_none(), "the member stays connected");
        let recording = site.engine.recording().expect("the session is recorded");
        assert!(recording.has_failed);
        match on_error {
            OnJournalError::Stop => assert!(refused > 10),
            OnJournalError::Continue => assert_eq!((refused, before), (0, site.engine.stats().counters.bytes_out)),
        }
        let stored = stored.borrow();
        let summary = journal::replay(&**stored, Verbatim::default()).expect("the stored part is valid");
        assert!(summary.torn.is_some() && summary.confirmed > 5, "{summary:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_written_is_refused() {
    let config = Config { auth_timeout: Duration::from_nanos(10_000_001_234), ..Config::default() };
    let mut engine = Engine::new(config, START, Relay::default());
    let error = journal::record(&mut engine, START, Vec::new())
        .expect_err("the duration is not a whole number of milliseconds");
    assert!(error.to_string().contains("a part of a millisecond"), "{error}");
}

/// An input larger than the buffer is written whole, as one block.
#[test]
fn large_inputs_are_recorded_whole() {
    let mut site = Site::new(Config::default(), Relay::default());
    let ann = site.connect("/ws/a?token=ann", &[]);
    site.turn();
    for length in [200_000, 262_000, 262_144, 300_000, 1_000_000] {
        site.engine.handle_command(site.now, &vec![b'c'; length]);
        site.bytes(ann, &vec![0xff; length]);
        site.turn();
    }
    let stats = site.engine.stats();
    assert_eq!(replay(&site.journal()).expect("nothing differs").stats, stats);
}

// ---- segments ----

/// A folder that exists while the test runs.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the folder can be written");
        Folder(path)
    }

    fn journal(&self) -> PathBuf {
        self.0.join("session")
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_none_or(|end| end != "lock")).collect();
        paths.sort();
        paths
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read_all(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    open_journal(path).expect("the file exists").read_to_end(&mut bytes).expect("the file can be read");
    bytes
}

const SHORT: Option<Duration> = Some(Duration::from_millis(5));

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
        listen: "127.0.0.1:0".parse().expect("an address"),
        journal: Some(folder.journal()),
        journal_max_bytes: Some(ByteSize(20_000)),
        tick_hz: Some(1000),
        ..Config::default()
    };
    let mut server = Server::bind(config.clone(), Joins::default()).expect("a free port");
    let names = ["ann", "bob", "cid"].map(|user| talk(&mut server, user, 60));
    assert_eq!(names, ["s1", "s2", "s3"], "every join has a new name, across segments");
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
    let listen = "127.0.0.1:0".parse().expect("an address");
    let config = Config { listen, journal: Some(folder.0.join("missing/session")), ..Config::default() };
    let error = Server::bind(config, Relay::default()).err().expect("there is no such folder");
    assert!(matches!(&error, Error::Journal(..)) && error.to_string().contains("missing/session"), "{error}");
}

#[test]
fn a_journal_has_one_server() {
    let folder = Folder::new("locked");
    let config = |name: &str| {
        let listen = "127.0.0.1:0".parse().expect("an address");
        Config { listen, journal: Some(folder.0.join(name)), ..Config::default() }
    };
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
    let listen = "127.0.0.1:0".parse().expect("an address");
    for (path, words) in [
        (folder.0.join(""), "must name a file"),
        (folder.0.join(".."), "must name a file"),
        ("/".into(), "must name a file"),
        (folder.0.clone(), "it is a folder"),
    ] {
        let config = Config { listen, journal: Some(path.clone()), ..Config::default() };
        let error = Server::bind(config, Relay::default()).err().expect("the name is refused").to_string();
        assert!(error.contains(words) && error.contains("journal = "), "{}: {error}", path.display());
    }
    assert!(folder.segments().is_empty());
}

/// Output is sent only after the inputs that caused it are in the file, so the death of the process loses nothing.
#[test]
fn bytes_a_client_has_read_are_already_recorded() {
    let folder = Folder::new("kept");
    let listen = "127.0.0.1:0".parse().expect("an address");
    let config = Config { listen, journal: Some(folder.journal()), journal_sync: true, ..Config::default() };
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

// ---- timeline ----

#[test]
fn a_timeline_shows_joins_messages_leaves_and_reasons() {
    let mut site = Site::new(Config::default(), Relay::default());
    let ann = site.connect("/ws/chess?token=ann", &[]);
    let bob = site.connect("/ws/chess?token=bob%1b", &[]);
    site.turn();
    site.bytes(ann, &wire::text(r#"{"type":"broadcast","data":"hello\u001b[2J"}"#));
    site.bytes(ann, &wire::text("{\"type\":\"move\",\"to\":\"\u{7f}\"}"));
    site.turn();
    site.engine.handle_hangup(site.now, bob);
    site.turn();
    while site.engine.ending(ann).is_none() {
        site.now = site.engine.poll_timeout().expect("ann is pinged");
        site.turn();
    }
    let journal = site.journal();
    let mut replay = Replay::open(&*journal, Relay::default(), false).expect("the journal is complete");
    replay.trace_events();
    while replay.step().expect("nothing differs") != Step::End {}
    let lines: Vec<String> = replay.events().iter().map(ToString::to_string).collect();
    let text = lines.join("\n");
    for words in [
        "conn=0.1 connects from 127.0.0.1:4000",
        "conn=0.1 asks for lobby chess",
        "conn=0.1 user=\"ann\" lobby=chess joins",
        "conn=1.2 ends: 0 http_refused",
        "user=\"ann\" lobby=chess broadcasts \\\"hello\\\\u001b[2J\\\"",
        "says {\\\"type\\\":\\\"move\\\",\\\"to\\\":\\\"\\u{7f}\\\"}",
        "user=\"ann\" lobby=chess leaves: 4201 stale",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    let ends = replay.state();
    assert!(ends.starts_with("turn ") && ends.contains("connections=0"), "{ends}");
}

/// Ends a turn, and returns the timestamp of the `health_ping` among the bytes that it writes.
fn health_ping<A: App>(site: &mut Site<A>) -> String {
    let mut sockets = MemorySockets::default();
    site.engine.end_turn(site.now, &mut sockets).expect("memory can be written to");
    let output: Vec<u8> = sockets.take_writes().into_iter().flat_map(|write| write.bytes).collect();
    let output = String::from_utf8_lossy(&output).into_owned();
    let after = output.split(r#""health_ping","timestamp":"#).nth(1).expect("a health_ping");
    after.split('}').next().expect("split returns at least one part").to_owned()
}

#[test]
fn the_text_of_each_event_of_a_json_session_is_fixed() {
    let mut site = Site::new(
        Config {
            tick_hz: Some(100),
            max_catch_up_ticks: 1,
            health_interval: Some(Duration::from_secs(1)),
            health_timeout: Duration::from_millis(100),
            outbound_high_mark: ByteSize(2000),
            outbound_low_mark: ByteSize(1000),
            ..Config::default()
        },
        Relay::default(),
    );
    // Two users join, and one of them connects again.
    site.engine.handle_wall_time(site.now, START.unix_micros + 5_000_000);
    site.connect("/ws/chess?token=ann", &[]);
    let bob = site.connect("/ws/chess?token=bob", &[]);
    let ann = site.connect("/ws/chess?token=ann", &[]);
    site.turn();
    // Requests that get no seat.
    for (target, lines) in [
        ("/ws/b%20d?token=eve", &[][..]),
        ("/elsewhere", &[]),
        ("/ws/chess?token=eve", &["Origin: https://evil.example"]),
        ("/ws/chess", &[]),
        ("/%zz", &[]),
    ] {
        site.connect(target, lines);
    }
    site.connect_raw(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n");
    site.turn();
    // Messages; the last one is longer than what is shown.
    site.bytes(ann, &wire::text(r#"{"type":"broadcast","data":"\u001b"}"#));
    site.bytes(ann, &wire::text(r#"{"type":"direct","to":"bob\"","data":[1]}"#));
    site.bytes(ann, &wire::text("{\"type\":\"move\",\"to\":\"\u{7f}\"}"));
    site.turn();
    // Bob's socket blocks, and is writable again later.
    for _ in 0..3 {
        site.bytes(ann, &wire::text(&format!(r#"{{"type":"broadcast","data":"{}"}}"#, "é".repeat(400))));
    }
    site.now = site.now + Duration::from_millis(10);
    let mut blocked = MemorySockets::default();
    site.conns.iter().for_each(|&conn| blocked.limit(conn, 0));
    site.engine.end_turn(site.now, &mut blocked).expect("memory can be written to");
    site.turn();
    [ann, bob].iter().for_each(|&conn| site.engine.handle_writable(site.now, conn));
    site.turn();
    site.engine.handle_command(site.now, b"anything");
    site.engine.handle_reload(site.now, b"a list");
    let payload = lobbyd::Payload::Json(r#"{"a":1}"#.into());
    let publish = OperatorCommand::Publish { lobby: "chess".into(), payload };
    site.engine.handle_operator(site.now, publish).expect("the lobby exists");
    site.turn();
    // Ticks are late and skipped. One of two members answers the health check.
    site.now = site.now + Duration::from_millis(990);
    let timestamp = health_ping(&mut site);
    site.now = site.now + Duration::from_micros(12_345);
    site.bytes(ann, &wire::text(&format!(r#"{{"type":"health_pong","timestamp":{timestamp}}}"#)));
    site.now = site.now + Duration::from_millis(100);
    site.turn();
    site.engine.handle_hangup(site.now, bob);
    site.engine.handle_drain(site.now);
    site.engine.handle_drain(site.now);
    site.turn();
    assert_eq!(timeline(&site.journal(), Relay::default()), JSON_TIMELINE);
}

const JSON_TIMELINE: &str = r#"0.000000s server sets the wall time to 1700000005000000 us
0.000000s conn=0.1 connects from 127.0.0.1:4000
0.000000s conn=0.1 asks for lobby chess
0.000000s conn=0.1 user="ann" lobby=chess joins
0.000000s conn=1.2 connects from 127.0.0.1:4000
0.000000s conn=1.2 asks for lobby chess
0.000000s conn=1.2 user="bob" lobby=chess joins
0.000000s conn=2.3 connects from 127.0.0.1:4000
0.000000s conn=2.3 asks for lobby chess
0.000000s conn=2.3 user="ann" lobby=chess takes over the user's seat
0.000000s conn=0.1 user="ann" lobby=chess leaves: 4004 replaced: a newer connection of the same user took the seat
0.010000s conn=3.4 connects from 127.0.0.1:4000
0.010000s conn=3.4 asks for a lobby with an invalid code
0.010000s conn=3.4 ends: 4007 bad_lobby_code: a lobby code is 1 to 64 letters, digits, _ or -
0.010000s conn=4.5 connects from 127.0.0.1:4000
0.010000s conn=4.5 asks for a path that does not exist
0.010000s conn=4.5 ends: 0 http_refused: the request was answered with an HTTP status
0.010000s conn=5.6 connects from 127.0.0.1:4000
0.010000s conn=5.6 asks for lobby chess, from a page of a forbidden origin
0.010000s conn=5.6 ends: 4003 forbidden_origin: the page's origin is not allowed
0.010000s conn=6.7 connects from 127.0.0.1:4000
0.010000s conn=6.7 asks for lobby chess
0.010000s conn=6.7 ends: 4001 unauthorized: there was no token, or it was refused
0.010000s conn=7.8 connects from 127.0.0.1:4000
0.010000s conn=7.8 sends an invalid request: the path is not properly percent-encoded UTF-8
0.010000s conn=7.8 ends: 0 http_refused: the request was answered with an HTTP status
0.010000s conn=8.9 connects from 127.0.0.1:4000
0.010000s conn=8.9 asks for a health check
0.010000s conn=8.9 ends: 0 http_refused: the request was answered with an HTTP status
0.030000s conn=2.3 user="ann" lobby=chess broadcasts \"\\u001b\"
0.030000s conn=2.3 user="ann" lobby=chess says [1] to "bob\""
0.030000s conn=2.3 user="ann" lobby=chess says {\"type\":\"move\",\"to\":\"\u{7f}\"}
0.040000s conn=2.3 user="ann" lobby=chess broadcasts \"ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…
0.040000s conn=2.3 user="ann" lobby=chess broadcasts \"ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…
0.040000s conn=2.3 user="ann" lobby=chess broadcasts \"ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…
0.040000s conn=1.2 user="bob" lobby=chess is above the high-water mark: 2559 bytes are queued
0.060000s conn=1.2 user="bob" lobby=chess is below the low-water mark again: 0 bytes are queued
0.060000s server receives a command of 8 bytes
0.060000s server receives a reload of 6 bytes, which are not recorded
0.060000s server receives an operator command: Publish { lobby: "chess", payload: Json("{\"a\":1}") }
1.060000s server runs tick 105 10.000 ms late, after 97 skipped ticks
1.072345s conn=2.3 user="ann" lobby=chess answers a health check after 12.345 ms
1.182345s conn=1.2 user="bob" lobby=chess does not answer a health check
1.182345s server runs tick 117 12.345 ms late, after 10 skipped ticks
1.182345s server runs tick 118 2.345 ms late, after 0 skipped ticks
1.182345s conn=1.2 user="bob" lobby=chess leaves: 1006 hangup: the connection ended without a close frame
1.182345s server drains
1.182345s conn=2.3 user="ann" lobby=chess leaves: 1001 server_shutdown: the server is shutting down
1.192345s server runs tick 119 2.345 ms late, after 0 skipped ticks
turn 11 at 1.192345s
connections=0 capacity=0% lobbies=0 pending=3 closing=2 tick=119 ticks_ran=12 late_us=0/12345/12345 caught_up=2 skipped=107 accepted=9 joined=2 taken_over=1 left=2 bytes_in=4049 bytes_out=5903 messages_in=7 frames_out=21 health_checks=2 health_checks_failed=1 closed.hangup=1 closed.server_shutdown=1 closed.unauthorized=1 closed.forbidden_origin=1 closed.replaced=1 closed.bad_lobby_code=1 closed.http_refused=3 error.user_not_found=1
"#;

#[test]
fn the_text_of_each_event_of_a_raw_session_is_fixed() {
    let config = Config {
        attempts_per_minute: lobbyd::Limit::at_most(1),
        attempt_burst: 1,
        journal_secrets: Secrets::Keep,
        ..Config::default()
    };
    let mut site = Site::new(config, Verbatim::default());
    let ann = site.connect("/ws/chess?token=ann", &[]);
    site.connect("/ws/chess?token=bob", &[]);
    site.turn();
    site.bytes(ann, &wire::text("to \"bob\"\n"));
    site.bytes(ann, &wire::frame(wire::Opcode::BINARY, true, &[0; 300], [1; 4]));
    site.engine.handle_reload(site.now, b"a list");
    site.turn();
    site.bytes(ann, &wire::close(1000, ""));
    site.turn();
    assert_eq!(timeline(&site.journal(), Verbatim::default()), RAW_TIMELINE);
}

const RAW_TIMELINE: &str = r#"0.000000s conn=0.1 connects from 127.0.0.1:4000
0.000000s conn=0.1 asks for lobby chess
0.000000s conn=0.1 user="ann" lobby=chess joins
0.000000s conn=1.2 connects from 127.0.0.1:4000
0.000000s conn=1.2 asks for a seat
0.000000s conn=1.2 ends: 0 http_refused: the request was answered with an HTTP status
0.010000s conn=0.1 user="ann" lobby=chess says to \"bob\"\n
0.010000s conn=0.1 user="ann" lobby=chess sends 300 bytes
0.010000s server receives a reload of 6 bytes
0.020000s conn=0.1 user="ann" lobby=chess leaves: 1000 peer_closed: the peer sent a close frame
turn 3 at 0.030000s
connections=0 capacity=0% lobbies=0 pending=1 closing=0 accepted=2 joined=1 left=1 bytes_in=663 bytes_out=389 messages_in=2 closed.peer_closed=1 closed.http_refused=1
"#;

// ---- the program ----

#[cfg(feature = "bin")]
#[test]
fn the_replay_exit_code_classifies_a_journal() {
    let folder = Folder::new("program");
    #[track_caller]
    fn check(folder: &Folder, journal: Option<&[u8]>, arguments: &[&str], code: i32, words: &str) {
        let path = folder.0.join("one");
        let _ = fs::remove_file(&path);
        if let Some(journal) = journal {
            fs::write(&path, journal).expect("the folder can be written");
        }
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_lobbyd"))
            .arg("replay")
            .arg(&path)
            .args(arguments)
            .output()
            .expect("the program starts");
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8(shown).expect("UTF-8");
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    let journal = session();
    let blocks = blocks_of(&journal);
    check(&folder, Some(&journal), &[], 0, "turns confirmed");
    check(&folder, Some(&journal), &["--print", "--user", "ann", "--from", "0.005"], 0, "broadcasts");
    check(&folder, Some(&journal), &["--stop-at", "2"], 0, "lobby chess members=2");
    check(&folder, Some(&journal[..journal.len() - 1]), &[], 0, "torn bytes at the end");
    check(&folder, None, &[], 2, "no such journal");
    check(&folder, Some(&journal), &["--from", "soon"], 2, "is not a number of seconds");

    // A block that begins with the check of a write, made wrong here.
    let mut other = blocks.clone();
    other.iter_mut().find(|block| block[0] == 25).expect("a block with a write")[1] ^= 1;
    check(
        &folder,
        Some(&written(&other)),
        &[],
        4,
        "turn 1 at 0.010000s: conn=0.1 is sent something else from its byte 0 on",
    );

    let mut flipped = journal.clone();
    flipped[journal.len() / 2] ^= 1;
    check(&folder, Some(&flipped), &[], 5, "it is damaged before byte");
    check(&folder, Some(b""), &[], 5, "it is empty");
    check(&folder, Some(b"#!/bin/sh\n"), &[], 5, "it is no journal");
    check(&folder, Some(&[b"lobbyd journal 9\n", &journal[17..]].concat()), &[], 6, "version 9");
    let mut other = blocks.clone();
    let at = other[0].windows(journal::BUILD.len()).position(|window| window == journal::BUILD.as_bytes());
    other[0][at.expect("the block names its build")] ^= 1;
    check(&folder, Some(&written(&other)), &[], 6, "replay it with the build that wrote it");
    check(&folder, Some(&written(&other)), &["--any-build"], 0, "turns confirmed");

    let mut site = Site::new(Config::default(), Nondeterministic(0));
    site.turn();
    check(&folder, Some(&site.journal()), &[], 7, "not with one of the built-in applications");
    let mut site = Site::new(Config::default(), Relay::default());
    site.engine.act(Time::ZERO, |_, _| {});
    check(&folder, Some(&site.journal()), &[], 7, "through `act` or `app_mut`");
}
