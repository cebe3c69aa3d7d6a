//! The admin interface for operators: JSON over HTTP/1.1, as a state machine without I/O.
//!
//! Bytes and time go in; bytes and the keys of sockets to drop come out. Like the engine, it is driven by `net`. It
//! knows only the engine's getters and its operator commands.
//!
//! ```text
//! Reading --request, answered at once-------> Writing --all written--> Reading, or Lingering after the last answer
//!    +--ping--> Waiting --report---------------^
//!    +--deadline, request incomplete: 408------^
//!
//! Reading, Lingering --end of the stream--> Closed
//! Reading without input, Writing, Lingering --deadline--> Closed
//! any state --socket error--> Closed: the driver drops the socket
//! ```
//!
//! A client has one deadline at a time: for sending its request, for reading the answer, or for an idle connection. A
//! turn serves at most one request of each client, which bounds its cost to one page of a list for each.

mod answers;
mod exposition;
mod figures;
mod guard;
mod metrics;
mod outcome;
mod routes;

use std::net::SocketAddr;

use log::{debug, info};
use slab::Slab;

pub use self::exposition::Exposition;
use self::guard::Guard;
pub use self::guard::Token;
pub use self::metrics::DriverMetrics;
use self::outcome::{Outcome, carry_out};
use self::routes::AdminRequest;
use crate::base::time::Time;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::http::request::{self, Bounds, HttpRequest, Parsed};
use crate::http::response::JsonResponse;

/// Most bytes of a request's body in addition to the `max_message_bytes` of its data.
const ENVELOPE_BYTES: usize = 1024;

/// Connections of operators, with their requests and answers. See the [module documentation](self).
///
/// ```
/// use lobbyd::admin::AdminConns;
/// use lobbyd::apps::Relay;
/// use lobbyd::driver::Start;
/// use lobbyd::{Config, Engine, Time};
///
/// let config = Config { admin: Some("127.0.0.1:9002".parse().unwrap()), ..Config::default() };
/// let start = Start { unix_micros: 0, seed: 1 };
/// let mut engine = Engine::new(config.check().unwrap(), start, Relay::default());
/// let mut admin = AdminConns::new(engine.config(), None);
///
/// let client = admin.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).unwrap();
/// admin.handle_bytes(client, b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
/// admin.work(Time::ZERO, &mut engine);
/// assert!(admin.pending(client).ends_with(b"\r\n\r\n{\"status\":\"ready\"}\n"));
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
    state: ClientState,
    /// Whether `input` has changed since it was last parsed.
    has_new_input: bool,
    /// Whether `100 Continue` was sent for the current request.
    continued: bool,
    /// Whether the client has ended its stream.
    ended: bool,
    /// Whether the socket may have unread bytes. Then the deadline waits for the next turn.
    is_unread: bool,
    /// Whether a request that needs the token has passed the check.
    is_authenticated: bool,
    deadline: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    /// Receiving a request.
    Reading,
    /// Waiting for the report of the ping with this ticket.
    Waiting { ticket: u64, keep_alive: bool },
    /// Sending an answer. After the last one no further request is read.
    Writing { is_last: bool },
    /// All is written. Further input is discarded until the client ends its stream.
    Lingering,
    /// The driver still has to drop the socket.
    Closed,
}

impl AdminConns {
    /// Creates the state without clients. The addresses and names that are accepted in `Host` come from `config`.
    pub fn new(config: &Config, token: Option<Token>) -> AdminConns {
        AdminConns {
            guard: Guard::new(config, token),
            bounds: Bounds {
                max_head: config.max_header_bytes.0,
                max_headers: config.max_headers,
                // JSON may escape each byte of a text as six bytes.
                max_body: config.max_message_bytes.0.saturating_mul(6).saturating_add(ENVELOPE_BYTES).min(999_999_999),
            },
            max_clients: config.max_admin_connections as usize,
            timeout: config.admin_timeout,
            linger: config.linger_timeout,
            clients: Slab::new(),
        }
    }

    // ---- input ----

    /// Handles an accepted socket. Returns the client's key; `None` when the server is full and the socket must be
    /// dropped.
    ///
    /// When it is full, an idle or lingering client is closed to make room, or one whose request is incomplete and that
    /// has not sent a valid token.
    pub fn handle_accept(&mut self, now: Time, peer: SocketAddr) -> Option<usize> {
        if self.clients.len() >= self.max_clients {
            let dispensable = self.clients.iter().filter(|(_, client)| client.is_dispensable());
            let (oldest, _) = dispensable.min_by_key(|(_, client)| (!client.input.is_empty(), client.deadline))?;
            // The driver drops its socket in this turn. Until then `clients` may exceed the maximum by one.
            self.clients[oldest].state = ClientState::Closed;
            if self.clients.len() > self.max_clients {
                return None;
            }
        }
        Some(self.clients.insert(Client {
            peer,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            is_authenticated: false,
            state: ClientState::Reading,
            has_new_input: false,
            continued: false,
            ended: false,
            is_unread: false,
            deadline: now + self.timeout,
        }))
    }

