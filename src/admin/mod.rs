//! The operator's desk: JSON over HTTP/1.1, as a state machine without I/O.
//!
//! Bytes and time go in, bytes and "drop this socket" come out, as with the engine; and like the engine's, its driver is
//! `net`. It knows the engine only by what it can ask: getters, and commands as data.
//!
//! ```text
//! a client: Reading --whole request--> answered at once ----> Writing --all written--> Reading, or Ending
//!                          +--a ping--> Waiting --report--------^
//! ```
//!
//! Every client has one deadline: for its request to arrive, for its answer to be read, and for staying idle. In one turn
//! every client is given one request, so that a turn costs at most a page for each.

mod guard;
mod http;
mod json;
mod routes;

use std::net::SocketAddr;

use log::{debug, info};
use slab::Slab;

use self::guard::Guard;
pub use self::guard::Token;
use self::http::{Answer, Bounds, HttpRequest, Parsed};
use self::routes::{AdminRequest, Outcome};
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::time::Time;

/// What a request's body may hold beside `max_message_bytes` of data.
const ENVELOPE_BYTES: usize = 1024;

/// Answers operators. See the [module's documentation](self).
///
/// ```
/// use lobbyd::admin::AdminConns;
/// use lobbyd::apps::Relay;
/// use lobbyd::{Config, Engine, Start, Time};
///
/// let config = Config { admin: Some("127.0.0.1:9002".parse().unwrap()), ..Config::default() };
/// let mut desk = AdminConns::new(&config, None);
/// let mut engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Relay::default());
///
/// let client = desk.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).unwrap();
/// desk.handle_bytes(client, b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
/// desk.work(Time::ZERO, &mut engine);
/// assert!(desk.pending(client).ends_with(b"\r\n\r\n{\"status\":\"ready\"}\n"));
/// ```
#[derive(Debug)]
pub struct AdminConns {
    guard: Guard,
    bounds: Bounds,
    max_clients: usize,
    timeout: std::time::Duration,
    linger: std::time::Duration,
    clients: Slab<Client>,
}

#[derive(Debug)]
struct Client {
    peer: SocketAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that have been written.
    written: usize,
    state: State,
    /// Whether bytes have come that were not looked at.
    has_new_input: bool,
    /// Whether the client was told to send its body.
    continued: bool,
    /// Whether the client will send nothing more.
    ended: bool,
    /// Whether its socket has more to read, so that its time is not over yet.
    is_unread: bool,
    /// Whether it has once asked something that needs a token, with the right one.
    is_known: bool,
    deadline: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For a request, or for the rest of one.
    Reading,
    /// A ping's answer will come under this number.
    Waiting { ticket: u64, keep_alive: bool },
    /// The answer is being written; nothing is read after it, when it is the last.
    Writing { is_last: bool },
    /// Everything was written: what still comes is dropped until the client hangs up.
    Ending,
    /// The driver has still to drop the socket.
    Gone,
}

impl AdminConns {
    /// A desk without clients. `config.admin` says under which address it is known.
    pub fn new(config: &Config, token: Option<Token>) -> AdminConns {
        AdminConns {
            guard: Guard::new(config, token),
            bounds: Bounds {
                max_head: config.max_header_bytes.0,
                max_headers: config.max_headers as usize,
                // A text may be written with an escape of six bytes for each of its own.
                max_body: config.max_message_bytes.0.saturating_mul(6).saturating_add(ENVELOPE_BYTES).min(999_999_999),
            },
            max_clients: config.max_admin_connections as usize,
            timeout: config.admin_timeout,
            linger: config.linger_timeout,
            clients: Slab::new(),
        }
    }

    // ---- what happened ----

