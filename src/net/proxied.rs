//! Sockets of listed proxies whose header of the PROXY protocol has not arrived yet. The engine does not know them: it is
//! given a connection with the address that the header names.
//!
//! ```text
//! accepted ──header is complete──► sockets
//!          └─fault, end of the stream, handshake_timeout, or a newer one beyond max_pending──► closed
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::time::Duration;

use log::{debug, warn};
use mio::event::Event;
use mio::{Interest, Registry, Token};

use super::proxy_header::{ProxiedOrigin, ProxyHeader, ProxyHeaderFault};
use super::stream::Stream;
use super::tokens::{FIRST_ADMIN, FIRST_AWAITING_HEADER};
use crate::admin::{Exposition, Kind};
use crate::base::peer::Peer;
use crate::base::time::Time;
use crate::config::{Config, ProxyAddresses};

pub(super) struct ProxiedSockets {
    /// `None` if no proxy is listed.
    proxies: Option<ProxyAddresses>,
    max: usize,
    timeout: Duration,
    /// By the number of the connection, so the oldest is the first. Its token follows from the number.
    waiting: BTreeMap<usize, Waiting>,
    /// Number of the next connection. It wraps at [`NUMBERS`].
    next: usize,
    /// Numbers of the sockets with an event.
    ready: VecDeque<usize>,
    counts: Counts,
}

/// Connections that have tokens of their own.
const NUMBERS: usize = FIRST_ADMIN - FIRST_AWAITING_HEADER;

struct Waiting {
    stream: Stream,
    proxy: Peer,
    header: ProxyHeader,
    deadline: Time,
}

#[derive(Default)]
struct Counts {
    clients: u64,
    proxies: u64,
    closed: [u64; Closed::ALL.len()],
}

/// Why a socket is closed before its header has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    Fault(ProxyHeaderFault),
    Timeout,
    Displaced,
    /// The proxy has closed the connection, or the socket has failed.
    Hangup,
}

impl Closed {
    /// With the labels of the metric.
    const ALL: [(Closed, &'static str); 8] = [
        (Closed::Fault(ProxyHeaderFault::Signature), "signature"),
        (Closed::Fault(ProxyHeaderFault::TooLong), "too_long"),
        (Closed::Fault(ProxyHeaderFault::Malformed), "malformed"),
        (Closed::Fault(ProxyHeaderFault::Family), "family"),
        (Closed::Fault(ProxyHeaderFault::Checksum), "checksum"),
        (Closed::Timeout, "timeout"),
        (Closed::Displaced, "displaced"),
        (Closed::Hangup, "hangup"),
    ];

    fn index(self) -> usize {
        Closed::ALL.iter().position(|(closed, _)| *closed == self).expect("the table has every reason")
    }

    fn explain(self) -> &'static str {
        match self {
            Closed::Fault(fault) => fault.explain(),
            Closed::Timeout => "no whole PROXY header has arrived within handshake_timeout",
            Closed::Displaced => {
                "more than max_pending connections wait for their PROXY header, and this one is the oldest"
            }
            Closed::Hangup => "it has ended before its PROXY header",
        }
    }
}

