//! The admin interface for operators: JSON over HTTP/1.1, as a state machine without I/O.
//!
//! Bytes and time go in; bytes and the keys of sockets to drop come out. Like the engine, it is driven by `net`. It
//! knows only the engine's getters and its operator commands.
//!
//! ```text
//! Reading --request, answered at once-------> Writing --all written--> Reading, or Lingering after the last answer
//!    +--ping, or a command in a cluster--> Waiting --report--^
//!    +--deadline, request incomplete: 408------^
//!
//! Reading --GET /events--> Streaming, until the client ends its stream
//! Reading, Lingering, Streaming --end of the stream--> Closed
//! Reading without input, Writing, Lingering --deadline--> Closed
//! Lingering --more than max_linger_bytes--> Closed
//! any state --socket error, or another client gets the slot--> Closed: the driver drops the socket
//! ```
//!
//! A client has one deadline at a time: for sending its request, for reading the answer, or for an idle connection. A
//! turn serves at most one request of each client, which bounds its cost to one page of a list for each.
//!
//! A client is a newcomer until it has shown the token. A request is judged by its head, so a newcomer cannot make the
//! server keep a body. `slots` says which client gives way when there are too many.

mod answers;
mod client;
mod exposition;
mod figures;
mod guard;
mod metrics;
mod outcome;
mod page;
mod routes;
mod slots;
mod streams;

use log::{debug, info};
use slab::Slab;

use self::client::{AnswerTimes, Client, ClientState};
pub use self::exposition::Exposition;
pub(crate) use self::exposition::Kind;
use self::guard::Guard;
pub use self::guard::Token;
pub use self::metrics::DriverMetrics;
use self::outcome::{Outcome, carry_out, reported};
use self::page::PageFile;
use self::routes::AdminRequest;
use self::slots::Slot;
use crate::base::peer::Peer;
use crate::base::time::Time;
use crate::config::Config;
use crate::config::memory::ADMIN_AHEAD_BYTES;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::events::log::EventLog;
use crate::events::reader::EventQuery;
use crate::http::head::is_head_request;
use crate::http::probe::Probe;
use crate::http::request::{self, Bounds, HttpRequest, Parsed};
use crate::http::response::JsonResponse;

