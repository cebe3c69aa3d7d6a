//! Hostile and hung-up clients of the admin port: who keeps a slot, and who gives way.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::admin::{AdminConns, Token};
use lobbyd::apps::Relay;

use super::{THREE, config, get, post, read};
use crate::common::scenario::World;

/// The bytes of a request that shows `token`.
fn with_token(request: &str, token: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\nAuthorization: Bearer {token}\r\n\r\n"), 1)
}

const TOKEN: &str = "correct-horse-battery";

/// Operator connections whose answers are read at once, unless a test leaves them unread.
struct Port {
    world: World<Relay>,
    conns: AdminConns,
    closed: Vec<usize>,
}

impl Port {
    fn new(config: &Config, token: Option<&str>) -> Port {
        let token = token.map(|token| Token::read(token).expect("a token"));
        let mut world = World::new(config.clone(), Relay::default());
        world.run(THREE);
        Port { world, conns: AdminConns::new(config, token), closed: Vec::new() }
    }

    /// Accepts a socket as a driver does: with its request, if that has arrived already.
    #[track_caller]
    fn accept(&mut self, address: [u8; 4], request: &str) -> usize {
        assert!(self.conns.has_room(), "there is room in each turn");
        let client = self.conns.handle_accept(self.world.now, (address, 5000).into()).expect("there is room");
        self.conns.handle_bytes(client, request.as_bytes());
        client
    }

    /// Serves one request of each client, and leaves the answers unread.
    fn work(&mut self) {
        self.conns.work(self.world.now, &mut self.world.engine);
        self.world.flush();
    }

    /// Takes the answer of a client, which has read it.
    fn take(&mut self, client: usize) -> String {
        let bytes = self.conns.pending(client).to_vec();
        self.conns.handle_written(self.world.now, client, bytes.len());
        String::from_utf8(bytes).expect("UTF-8")
    }

    /// Ends the turn: every client but those in `stalled` reads its answer.
    fn end_turn(&mut self, stalled: &[usize]) {
        let clients: Vec<usize> = self.conns.clients().filter(|client| !stalled.contains(client)).collect();
        clients.into_iter().for_each(|client| drop(self.take(client)));
        self.closed.extend(std::iter::from_fn(|| self.conns.poll_closed()));
    }

    /// Sends a request on an open connection and returns the status of the answer, 0 if there is none.
    #[track_caller]
    fn ask(&mut self, client: usize, request: &str) -> u16 {
        self.conns.handle_bytes(client, request.as_bytes());
        // In the second turn, slots of clients that were answered in the first one are free.
        self.status(client)
    }

    /// Runs two turns, and returns the status of the answer to `client`.
    fn status(&mut self, client: usize) -> u16 {
        for _ in 0..2 {
            self.work();
            let answer = self.take(client);
            self.end_turn(&[]);
            if !answer.is_empty() {
                return read(&answer).status;
            }
        }
        0
    }

    fn is_open(&self, client: usize) -> bool {
        self.conns.clients().any(|key| key == client) && !self.closed.contains(&client)
    }
}

/// What a stranger sends, and never more.
fn hostile() -> Vec<String> {
    let pipelined = get("/health/live").repeat(20);
    vec![
        String::new(),
        "G".into(),
        "GET /stats HTTP/1.1\r\nHost: localhost\r\n".into(),
        get("/stats"),
        with_token(&get("/stats"), "wrong-horse-battery"),
        with_token(&post("/lobbies/chess/publish", "{\"data\":"), "wrong-horse-battery")
            .replace("Length: 8", "Length: 800"),
        post("/health/live", "{}"),
        get("/health/ready"),
        get("/health/live").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"),
        pipelined,
        "\x16\x03\x01".into(),
    ]
}

/// However strangers behave, they displace each other only: an operator keeps its connection, and a new one is served.
#[test]
fn strangers_displace_strangers_only() {
    let config = Config { max_admin_connections: 2, max_admin_pending: 3, ..config() };
    for request in hostile() {
        for stalls in [false, true] {
            let mut port = Port::new(&config, Some(TOKEN));
            let operator = port.accept([10, 0, 0, 1], &with_token(&get("/stats"), TOKEN));
            assert_eq!(port.status(operator), 200);
            let mut strangers = Vec::new();
            for turn in 0..20_u8 {
                for _ in 0..3 {
                    strangers.push(port.accept([10, 0, 0, 2 + turn % 2], &request));
                }
                port.work();
                port.end_turn(if stalls { &strangers } else { &[] });
            }
            assert!(port.conns.clients().count() <= 5, "{request}");
            assert!(port.is_open(operator), "{request}");
            let newcomer = port.accept([10, 0, 0, 1], &with_token(&get("/lobbies"), TOKEN));
            assert_eq!(port.status(newcomer), 200, "{request}");
            assert_eq!(port.ask(operator, &with_token(&get("/stats"), TOKEN)), 200, "{request}");
            let probe = port.accept([10, 0, 0, 4], &get("/health/live"));
            assert_eq!(port.status(probe), 200, "{request}");
        }
    }
}