    /// Handles received bytes.
    pub fn handle_bytes(&mut self, client: usize, bytes: &[u8]) {
        let max_request = self.bounds.max_head + self.bounds.max_body;
        let Some(client) = self.clients.get_mut(client) else { return };
        match client.state {
            ClientState::Lingering | ClientState::Closed => {}
            _ if client.input.len() + bytes.len() > max_request.saturating_mul(2) => {
                debug!("admin: {} sends too many requests ahead of their answers", client.peer);
                client.state = ClientState::Closed;
            }
            _ => {
                client.input.extend_from_slice(bytes);
                client.has_new_input = true;
            }
        }
    }

    /// Notes that the client's socket may have unread bytes. Its deadline waits for the next turn, which reads them.
    pub fn handle_unread(&mut self, client: usize) {
        if let Some(client) = self.clients.get_mut(client) {
            client.is_unread = true;
        }
    }

    /// Handles the end of the client's stream. Complete requests are still answered.
    pub fn handle_end(&mut self, client: usize) {
        if let Some(client) = self.clients.get_mut(client) {
            client.ended = true;
            client.has_new_input = true;
        }
    }

    /// Handles an error of the socket.
    pub fn handle_hangup(&mut self, client: usize) {
        if let Some(client) = self.clients.get_mut(client) {
            client.state = ClientState::Closed;
        }
    }

    /// Handles a write: the first `bytes` of [`pending`](Self::pending) were written.
    pub fn handle_written(&mut self, now: Time, client: usize, bytes: usize) {
        let Some(client) = self.clients.get_mut(client) else { return };
        client.written += bytes;
        if client.written < client.output.len() {
            return;
        }
        client.output = Vec::new();
        client.written = 0;
        match client.state {
            ClientState::Writing { is_last: true } => {
                client.state = ClientState::Lingering;
                client.input = Vec::new();
                client.has_new_input = true;
                client.deadline = now + self.linger;
            }
            ClientState::Writing { is_last: false } => {
                client.state = ClientState::Reading;
                client.has_new_input = true;
                client.deadline = now + self.timeout;
            }
            ClientState::Reading | ClientState::Waiting { .. } | ClientState::Lingering | ClientState::Closed => {}
        }
    }

    /// Serves at most one request of each client, answers finished pings, and expires deadlines. `GET /metrics` shows
    /// no metrics of the driver.
    pub fn work<A: App>(&mut self, now: Time, engine: &mut Engine<A>) {
        self.work_with(now, engine, &mut ());
    }

    /// The same as [`work`](Self::work), with the driver's metrics in `GET /metrics`.
    pub fn work_with<A: App>(&mut self, now: Time, engine: &mut Engine<A>, driver: &mut dyn DriverMetrics) {
        while let Some(report) = engine.poll_operator() {
            let waiting = self.clients.iter_mut().find_map(|(_, client)| match client.state {
                ClientState::Waiting { ticket, keep_alive } if ticket == report.ticket => Some((client, keep_alive)),
                _ => None,
            });
            // The client may be closed already.
            if let Some((client, keep_alive)) = waiting {
                client.answer(&answers::pinged(&report), true, keep_alive, now + self.timeout);
            }
        }
        let AdminConns { guard, bounds, clients, timeout, .. } = self;
        for (_, client) in clients {
            if std::mem::take(&mut client.has_new_input) {
                client.work(now, engine, driver, guard, *bounds, now + *timeout);
            }
            let is_unread = std::mem::take(&mut client.is_unread);
            if client.deadline <= now && !is_unread {
                client.expire(now + *timeout);
            }
        }
    }

    // ---- output ----

