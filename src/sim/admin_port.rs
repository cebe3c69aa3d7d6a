//! The admin port under test, with its clients: operators and strangers that connect, ask, hang and hang up, and the
//! model of who may lose its connection.
//!
//! Drives [`AdminConns`] as [`net`](crate::net) does, without sockets. The clients only ask questions, so the engine
//! does not depend on them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::swarm::pick::pick;
use crate::admin::{AdminConns, Token};
use crate::base::random::Random;
use crate::base::time::Time;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::app::App;

/// The operators' tokens: one after the other is in force.
const TOKENS: [&str; 2] = ["correct-horse-battery", "battery-horse-correct"];
/// Turns in which a request must be answered. In each turn at least one place can be given to another client.
const MAX_WAIT: u32 = 50;
/// Turns in which a request with the token displaces an operator, if its answer does not show when it has done so.
const MAX_CLAIM: u32 = 10;

pub(super) struct AdminPort {
    conns: AdminConns,
    random: Random,
    /// Index of the token in force in [`TOKENS`]; `None` if no token is required.
    token: Option<usize>,
    max_clients: usize,
    max_newcomers: usize,
    timeout: Duration,
    /// Connected clients, by their keys in `conns`.
    clients: BTreeMap<usize, PortClient>,
    /// Number of clients accepted in this turn.
    accepted: usize,
    /// Turns for which an operator may lose its connection to another one. Not 0 while a client waits that has shown the
    /// token, and after a change of the token.
    operators_may_end: u32,
}

/// A client of the admin port.
#[derive(Debug, Default)]
struct PortClient {
    /// The answers that it waits for.
    expected: VecDeque<Expected>,
    received: Vec<u8>,
    /// Whether it has shown the token that is in force, and was answered.
    is_operator: bool,
    /// Whether its first request had arrived when it was accepted.
    is_prompt: bool,
    /// Whether it reads no answer.
    stalls: bool,
    /// Whether its connection may end for what it has done.
    may_end: bool,
    /// Time of its last answer.
    since: Time,
    /// Turns since its request was complete.
    waits: u32,
}

#[derive(Clone, Copy, Debug)]
struct Expected {
    /// `None` if the token was changed after the request was sent.
    status: Option<u16>,
    shows_token: bool,
    /// Whether the status depends on whether the server drains.
    is_ready: bool,
}

impl AdminPort {
    pub(super) fn new(config: &Config, mut random: Random) -> AdminPort {
        let (max_admitted, max_newcomers) = (pick(&mut random, &[1, 2, 4]), pick(&mut random, &[1, 2, 5]));
        let config = Config {
            max_admin_connections: max_admitted,
            max_admin_pending: max_newcomers,
            max_header_bytes: Config::default().max_header_bytes,
            ..config.clone()
        };
        let token = random.percent(70).then_some(0);
        AdminPort {
            conns: AdminConns::new(&config, token.map(read_token)),
            random,
            token,
            max_clients: (max_admitted + max_newcomers) as usize,
            max_newcomers: max_newcomers as usize,
            timeout: config.admin_timeout,
            clients: BTreeMap::new(),
            accepted: 0,
            operators_may_end: 0,
        }
    }

    /// Performs some actions of clients. Returns a number that depends on all of them.
    pub(super) fn act(&mut self, now: Time) -> Result<u64, String> {
        let mut sum = 0_u64;
        for _ in 0..=self.random.below(8) {
            sum = self.act_once(now)?.wrapping_add(sum.wrapping_mul(31));
        }
        Ok(sum)
    }

    fn act_once(&mut self, now: Time) -> Result<u64, String> {
        let action = self.random.below(12);
        let keys: Vec<usize> = self.clients.keys().copied().collect();
        let drawn = keys.get(self.random.below(keys.len().max(1) as u64) as usize).copied();
        match (action, drawn) {
            (5, Some(key)) => self.conns.handle_hangup(key),
            (6, Some(key)) => self.conns.handle_end(key),
            (7, Some(key)) => self.client(key).stalls = true,
            (8, _) => self.change_token(),
            (9.., Some(key)) => self.send(key),
            _ => return self.accept(now).map(|key| key.unwrap_or(usize::MAX) as u64),
        }
        if let (5..=7, Some(key)) = (action, drawn) {
            self.client(key).may_end = true;
        }
        Ok(action << 32)
    }

    fn client(&mut self, key: usize) -> &mut PortClient {
        self.clients.get_mut(&key).expect("the key was drawn from the clients")
    }

    /// Connects a client, if there is room. Returns its key.
    fn accept(&mut self, now: Time) -> Result<Option<usize>, String> {
        if !self.conns.has_room() {
            // A client that has shown the token may wait for a place, and keeps its own until then. What one that may be
            // ended has sent is not known.
            let may_wait =
                |client: &PortClient| client.may_end || client.expected.iter().any(|answer| answer.shows_token);
            let waiting = self.clients.values().any(may_wait);
            return if self.accepted >= self.max_newcomers || waiting {
                Ok(None)
            } else {
                Err("the admin port has no room for a connection, although a newcomer may be displaced".into())
            };
        }
        let network = pick(&mut self.random, &[1, 1, 1, 2]);
        let peer = ([10, 0, 0, network], 5000).into();
        let key = self.conns.handle_accept(now, peer).ok_or("a connection was dropped although there was room")?;
        self.take_closed(now, false)?;
        self.accepted += 1;
        self.clients.insert(key, PortClient { since: now, ..PortClient::default() });
        if self.random.percent(60) {
            self.send(key);
            let client = self.client(key);
            client.is_prompt = !client.expected.is_empty();
        }
        Ok(Some(key))
    }