    /// A socket was accepted. Returns the client's key; `None` when there are too many and the socket is to be dropped.
    ///
    /// Whoever only keeps a connection open makes room for whoever has something to ask.
    pub fn handle_accept(&mut self, now: Time, peer: SocketAddr) -> Option<usize> {
        if self.clients.len() >= self.max_clients {
            let dispensable = self.clients.iter().filter(|(_, client)| client.is_dispensable());
            let (oldest, _) = dispensable.min_by_key(|(_, client)| (!client.input.is_empty(), client.deadline))?;
            // Its socket is dropped in this turn, and its place is free in the next.
            self.clients[oldest].state = State::Gone;
            if self.clients.len() > self.max_clients {
                return None;
            }
        }
        Some(self.clients.insert(Client {
            peer,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            is_known: false,
            state: State::Reading,
            has_new_input: false,
            continued: false,
            ended: false,
            is_unread: false,
            deadline: now + self.timeout,
        }))
    }

    /// Bytes were received.
    pub fn handle_bytes(&mut self, client: usize, bytes: &[u8]) {
        let max_request = self.bounds.max_head + self.bounds.max_body;
        let Some(client) = self.clients.get_mut(client) else { return };
        match client.state {
            State::Ending | State::Gone => {}
            _ if client.input.len() + bytes.len() > max_request.saturating_mul(2) => {
                debug!("admin: {} sends more than it waits for answers to", client.peer);
                client.state = State::Gone;
            }
            _ => {
                client.input.extend_from_slice(bytes);
                client.has_new_input = true;
            }
        }
    }

    /// The client's socket may have more to read, which the next turn reads: its deadline waits for that turn.
    pub fn handle_unread(&mut self, client: usize) {
        if let Some(client) = self.clients.get_mut(client) {
            client.is_unread = true;
        }
    }

    /// The client will send nothing more. What it asked before is still answered.
    pub fn handle_end(&mut self, client: usize) {
        if let Some(client) = self.clients.get_mut(client) {
            client.ended = true;
            client.has_new_input = true;
        }
    }

    /// The socket failed.
    pub fn handle_hangup(&mut self, client: usize) {
        if let Some(client) = self.clients.get_mut(client) {
            client.state = State::Gone;
        }
    }

    /// So many bytes of [`pending`](Self::pending) were written.
    pub fn handle_written(&mut self, now: Time, client: usize, bytes: usize) {
        let Some(client) = self.clients.get_mut(client) else { return };
        client.written += bytes;
        if client.written < client.output.len() {
            return;
        }
        client.output = Vec::new();
        client.written = 0;
        match client.state {
            State::Writing { is_last: true } => {
                client.state = State::Ending;
                client.input = Vec::new();
                client.has_new_input = true;
                client.deadline = now + self.linger;
            }
            State::Writing { is_last: false } => {
                client.state = State::Reading;
                client.has_new_input = true;
                client.deadline = now + self.timeout;
            }
            State::Reading | State::Waiting { .. } | State::Ending | State::Gone => {}
        }
    }

    /// Answers what can be answered: one request of each client.
    pub fn work<A: App>(&mut self, now: Time, engine: &mut Engine<A>) {
        while let Some(report) = engine.poll_operator() {
            let waiting = self.clients.iter_mut().find_map(|(_, client)| match client.state {
                State::Waiting { ticket, keep_alive } if ticket == report.ticket => Some((client, keep_alive)),
                _ => None,
            });
            // The one who asked may have gone.
            if let Some((client, keep_alive)) = waiting {
                client.answer(&routes::pinged(&report), true, keep_alive, now + self.timeout);
            }
        }
        let AdminConns { guard, bounds, clients, timeout, .. } = self;
        for (_, client) in clients {
            if std::mem::take(&mut client.has_new_input) {
                client.work(now, engine, guard, *bounds, now + *timeout);
            }
            let is_unread = std::mem::take(&mut client.is_unread);
            if client.deadline <= now && !is_unread {
                client.expire(now + *timeout);
            }
        }
    }

    // ---- what the driver must do ----

