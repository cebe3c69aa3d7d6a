//! The operators' page: constant files that are served without the token.

use lobbyd::Config;
use lobbyd::admin::{AdminConns, Token};
use lobbyd::apps::Relay;

use super::{config, get, read};
use crate::common::scenario::World;

const FILES: [(&str, &str); 3] = [
    ("/", "text/html; charset=utf-8"),
    ("/page.css", "text/css; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
];
const TOKEN: &str = "correct-horse-battery";

/// A port that requires a token.
struct Port {
    world: World<Relay>,
    conns: AdminConns,
}

impl Port {
    fn new(config: &Config) -> Port {
        let token = Token::read(TOKEN).expect("a token");
        Port { world: World::new(config.clone(), Relay::default()), conns: AdminConns::new(config, Some(token)) }
    }

    fn open(&mut self) -> usize {
        self.conns.handle_accept(self.world.now, ([127, 0, 0, 1], 5000).into()).expect("there is room")
    }

    /// Sends a request and returns head and body of the answer.
    #[track_caller]
    fn ask(&mut self, client: usize, request: &str) -> (String, String) {
        self.conns.handle_bytes(client, request.as_bytes());
        self.conns.work(self.world.now, &mut self.world.engine);
        let bytes = self.conns.pending(client).to_vec();
        self.conns.handle_written(self.world.now, client, bytes.len());
        let text = String::from_utf8(bytes).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request}: {text:?}"));
        (head.to_owned(), body.to_owned())
    }
}

/// All files, with their heads, as a browser without the token gets them.
fn files() -> Vec<(String, String)> {
    let mut port = Port::new(&config());
    let client = port.open();
    FILES.iter().map(|(path, _)| port.ask(client, &get(path))).collect()
}

#[test]
fn the_page_is_served_without_the_token_and_its_data_is_not() {
    for ((path, media_type), (head, body)) in FILES.into_iter().zip(files()) {
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        for line in [
            &format!("Content-Type: {media_type}"),
            "X-Content-Type-Options: nosniff",
            "X-Frame-Options: DENY",
            "Cache-Control: no-store",
            "Referrer-Policy: no-referrer",
            "Cross-Origin-Opener-Policy: same-origin",
            "Cross-Origin-Resource-Policy: same-origin",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{path}: no {line} in {head}");
        }
        let policy = head.lines().find_map(|line| line.strip_prefix("Content-Security-Policy: ")).expect("a policy");
        for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"] {
            assert!(policy.split("; ").any(|one| one == rule), "{path}: no {rule} in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        assert!(body.len() > 1000 && !body.contains(TOKEN), "{path}");
        let mut port = Port::new(&config());
        let client = port.open();
        let (head_only, nothing) = port.ask(client, &get(path).replace("GET", "HEAD"));
        assert_eq!((head_only, &*nothing), (head, ""), "{path}");
        let (head, _) = port.ask(client, &get(&format!("{path}?any=query")));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
    }
    let mut port = Port::new(&config());
    let client = port.open();
    for path in ["/stats", "/lobbies", "/page.html", "/page", "/page.js/", "//", "/index.html"] {
        let (head, _) = port.ask(client, &get(path));
        assert!(head.starts_with("HTTP/1.1 401 "), "{path}: {head}");
    }
}

#[test]
fn the_page_is_small_and_has_nothing_inline_and_nothing_from_elsewhere() {
    let files = files();
    let sum: usize = files.iter().map(|(_, body)| body.len()).sum();
    assert!(sum <= 40 << 10, "the page has {sum} bytes");
    let [(_, html), (_, css), (_, script)] = &files[..] else { unreachable!("there are three files") };
    for part in [" style=", "<style", "javascript:", " onclick", " onsubmit", " onload", "//"] {
        assert!(!html.contains(part), "{part}");
    }
    assert_eq!(html.matches("<script").count(), 1);
    assert!(!css.contains("url(") && !css.contains("@import"));
    for part in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "localStorage",
        "sessionStorage",
        "cookie",
        "https:",
    ] {
        assert!(!script.contains(part), "{part}");
    }
}

#[test]
fn the_page_is_got_from_this_server_only_and_only_got() {
    let mut port = Port::new(&config());
    let mut check = |request: String, status: u16, word: &str| {
        let client = port.open();
        let (head, body) = port.ask(client, &request);
        let answer = read(&format!("{head}\r\n\r\n{body}"));
        assert_eq!((answer.status, &answer.body["error"]), (status, &word.into()), "{request}");
    };
    for (path, _) in FILES {
        let get = get(path);
        check(get.replace("localhost:9002", "evil.example"), 403, "foreign_host");
        check(get.replace("\r\n\r\n", "\r\nOrigin: http://evil.example\r\n\r\n"), 403, "foreign_origin");
        check(get.replace("GET", "POST"), 405, "method_not_allowed");
        check(get.replace("\r\n\r\n", "\r\nContent-Length: 5000\r\n\r\n"), 413, "too_long");
    }
}

/// A client that loads the page without the token takes no slot of an operator.
#[test]
fn loading_the_page_displaces_no_operator() {
    let config = Config { max_admin_connections: 1, max_admin_pending: 4, ..config() };
    let mut port = Port::new(&config);
    let operator = port.open();
    let with_token = get("/stats").replace("\r\n\r\n", &format!("\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"));
    assert!(port.ask(operator, &with_token).0.starts_with("HTTP/1.1 200 OK\r\n"));
    for _ in 0..20 {
        let stranger = port.open();
        for (path, _) in FILES {
            assert!(port.ask(stranger, &get(path)).0.starts_with("HTTP/1.1 200 OK\r\n"));
        }
    }
    while let Some(closed) = port.conns.poll_closed() {
        assert_ne!(closed, operator);
    }
    assert!(port.ask(operator, &with_token).0.starts_with("HTTP/1.1 200 OK\r\n"));
}