    /// Returns when to call [`work`](Self::work) next: at once when a client has input that was not parsed yet.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.clients
            .iter()
            .map(|(_, client)| match client.state {
                _ if client.has_new_input => Time::ZERO,
                // The engine times out the ping.
                ClientState::Waiting { .. } => Time::NEVER,
                _ => client.deadline,
            })
            .min()
            .filter(|&at| at != Time::NEVER)
    }

    /// Returns the keys of all clients.
    pub fn clients(&self) -> impl Iterator<Item = usize> {
        self.clients.iter().map(|(key, _)| key)
    }

    /// Returns the bytes to write to a client's socket.
    pub fn pending(&self, client: usize) -> &[u8] {
        self.clients.get(client).map_or(&[], |client| &client.output[client.written..])
    }

    /// Returns whether the last answer was written. The driver then shuts down the write side.
    pub fn is_finished(&self, client: usize) -> bool {
        self.clients.get(client).is_some_and(|client| client.state == ClientState::Lingering)
    }

    /// Returns the next client whose socket must be dropped, and frees its key.
    pub fn poll_closed(&mut self) -> Option<usize> {
        let (key, _) = self.clients.iter().find(|(_, client)| client.state == ClientState::Closed)?;
        self.clients.remove(key);
        Some(key)
    }
}

impl Client {
    /// Whether the client may be closed to make room for a new one: it is idle, or its request is incomplete and it has
    /// not yet sent a valid token. Clients that begin requests and never complete them must not keep operators out.
    fn is_dispensable(&self) -> bool {
        let is_protected = self.is_authenticated && !self.input.is_empty();
        self.state == ClientState::Lingering || (self.state == ClientState::Reading && !is_protected)
    }

    /// Serves the next request in `input`, if it is complete.
    fn work<A: App>(
        &mut self,
        now: Time,
        engine: &mut Engine<A>,
        driver: &mut dyn DriverMetrics,
        guard: &Guard,
        bounds: Bounds,
        deadline: Time,
    ) {
        match self.state {
            ClientState::Reading => {}
            ClientState::Lingering if self.ended => return self.state = ClientState::Closed,
            _ => return,
        }
        let input = std::mem::take(&mut self.input);
        match request::read(&input, bounds) {
            _ if input.is_empty() && self.ended => self.state = ClientState::Closed,
            _ if input.is_empty() => {}
            Parsed::Partial { .. } if self.ended => self.state = ClientState::Closed,
            Parsed::Partial { expects_continue } => {
                if expects_continue && !std::mem::replace(&mut self.continued, true) {
                    self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                self.input = input;
            }
            Parsed::Bad(answer) => self.answer(&answer, !input.starts_with(b"HEAD "), false, deadline),
            Parsed::Whole(request, length) => {
                self.continued = false;
                self.serve(now, engine, driver, guard, &request, deadline);
                self.input = input[length..].to_vec();
            }
        }
    }

    fn serve<A: App>(
        &mut self,
        now: Time,
        engine: &mut Engine<A>,
        driver: &mut dyn DriverMetrics,
        guard: &Guard,
        request: &HttpRequest<'_>,
        deadline: Time,
    ) {
        let parsed = guard.check_source(request.headers).and_then(|()| {
            if !routes::needs_no_token(request.path) {
                guard.check_token(request.headers)?;
                self.is_authenticated = true;
            }
            routes::read(request)
        });
        let (is_read, is_command) = (parsed.is_ok(), matches!(parsed, Ok(AdminRequest::Do(_))));
        let outcome = match parsed {
            Ok(request) => carry_out(engine, now, driver, request),
            Err(answer) => Outcome::Answer(answer),
        };
        match outcome {
            Outcome::Answer(answer) => {
                let HttpRequest { method, path, .. } = request;
                // An unknown path may contain anything, even the token, so it is not logged. A known one may contain
                // names of any UTF-8, so it is escaped.
                let path = if is_read { path } else { "-" }.escape_debug();
                let method = if ["GET", "HEAD", "POST"].contains(method) { method } else { "-" };
                if is_command {
                    info!("admin: {} {method} {path} {}", self.peer, answer.status);
                } else {
                    debug!("admin: {} {method} {path} {}", self.peer, answer.status);
                }
                self.answer(&answer, request.method != "HEAD", request.keep_alive, deadline);
            }
            Outcome::Later(ticket) => self.state = ClientState::Waiting { ticket, keep_alive: request.keep_alive },
        }
    }

    fn answer(&mut self, answer: &JsonResponse, with_body: bool, keep_alive: bool, deadline: Time) {
        answer.write(&mut self.output, with_body, keep_alive);
        self.state = ClientState::Writing { is_last: !keep_alive };
        self.deadline = deadline;
    }

    /// Handles a deadline that has passed.
    fn expire(&mut self, deadline: Time) {
        match self.state {
            ClientState::Waiting { .. } => {}
            ClientState::Reading if !self.input.is_empty() => {
                let answer = JsonResponse::error(408, "too_late", "the request took longer than admin_timeout");
                self.answer(&answer, true, false, deadline);
            }
            _ => self.state = ClientState::Closed,
        }
    }
}