    /// When to call [`work`](Self::work) next: at once when somebody has sent more than one request.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.clients
            .iter()
            .map(|(_, client)| match client.state {
                _ if client.has_new_input => Time::ZERO,
                // The ping has a deadline of its own.
                State::Waiting { .. } => Time::NEVER,
                _ => client.deadline,
            })
            .min()
            .filter(|&at| at != Time::NEVER)
    }

    /// The keys of all clients.
    pub fn clients(&self) -> impl Iterator<Item = usize> {
        self.clients.iter().map(|(key, _)| key)
    }

    /// Bytes to write to a client's socket.
    pub fn pending(&self, client: usize) -> &[u8] {
        self.clients.get(client).map_or(&[], |client| &client.output[client.written..])
    }

    /// Whether everything was written and nothing will follow: shut down the write side.
    pub fn is_finished(&self, client: usize) -> bool {
        self.clients.get(client).is_some_and(|client| client.state == State::Ending)
    }

    /// The next client whose socket must be dropped.
    pub fn poll_closed(&mut self) -> Option<usize> {
        let (key, _) = self.clients.iter().find(|(_, client)| client.state == State::Gone)?;
        self.clients.remove(key);
        Some(key)
    }
}

impl Client {
    /// Whether it makes room for a newcomer: it has not begun to ask, or is a stranger that has not ended. Strangers who
    /// begin and never end must not keep operators out.
    fn is_dispensable(&self) -> bool {
        let has_begun = self.is_known && !self.input.is_empty();
        self.state == State::Ending || (self.state == State::Reading && !has_begun)
    }

    fn work<A: App>(&mut self, now: Time, engine: &mut Engine<A>, guard: &Guard, bounds: Bounds, deadline: Time) {
        match self.state {
            State::Reading => {}
            State::Ending if self.ended => return self.state = State::Gone,
            _ => return,
        }
        let input = std::mem::take(&mut self.input);
        match http::read(&input, bounds) {
            _ if input.is_empty() && self.ended => self.state = State::Gone,
            _ if input.is_empty() => {}
            Parsed::PageQuery { .. } if self.ended => self.state = State::Gone,
            Parsed::PageQuery { expects_continue } => {
                if expects_continue && !std::mem::replace(&mut self.continued, true) {
                    self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                self.input = input;
            }
            Parsed::Bad(answer) => self.answer(&answer, !input.starts_with(b"HEAD "), false, deadline),
            Parsed::Whole(request, length) => {
                self.continued = false;
                self.serve(now, engine, guard, &request, deadline);
                self.input = input[length..].to_vec();
            }
        }
    }

    fn serve<A: App>(
        &mut self,
        now: Time,
        engine: &mut Engine<A>,
        guard: &Guard,
        request: &HttpRequest<'_>,
        deadline: Time,
    ) {
        let ask = guard.check_source(request.headers).and_then(|()| {
            if !routes::needs_no_token(request.path) {
                guard.check_token(request.headers)?;
                self.is_known = true;
            }
            routes::read(request)
        });
        let (is_read, is_command) = (ask.is_ok(), matches!(ask, Ok(AdminRequest::Do(_))));
        let outcome = match ask {
            Ok(ask) => routes::carry_out(engine, now, ask),
            Err(answer) => Outcome::Answer(answer),
        };
        match outcome {
            Outcome::Answer(answer) => {
                let HttpRequest { method, path, .. } = request;
                // A path or method that means nothing may hold anything, even the token. Any other path may hold names of any UTF-8.
                let path = if is_read { path } else { "-" }.escape_debug();
                let method = if ["GET", "HEAD", "POST"].contains(method) { method } else { "-" };
                if is_command {
                    info!("admin: {} {method} {path} {}", self.peer, answer.status);
                } else {
                    debug!("admin: {} {method} {path} {}", self.peer, answer.status);
                }
                self.answer(&answer, request.method != "HEAD", request.keep_alive, deadline);
            }
            Outcome::Later(ticket) => self.state = State::Waiting { ticket, keep_alive: request.keep_alive },
        }
    }

    fn answer(&mut self, answer: &Answer, with_body: bool, keep_alive: bool, deadline: Time) {
        answer.write(&mut self.output, with_body, keep_alive);
        self.state = State::Writing { is_last: !keep_alive };
        self.deadline = deadline;
    }

    /// The deadline has passed.
    fn expire(&mut self, deadline: Time) {
        match self.state {
            State::Waiting { .. } => {}
            State::Reading if !self.input.is_empty() => {
                let answer = Answer::error(408, "too_late", "the request took longer than admin_timeout");
                self.answer(&answer, true, false, deadline);
            }
            _ => self.state = State::Gone,
        }
    }
}