impl ProxiedSockets {
    pub(super) fn new(config: &Config) -> ProxiedSockets {
        ProxiedSockets {
            proxies: config.proxy_protocol.clone(),
            max: config.max_pending as usize,
            timeout: config.handshake_timeout,
            waiting: BTreeMap::new(),
            next: 0,
            ready: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Whether connections of this peer begin with a header.
    pub(super) fn expects(&self, peer: Peer) -> bool {
        self.proxies.as_ref().is_some_and(|proxies| proxies.contains(peer))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Time at which a socket must be read or closed.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        if !self.ready.is_empty() {
            return Some(Time::ZERO);
        }
        self.waiting.first_key_value().map(|(_, oldest)| oldest.deadline)
    }

    /// Takes the connection of a proxy. Returns it with the peer that counts for it if its header has arrived already. The
    /// socket is not registered with the poll then.
    pub(super) fn add(
        &mut self,
        now: Time,
        registry: &Registry,
        stream: Stream,
        proxy: Peer,
    ) -> Option<(Stream, Peer)> {
        let mut waiting = Waiting { stream, proxy, header: ProxyHeader::default(), deadline: now + self.timeout };
        match waiting.read() {
            Ok(None) => {}
            Ok(Some(origin)) => return Some(self.counts.complete(waiting, origin)),
            Err(closed) => {
                self.counts.close(&waiting, closed);
                return None;
            }
        }
        if self.waiting.len() >= self.max
            && let Some((_, oldest)) = self.waiting.pop_first()
        {
            self.counts.close(&oldest, Closed::Displaced);
        }
        let number = self.next;
        self.next = (number + 1) % NUMBERS;
        let token = Token(FIRST_AWAITING_HEADER + number);
        match registry.register(&mut waiting.stream, token, Interest::READABLE) {
            Ok(()) => drop(self.waiting.insert(number, waiting)),
            Err(error) => debug!("peer={proxy} cannot be registered with the poll: {error}"),
        }
        None
    }

    /// Notes that a socket can be read.
    pub(super) fn handle_event(&mut self, event: &Event) {
        self.ready.push_back(event.token().0 - FIRST_AWAITING_HEADER);
    }

    /// Returns the next connection whose header is complete, with the peer that counts for it. The socket is registered with
    /// the poll under a token of this module. Closes sockets whose time is over: call it until it returns `None`.
    pub(super) fn next(&mut self, now: Time) -> Option<(Stream, Peer)> {
        while let Some(number) = self.ready.pop_front() {
            if let Some(complete) = self.read(number, Ok(None)) {
                return Some(complete);
            }
        }
        while let Some((&number, oldest)) = self.waiting.first_key_value()
            && oldest.deadline <= now
        {
            // It is read once more: what is in the kernel already is not late.
            if let Some(complete) = self.read(number, Err(Closed::Timeout)) {
                return Some(complete);
            }
        }
        None
    }

    /// Nothing without `proxy_protocol`.
    pub(super) fn write_metrics(&self, metrics: &mut Exposition) {
        if self.proxies.is_none() {
            return;
        }
        let help =
            "PROXY headers that were accepted, by origin: of a client, or of the proxy itself, such as a health check.";
        metrics.labelled("lobbyd_proxy_headers_total", Kind::Counter, help);
        for (origin, count) in [("client", self.counts.clients), ("proxy", self.counts.proxies)] {
            metrics.sample("lobbyd_proxy_headers_total", &[("origin", origin)], count as f64);
        }
        let help = "Connections of listed proxies that were closed before a whole PROXY header, by reason.";
        metrics.labelled("lobbyd_proxy_closes_total", Kind::Counter, help);
        for ((_, reason), count) in Closed::ALL.iter().zip(self.counts.closed) {
            metrics.sample("lobbyd_proxy_closes_total", &[("reason", reason)], count as f64);
        }
        let help = "Connections of listed proxies whose PROXY header has not arrived yet.";
        metrics.gauge("lobbyd_proxy_pending", help, self.waiting.len() as f64);
    }

    /// Reads a socket, if it still waits. `otherwise` is what happens if its header is not complete then.
    fn read(&mut self, number: usize, otherwise: Result<Option<ProxiedOrigin>, Closed>) -> Option<(Stream, Peer)> {
        let waiting = self.waiting.get_mut(&number)?;
        let read = match waiting.read() {
            Ok(None) => otherwise,
            read => read,
        };
        match read {
            Ok(None) => None,
            Ok(Some(origin)) => {
                let waiting = self.waiting.remove(&number)?;
                Some(self.counts.complete(waiting, origin))
            }
            Err(closed) => {
                let waiting = self.waiting.remove(&number)?;
                self.counts.close(&waiting, closed);
                None
            }
        }
    }
}

impl Waiting {
    /// Reads until the header is complete or nothing is left to read, and never beyond the header.
    fn read(&mut self) -> Result<Option<ProxiedOrigin>, Closed> {
        let mut buffer = [0; ProxyHeader::MAX_BYTES];
        loop {
            let wanted = self.header.wanted().min(buffer.len());
            match self.stream.read(&mut buffer[..wanted]) {
                Ok(0) => return Err(Closed::Hangup),
                Ok(count) => match self.header.push(&buffer[..count]) {
                    Ok(None) => {}
                    Ok(origin) => return Ok(origin),
                    Err(fault) => return Err(Closed::Fault(fault)),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Closed::Hangup),
            }
        }
    }
}

impl Counts {
    fn complete(&mut self, waiting: Waiting, origin: ProxiedOrigin) -> (Stream, Peer) {
        let Waiting { stream, proxy, .. } = waiting;
        match origin {
            ProxiedOrigin::Client(client) => {
                self.clients += 1;
                debug!("peer={client} connects through proxy={proxy}");
                (stream, Peer::Ip(client))
            }
            ProxiedOrigin::Proxy => {
                self.proxies += 1;
                (stream, proxy)
            }
        }
    }

    /// Counts a socket, which is closed. Warns once for each reason that is not the proxy's own decision.
    fn close(&mut self, waiting: &Waiting, closed: Closed) {
        let count = &mut self.closed[closed.index()];
        *count += 1;
        let (proxy, cause) = (waiting.proxy, closed.explain());
        if *count == 1 && closed != Closed::Hangup {
            warn!(
                "peer={proxy} closed: {cause}. The peer is listed in proxy_protocol, so each of its connections must begin with \
                 a header; further ones are logged at debug"
            );
        } else {
            debug!("peer={proxy} closed: {cause}");
        }
    }
}