/// Most bytes of a request's body in addition to the `max_message_bytes` of its data, and of the body of a request that
/// needs no token.
const REQUEST_EXTRA_BYTES: usize = 1024;

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
    max_admitted: usize,
    max_newcomers: usize,
    max_streams: usize,
    /// Number of clients accepted so far.
    accepted: u64,
    timeout: std::time::Duration,
    linger: std::time::Duration,
    max_linger_bytes: usize,
    clients: Slab<Client>,
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
                max_body: config
                    .max_message_bytes
                    .0
                    .saturating_mul(6)
                    .saturating_add(REQUEST_EXTRA_BYTES)
                    .min(999_999_999),
            },
            max_admitted: config.max_admin_connections as usize,
            max_newcomers: config.max_admin_pending as usize,
            max_streams: config.max_event_readers as usize,
            accepted: 0,
            timeout: config.admin_timeout,
            linger: config.linger_timeout,
            max_linger_bytes: config.max_linger_bytes.0,
            clients: Slab::new(),
        }
    }

    /// Replaces the token, if there is one. Clients that have shown another one must show the new one with their next
    /// request; an answer that is due already is still sent. Streams of events end.
    pub fn set_token(&mut self, token: Token) {
        if self.guard.set_token(token) {
            for (_, client) in &mut self.clients {
                client.is_admitted = false;
                if client.state == ClientState::Streaming {
                    client.close();
                }
            }
        }
    }

    // ---- input ----

    /// Returns whether a socket can be accepted now. If not, wait for the next call of [`work`](Self::work): each client
    /// keeps its slot for a turn at least, in which its first request is answered if it has arrived.
    pub fn has_room(&self) -> bool {
        slots::count(&self.clients, false) < self.max_newcomers || slots::next_newcomer(&self.clients).is_some()
    }

    /// Handles an accepted socket. Returns the client's key; `None` when there is no [room](Self::has_room), and the
    /// socket must be dropped.
    ///
    /// When `max_admin_pending` is reached, a client that has not shown the token is closed to make room.
    pub fn handle_accept(&mut self, now: Time, peer: Peer) -> Option<usize> {
        if slots::count(&self.clients, false) >= self.max_newcomers {
            let key = slots::next_newcomer(&self.clients)?;
            self.displace(key);
        }
        let client = Client::new(self.accepted, peer, now + self.timeout);
        self.accepted += 1;
        Some(self.clients.insert(client))
    }

    /// Handles received bytes.
    pub fn handle_bytes(&mut self, client: usize, bytes: &[u8]) {
        let max_request = self.bounds.max_head + self.bounds.max_body;
        let Some(client) = self.clients.get_mut(client) else { return };
        match client.state {
            ClientState::Lingering => {
                client.lingering_bytes = client.lingering_bytes.saturating_add(bytes.len());
                if client.lingering_bytes > self.max_linger_bytes {
                    debug!("admin: {} sends on after its last answer", client.peer);
                    client.close();
                }
            }
            ClientState::Streaming | ClientState::Closed => {}
            _ if client.input.len() + bytes.len() > max_request.saturating_mul(2) => {
                debug!("admin: {} sends too many requests ahead of their answers", client.peer);
                client.close();
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
            client.close();
        }
    }

    /// Handles a write: the first `bytes` of [`pending`](Self::pending) were written.
    pub fn handle_written(&mut self, now: Time, client: usize, bytes: usize) {
        if let Some(client) = self.clients.get_mut(client) {
            client.wrote(now, bytes, self.timeout, self.linger);
        }
    }

    /// Serves at most one request of each client, answers what has a report now, and expires deadlines. `GET /metrics` shows
    /// no metrics of the driver.
    pub fn work<A: App>(&mut self, now: Time, engine: &mut Engine<A>) {
        self.work_with(now, engine, &mut ());
    }

    /// The same as [`work`](Self::work), with the driver's metrics in `GET /metrics`.
    pub fn work_with<A: App>(&mut self, now: Time, engine: &mut Engine<A>, driver: &mut dyn DriverMetrics) {
        self.work_with_events(now, engine, driver, None);
    }

    /// The same, with the events of the server for `GET /events`.
    pub(crate) fn work_with_events<A: App>(
        &mut self,
        now: Time,
        engine: &mut Engine<A>,
        driver: &mut dyn DriverMetrics,
        events: Option<&EventLog>,
    ) {
        let times = AnswerTimes { date: engine.date_line(now), deadline: now + self.timeout };
        self.clients.iter_mut().for_each(|(_, client)| (client.is_new, client.is_just_answered) = (false, false));
        while let Some(report) = engine.poll_operator() {
            let (of, answer) = reported(report);
            let waiting = self.clients.iter_mut().find_map(|(_, client)| match client.state {
                ClientState::Waiting { ticket, keep_alive } if ticket == of => Some((client, keep_alive)),
                _ => None,
            });
            // The client may be closed already.
            if let Some((client, keep_alive)) = waiting {
                info!("admin: {} POST {} {}", client.peer, std::mem::take(&mut client.asked), answer.status);
                client.answer(&answer, true, keep_alive, times);
            }
        }
        let mut turn = Turn { now, times, engine, driver, events };
        for key in self.clients_to_serve() {
            self.work_for(key, &mut turn);
        }
        let max_ahead = 2 * self.bounds.max_head + ADMIN_AHEAD_BYTES;
        for (_, client) in &mut self.clients {
            let is_unread = std::mem::take(&mut client.is_unread);
            if client.deadline <= now && !is_unread {
                client.expire(times);
            }
            if !client.is_admitted && !client.waits_for_slot && client.input.len() > max_ahead {
                debug!("admin: {} sends too many requests ahead of their answers", client.peer);
                client.close();
            }
        }
    }

    /// Appends new events to the output of streams.
    pub(crate) fn fill_streams(&mut self, now: Time, events: &EventLog) {
        let deadline = now + self.timeout;
        self.clients.iter_mut().for_each(|(_, client)| client.fill_stream(events, deadline));
    }

    /// Returns the clients with new input. Those that wait for a slot come first, so that others cannot keep them out.
    /// Then come those that have a slot, so that they do not lose it while their request is complete.
    fn clients_to_serve(&self) -> Vec<usize> {
        let mut keys: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, client)| client.has_new_input && !client.is_closed())
            .map(|(key, client)| (!client.waits_for_slot, !client.is_admitted, key))
            .collect();
        keys.sort_unstable();
        keys.into_iter().map(|(.., key)| key).collect()
    }

    /// Serves the next request of a client, if it is complete.
    fn work_for<A: App>(&mut self, key: usize, turn: &mut Turn<'_, A>) {
        let times = turn.times;
        let Some(client) = self.clients.get_mut(key) else { return };
        client.has_new_input = false;
        match client.state {
            ClientState::Reading => {}
            ClientState::Lingering | ClientState::Streaming if client.ended => return client.close(),
            _ => return,
        }
        let input = std::mem::take(&mut client.input);
        match request::read(&input, self.bounds) {
            _ if input.is_empty() && client.ended => client.close(),
            _ if input.is_empty() => {}
            Parsed::Partial { .. } if client.ended => client.close(),
            Parsed::Partial { head: Some((request, length)), expects_continue } => {
                match self.admit(key, &request, length) {
                    Admission::Refused(answer) => self.refuse(key, &answer, &request, length, times),
                    Admission::NextTurn => self.wait_for_slot(key, input),
                    Admission::Granted => {
                        let client = &mut self.clients[key];
                        if expects_continue && !std::mem::replace(&mut client.continued, true) {
                            client.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                        }
                        client.input = input;
                    }
                }
            }
            Parsed::Partial { head: None, .. } => client.input = input,
            Parsed::Bad(answer) => client.answer(&answer, !is_head_request(&input), false, times),
            Parsed::Whole(request, length) => {
                client.continued = false;
                match self.admit(key, &request, request.body.len()) {
                    Admission::Refused(answer) => self.refuse(key, &answer, &request, request.body.len(), times),
                    Admission::Granted => self.serve(key, &request, turn),
                    Admission::NextTurn => return self.wait_for_slot(key, input),
                }
                self.clients[key].input = input[length..].to_vec();
            }
        }
    }

    /// Decides by the head of a request, whose body has `length` bytes, whether it is served.
    fn admit(&mut self, key: usize, request: &HttpRequest<'_>, length: usize) -> Admission {
        let is_health_check = Probe::at(request.path).is_some();
        if let Err(answer) = self.guard.check_source(request.headers, is_health_check) {
            return Admission::Refused(answer);
        }
        if is_health_check || PageFile::at(request.path).is_some() {
            if length > REQUEST_EXTRA_BYTES {
                return Admission::Refused(JsonResponse::error(413, "too_long", "this request needs no body"));
            }
            return Admission::Granted;
        }
        if let Err(answer) = self.guard.check_site(request.headers) {
            return Admission::Refused(answer);
        }
        if let Err(answer) = self.guard.check_token(request.headers) {
            self.clients[key].is_admitted = false;
            return Admission::Refused(answer);
        }
        if !self.clients[key].is_admitted && slots::count(&self.clients, true) >= self.max_admitted {
            match slots::next_admitted(&self.clients) {
                Slot::Of(other) => self.displace(other),
                Slot::NextTurn => return Admission::NextTurn,
                Slot::None => {
                    let message = "all operator connections wait for reports; see max_admin_connections";
                    let answer = JsonResponse::error(503, "busy", message).with_line("Retry-After: 1\r\n");
                    return Admission::Refused(answer);
                }
            }
        }
        let client = &mut self.clients[key];
        (client.is_admitted, client.waits_for_slot) = (true, false);
        Admission::Granted
    }

    /// Keeps the input of a client until the next turn.
    fn wait_for_slot(&mut self, key: usize, input: Vec<u8>) {
        let client = &mut self.clients[key];
        (client.waits_for_slot, client.has_new_input, client.input) = (true, true, input);
    }

    /// Answers a request that is not served. Its body is not read, so no further request can follow a body.
    fn refuse(
        &mut self,
        key: usize,
        answer: &JsonResponse,
        request: &HttpRequest<'_>,
        length: usize,
        times: AnswerTimes,
    ) {
        let client = &mut self.clients[key];
        let method = if ["GET", "HEAD", "POST"].contains(&request.method) { request.method } else { "-" };
        debug!("admin: {} {method} - {}", client.peer, answer.status);
        client.answer(answer, request.method != "HEAD", request.keep_alive && length == 0, times);
    }

    /// Carries out a request that is admitted.
    fn serve<A: App>(&mut self, key: usize, request: &HttpRequest<'_>, turn: &mut Turn<'_, A>) {
        let client = &mut self.clients[key];
        let parsed = routes::read(request);
        let (is_read, is_command) = (parsed.is_ok(), matches!(parsed, Ok(AdminRequest::Do(_))));
        let outcome = match parsed {
            Ok(request) => carry_out(turn.engine, turn.now, turn.driver, request),
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
                    info!("admin: {} {method} {path} {}", client.peer, answer.status);
                } else {
                    debug!("admin: {} {method} {path} {}", client.peer, answer.status);
                }
                client.answer(&answer, request.method != "HEAD", request.keep_alive, turn.times);
            }
            Outcome::Stream(query) => self.begin_stream(key, query, turn),
            Outcome::Later(ticket) => {
                client.asked = request.path.escape_debug().to_string();
                client.state = ClientState::Waiting { ticket, keep_alive: request.keep_alive };
            }
        }
    }

    fn begin_stream<A>(&mut self, key: usize, query: EventQuery, turn: &Turn<'_, A>) {
        let streams = self.clients.iter().filter(|(_, client)| client.state == ClientState::Streaming).count();
        let client = &mut self.clients[key];
        match turn.events {
            Some(events) if streams < self.max_streams => {
                info!("admin: {} GET /events 200", client.peer);
                client.begin_stream(query, events, turn.times);
            }
            Some(_) => {
                debug!("admin: {} GET /events 503", client.peer);
                let answer = JsonResponse::error(503, "busy", "max_event_readers clients read events already");
                client.answer(&answer.with_line("Retry-After: 1\r\n"), true, false, turn.times);
            }
            None => {
                let answer = JsonResponse::error(404, "not_found", "this server keeps no events");
                client.answer(&answer, true, false, turn.times);
            }
        }
    }

    fn displace(&mut self, key: usize) {
        let client = &mut self.clients[key];
        debug!("admin: {} gives way to another connection", client.peer);
        client.close();
    }

    // ---- output ----

    /// Returns when to call [`work`](Self::work) next: at once when a client has input that was not parsed yet.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.clients
            .iter()
            .map(|(_, client)| match client.state {
                _ if client.has_new_input => Time::ZERO,
                _ if client.output.is_empty() && client.stream.as_ref().is_some_and(|stream| stream.is_behind) => {
                    Time::ZERO
                }
                // The engine times out what it waits for.
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

/// The present turn: its times, and what requests act on.
struct Turn<'a, A> {
    now: Time,
    times: AnswerTimes,
    engine: &'a mut Engine<A>,
    driver: &'a mut dyn DriverMetrics,
    events: Option<&'a EventLog>,
}

/// Whether a request is served.
enum Admission {
    Granted,
    /// There is no slot in this turn, but there may be one in the next.
    NextTurn,
    Refused(JsonResponse),
}
