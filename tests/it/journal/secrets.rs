//! A journal contains no token, and no word of a request that may be one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use lobbyd::admission::Route;
use lobbyd::apps::{Auth, Relay, Tokens, Verbatim};
use lobbyd::config::Secrets;
use lobbyd::journal::{self, Summary};
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire;
use lobbyd::{App, Authorization, CloseReason, Config, Context, Frame, Member, Message, Protocol, Request};

use super::site::{Site, replay, session, timeline};

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
        format!("/ws/chess?token=known&session={s}"),
        format!("/ws/chess?token=known&session=0123456789abcdef&was={s}"),
        format!("/ws/chess?token=known&session=0123456789abcdef&epoch={s}&seq={s}&n={s}"),
        format!("/ws/chess?token=known&session={s}%zz"),
        format!("/ws/chess?x={s}%zz"),
        format!("/ws/chess?x={s}%00"),
        format!("/ws/chess&token={s}"),
        format!("/ws/chess%26token%3D{s}"),
        format!("/ws/chess%3Ftoken={s}"),
        format!("/ws/chess;token={s}"),
        format!("/ws/chess/{s}"),
        format!("/ws/chess/{s}?token=known"),
        // A lobby code is not secret.
        if lobbyd::admission::is_lobby_code(s) { "/ws/".to_owned() } else { format!("/ws/{s}") },
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
        let allowed_origin = lobbyd::config::Origins { any, ..lobbyd::config::Origins::default() };
        let config = Config { trusted_proxies, allowed_origin, ..Config::default() };
        let summaries =
            [check_secrets(&config, || Relay::new(tokens())), check_secrets(&config, || Verbatim::new(tokens()))];
        for Summary { stats, .. } in summaries {
            assert!(stats.counters.joined > 100, "{}", stats.counters.joined);
            // `Verbatim` has no sessions.
            let has_sessions = stats.counters.closed(CloseReason::BadMessage) > 0;
            assert!(!has_sessions || stats.counters.closed(CloseReason::BadMessage) > 10);
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

/// Names of sessions are redacted like tokens, and also with `journal_secrets=keep`: neither the journal, the printed events
/// nor any answer contains one.
#[test]
fn no_name_of_a_session_is_in_a_journal_or_in_an_answer() {
    const NAMES: [&str; 3] = ["s3cret-4f1c-session", "s3cret-4f1c-before_it", "s3cret-4f1c-is.no.name"];
    for journal_secrets in [Secrets::Omit, Secrets::Keep] {
        let mut site = Site::new(Config { journal_secrets, ..Config::default() }, Relay::default());
        let mut sockets = MemorySockets::default();
        for first in NAMES {
            for second in NAMES {
                for target in [
                    format!("/ws/chess?token=ann&session={first}&was={second}&epoch=1&seq=2&n=3"),
                    format!("/ws/chess?session={first}&session={second}"),
                    format!("/ws/chess?token=ann&session=&session={first}&n={second}"),
                    format!("/ws/chess?token=ann&session={first}&was={second}%zz"),
                    format!("/ws/no%20code?session={first}&was={second}"),
                    format!("/health/live?session={first}&was={second}"),
                ] {
                    let conn = site.connect(&target, &["Origin: http://evil.example"]);
                    let other = site.connect(&target, &[]);
                    let torn = site.accept();
                    target.as_bytes().chunks(20).for_each(|piece| site.bytes(torn, piece));
                    let plain = site.connect_raw(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
                    site.now = site.now + Duration::from_millis(10);
                    site.engine.end_turn(site.now, &mut sockets).expect("memory takes all bytes");
                    for conn in [conn, other, torn, plain] {
                        site.engine.handle_hangup(site.now, conn);
                        check_has_no_name(&sockets.written(conn), "answer");
                    }
                    site.turn();
                }
            }
        }
        let (stats, journal) = (site.engine.stats(), site.journal());
        let closed = |reason| stats.counters.closed(reason);
        assert!(
            stats.counters.joined + stats.counters.resumed > 3 && closed(CloseReason::BadMessage) > 5,
            "{}",
            stats.line()
        );
        check_has_no_name(&journal, "journal");
        check_has_no_name(timeline(&journal, Relay::default()).as_bytes(), "timeline");
        assert_eq!(replay(&journal).expect("nothing differs").stats, stats);
    }

    #[track_caller]
    fn check_has_no_name(bytes: &[u8], place: &str) {
        let found = bytes.windows(11).any(|window| window == b"s3cret-4f1c");
        assert!(!found, "a name is in the {place}: {}", bytes.escape_ascii());
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