/// A request that arrives later than its connection is served too, if the flood comes from other addresses.
#[test]
fn a_flood_of_connections_displaces_its_own() {
    let config = Config { max_admin_pending: 4, ..config() };
    let mut port = Port::new(&config, Some(TOKEN));
    let operator = port.accept([10, 0, 0, 1], "");
    for _ in 0..50 {
        port.accept([10, 0, 0, 2], "G");
        port.work();
        port.end_turn(&[]);
    }
    assert_eq!(port.ask(operator, &with_token(&get("/stats"), TOKEN)), 200);
}

/// Operators whose connections hang do not keep out another one.
#[test]
fn stalled_operators_make_room_for_another() {
    let config = Config { max_admin_connections: 2, ..config() };
    let body = post("/lobbies/chess/publish", r#"{"data":1}"#);
    let half_body = body[..body.len() - 3].to_owned();
    let ping = post("/users/ann/ping", "{}");
    for token in [None, Some(TOKEN)] {
        let shown = |request: &str| token.map_or_else(|| request.to_owned(), |token| with_token(request, token));
        for (request, stalls, ends, is_served) in [
            // Idle, with an incomplete head or body, with an unread answer.
            (shown(&get("/stats")), false, false, true),
            (shown(&get("/stats")) + "GET /st", false, false, true),
            (shown(&get("/stats")) + &shown(&half_body), false, false, true),
            (shown(&get("/stats")), true, false, true),
            // Its peer may be gone while it waits for a report. Otherwise its slot is its own.
            (shown(&ping), false, true, true),
            (shown(&ping), false, false, false),
        ] {
            let mut port = Port::new(&config, token);
            let stalled: Vec<usize> = (0..2).map(|_| port.accept([127, 0, 0, 1], &request)).collect();
            for _ in 0..2 {
                port.work();
                port.end_turn(if stalls { &stalled } else { &[] });
            }
            if ends {
                stalled.iter().for_each(|&client| port.conns.handle_end(client));
            }
            let probe = port.accept([127, 0, 0, 1], &get("/health/ready"));
            assert_eq!(port.status(probe), 200, "{request}");
            assert!(stalled.iter().all(|&client| port.is_open(client)), "a health check displaces no operator");
            let newcomer = port.accept([127, 0, 0, 1], &shown(&get("/stats")));
            assert_eq!(port.status(newcomer), if is_served { 200 } else { 503 }, "{request}");
            assert_eq!(port.is_open(stalled[0]), !is_served, "the one that waits longest gives way: {request}");
            assert!(port.is_open(stalled[1]));
        }
    }
}

#[test]
fn idle_operators_are_displaced_before_others_and_the_oldest_first() {
    let config = Config { max_admin_connections: 3, ..config() };
    let mut port = Port::new(&config, None);
    let [slow, idle, newer] = [0; 3].map(|_| {
        let client = port.accept([127, 0, 0, 1], &get("/stats"));
        assert_eq!(port.status(client), 200);
        port.world.now = port.world.now + Duration::from_millis(1);
        client
    });
    port.conns.handle_bytes(slow, b"GET /st");
    let ping = post("/users/ann/ping", "{}");
    for displaced in [idle, newer, slow] {
        assert!(port.is_open(displaced));
        let next = port.accept([127, 0, 0, 1], &get("/stats"));
        assert_eq!(port.status(next), 200);
        assert!(!port.is_open(displaced));
        // The new one is not idle any more.
        assert_eq!(port.ask(next, &ping), 0);
        port.closed.clear();
    }
}

/// More operators than slots ask at once: all are answered, some of them a turn later.
#[test]
fn requests_that_arrive_together_are_all_answered() {
    let config = Config { max_admin_connections: 1, ..config() };
    let mut port = Port::new(&config, Some(TOKEN));
    let clients: Vec<usize> =
        (0..10).map(|_| port.accept([127, 0, 0, 1], &with_token(&get("/stats"), TOKEN))).collect();
    let mut answers = 0;
    for _ in 0..10 {
        port.work();
        answers += clients.iter().filter(|&&client| port.take(client).starts_with("HTTP/1.1 200 ")).count();
        port.end_turn(&[]);
    }
    assert_eq!(answers, 10);
    assert_eq!(port.conns.clients().count(), 1);
}

/// A stranger cannot make the server keep the body of a request.
#[test]
fn a_request_without_the_token_is_refused_by_its_head() {
    let mut port = Port::new(&config(), Some(TOKEN));
    let whole = post("/lobbies/chess/publish", &format!(r#"{{"data":"{}"}}"#, "x".repeat(50_000)));
    let (head, body) = whole.split_at(whole.len() - 50_011);
    let foreign = with_token(head, TOKEN).replace("localhost", "evil.example");
    let check_up = head.replace("/lobbies/chess/publish", "/health/live");
    for (head, status) in [
        (head.to_owned(), 401),
        (with_token(head, "wrong-horse-battery"), 401),
        (head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"), 401),
        (foreign, 403),
        (check_up, 413),
    ] {
        for sent in [head.clone(), format!("{head}{body}")] {
            let client = port.accept([127, 0, 0, 1], &sent);
            port.work();
            let answer = read(&port.take(client));
            assert_eq!(answer.status, status, "{head}");
            assert!(answer.head.ends_with("\r\nConnection: close"), "nothing can follow a body that is not read");
            assert!(port.conns.is_finished(client));
        }
    }
    let client = port.accept([127, 0, 0, 1], &with_token(head, TOKEN));
    port.work();
    assert_eq!(port.take(client), "");
    assert_eq!(port.ask(client, body), 200);
}

/// After a change of the token, an operator must show the new one, on an open connection too.
#[test]
fn a_new_token_is_required_from_connected_operators() {
    let config = Config { max_admin_connections: 1, max_admin_pending: 1, ..config() };
    let mut port = Port::new(&config, Some(TOKEN));
    let operator = port.accept([10, 0, 0, 1], &with_token(&get("/stats"), TOKEN));
    assert_eq!(port.status(operator), 200);
    port.conns.set_token(Token::read("battery-horse-correct").expect("a token"));
    assert_eq!(port.ask(operator, &with_token(&get("/stats"), TOKEN)), 401);
    assert_eq!(port.ask(operator, &with_token(&get("/stats"), "battery-horse-correct")), 200);
    // The same token again changes nothing: the operator keeps its slot.
    port.conns.set_token(Token::read("battery-horse-correct").expect("a token"));
    for _ in 0..3 {
        port.accept([10, 0, 0, 2], "");
        port.work();
        port.end_turn(&[]);
    }
    assert!(port.is_open(operator));
    // A request in the middle of its body needs the new token as well.
    let request = with_token(&post("/lobbies/chess/publish", r#"{"data":1}"#), "battery-horse-correct");
    port.conns.handle_bytes(operator, &request.as_bytes()[..request.len() - 1]);
    port.work();
    port.conns.set_token(Token::read(TOKEN).expect("a token"));
    assert_eq!(port.ask(operator, "}"), 401);
    assert_eq!(port.world.take("ann"), [""; 0]);
}

/// Operators are served until the drain has ended, on old and new connections.
#[test]
fn operators_are_served_during_a_drain() {
    let config = Config { max_admin_connections: 2, max_admin_pending: 1, ..config() };
    let mut port = Port::new(&config, Some(TOKEN));
    let operator = port.accept([10, 0, 0, 1], &with_token(&post("/drain", "{}"), TOKEN));
    assert_eq!(port.status(operator), 202);
    let mut rounds = 0;
    while !port.world.engine.is_drained() {
        assert_eq!(port.ask(operator, &with_token(&get("/stats"), TOKEN)), 200);
        let probe = port.accept([10, 0, 0, 2], &get("/health/ready"));
        assert_eq!(port.status(probe), 503);
        let another = port.accept([10, 0, 0, 3], &with_token(&get("/lobbies"), TOKEN));
        assert_eq!(port.status(another), 200);
        port.closed.clear();
        port.world.advance(Duration::from_secs(1));
        rounds += 1;
    }
    assert!(rounds > 1, "the members do not answer the close frame");
}