    /// Sends a request or a part of one.
    fn send(&mut self, key: usize) {
        let (kind, is_ready) = (self.random.below(10), self.random.percent(50));
        if !self.client(key).expected.is_empty() || self.client(key).may_end {
            return;
        }
        let current = self.token.map_or("", |index| TOKENS[index]);
        let old = self.token.map_or("", |index| TOKENS[1 - index]);
        let (path, shown, status) = match kind {
            0..3 if is_ready => ("/health/ready", "", 200),
            0..3 => ("/health/live", "", 200),
            3 if self.token.is_some() => ("/stats", "wrong-horse-battery", 401),
            4 if self.token.is_some() => ("/lobbies", old, 401),
            _ => ("/stats", current, 200),
        };
        let shows_token = kind >= 5 || (kind >= 3 && self.token.is_none());
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {shown}\r\n\r\n");
        if kind == 8 {
            // A body that never ends.
            request.insert_str(request.len() - 2, "Content-Length: 10\r\n");
        }
        if kind == 9 {
            request.truncate(self.random.below(request.len() as u64) as usize);
        }
        self.conns.handle_bytes(key, request.as_bytes());
        if kind == 8 {
            self.operators_may_end = MAX_CLAIM;
        }
        let client = self.client(key);
        if kind < 8 {
            client.expected.push_back(Expected {
                status: Some(status),
                shows_token,
                is_ready: path == "/health/ready",
            });
        } else {
            client.may_end = true;
        }
    }

    fn change_token(&mut self) {
        let Some(index) = self.token else { return };
        if self.random.percent(70) {
            return;
        }
        self.token = Some(1 - index);
        self.conns.set_token(read_token(1 - index));
        self.operators_may_end = MAX_CLAIM;
        for client in self.clients.values_mut() {
            client.is_operator = false;
            client.is_prompt = false;
            client.expected.iter_mut().for_each(|expected| expected.status = None);
        }
    }

    /// Serves the requests that have arrived.
    pub(super) fn work<A: App>(&mut self, now: Time, engine: &mut Engine<A>) {
        let ready = if engine.is_draining() { 503 } else { 200 };
        for expected in self.clients.values_mut().flat_map(|client| &mut client.expected) {
            if expected.is_ready && expected.status.is_some() {
                expected.status = Some(ready);
            }
        }
        self.conns.work(now, engine);
    }

    /// Ends the turn: the clients read their answers, and closed connections are dropped. Returns a number that depends
    /// on all of them.
    pub(super) fn end_turn(&mut self, now: Time) -> Result<u64, String> {
        let mut seen = 0;
        let claims = self.clients.values().any(|client| client.expected.iter().any(|expected| expected.shows_token));
        for (&key, client) in &mut self.clients {
            if !client.stalls {
                let bytes = self.conns.pending(key).to_vec();
                self.conns.handle_written(now, key, bytes.len());
                seen += client.receive(&bytes, now, self.timeout)?;
            }
            client.waits = if client.expected.is_empty() || client.may_end { 0 } else { client.waits + 1 };
            if client.waits > MAX_WAIT {
                return Err(format!("a request on the admin port was not answered in {MAX_WAIT} turns: {client:?}"));
            }
        }
        self.take_closed(now, claims || self.operators_may_end > 0)?;
        if self.clients.len() > self.max_clients {
            return Err(format!("{} clients of the admin port, more than {}", self.clients.len(), self.max_clients));
        }
        self.accepted = 0;
        self.operators_may_end = self.operators_may_end.saturating_sub(1);
        Ok(seen)
    }

    /// Removes closed clients, and checks that each has a reason to be closed.
    fn take_closed(&mut self, now: Time, operators_may_end: bool) -> Result<(), String> {
        while let Some(key) = self.conns.poll_closed() {
            let client = self.clients.remove(&key).ok_or("a client of the admin port is closed, but unknown")?;
            if client.may_end || now >= client.since + self.timeout {
                continue;
            }
            if client.is_operator && !operators_may_end {
                return Err(format!("an operator lost its connection to a client without the token: {client:?}"));
            }
            if client.is_prompt && !client.expected.is_empty() {
                return Err(format!("a request that arrived with its connection was not answered: {client:?}"));
            }
        }
        Ok(())
    }
}

impl PortClient {
    /// Reads answers, and compares each with the expected one. Returns the sum of their statuses.
    fn receive(&mut self, bytes: &[u8], now: Time, timeout: Duration) -> Result<u64, String> {
        self.received.extend_from_slice(bytes);
        let mut sum = 0;
        while let Some(length) = response_length(&self.received) {
            let response: Vec<u8> = self.received.drain(..length).collect();
            let status = str::from_utf8(&response[9..12]).ok().and_then(|text| text.parse().ok());
            let status: u16 = status.ok_or("an answer of the admin port has no status")?;
            sum += u64::from(status);
            // Time may have jumped while the request waited for a place.
            let is_late = status == 408 && now >= self.since + timeout;
            (self.since, self.is_prompt) = (now, false);
            match self.expected.pop_front() {
                Some(_) if is_late => self.may_end = true,
                Some(Expected { status: Some(expected), .. }) if expected != status && !self.may_end => {
                    return Err(format!("the admin port answered {status} instead of {expected}: {self:?}"));
                }
                // A wrong token makes it a stranger again.
                Some(_) if status == 401 => self.is_operator = false,
                Some(expected) => self.is_operator |= expected.shows_token && status == 200,
                None => self.may_end = true,
            }
        }
        Ok(sum)
    }
}

/// Returns the length of the response at the front, if it is complete.
fn response_length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = str::from_utf8(&bytes[..end]).ok()?;
    let length: usize = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().ok()?;
    Some(end + length).filter(|&whole| whole <= bytes.len())
}

fn read_token(index: usize) -> Token {
    Token::read(TOKENS[index]).expect("the tokens are valid")
}
