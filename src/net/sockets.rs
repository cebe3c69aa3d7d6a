//! The sockets of the engine's connections, under the same keys. Reads the ready ones and writes the queued bytes.
//!
//! Knows neither the listener nor the poll's other sources.

use std::io;
use std::net::IpAddr;

use log::debug;
use mio::event::Event;
use mio::{Interest, Registry, Token};

use super::plain_stream::{Left, READ_WORK, Received};
use super::read_scheduler::{Budget, ReadBacklog, ReadClass, ReadScheduler};
use super::stream::Stream;
use super::tls::Tls;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::peer::Peer;
use crate::base::time::Time;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::driver::{Flow, JournalError, Transport};

/// Events of a connection's socket. `PRIORITY` reports urgent data.
#[cfg(target_os = "linux")]
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);
#[cfg(not(target_os = "linux"))]
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

pub(super) struct Sockets {
    /// By [`ConnId::index`].
    table: Vec<Option<ConnSocket>>,
    ready: ReadScheduler,
    /// Scratch list of the connections in `ready`.
    unread: Vec<ConnId>,
    /// Shared with the operators' connections.
    pub(super) tls: Tls,
}

/// What happened to a socket before it is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was accepted.
    Accepted,
    /// Its header of the PROXY protocol was read. What follows may have arrived too, and no event may report it.
    Proxied {
        /// Whether the socket is registered with the poll already, under another token.
        is_registered: bool,
    },
}

struct ConnSocket {
    id: ConnId,
    stream: Stream,
    /// Whether the connection is queued in `ready`.
    is_ready: bool,
    class: ReadClass,
    /// Whether the socket has, or may have, unread bytes in the kernel. The backlog does not count.
    is_readable: bool,
    /// Received bytes that the engine has not consumed yet. Only the few connections that exceed `work_per_receive`
    /// have any, so it is boxed.
    backlog: Option<Box<ReadBacklog>>,
    /// Whether each read must be followed by another one until a read finds nothing, because a short read does not mean
    /// that the socket is empty:
    ///
    /// - The poll reported that the peer has closed its end. The end of the stream is still to be read, and no second
    ///   event follows.
    /// - The poll reported urgent data (`MSG_OOB`). A read ends before the urgent byte, although more bytes follow.
    /// - The stream is of another kind: see [`Stream::may_read_short`].
    reads_to_end: bool,
}

impl Sockets {
    pub(super) fn new(tls: Tls) -> Sockets {
        Sockets { table: Vec::new(), ready: ReadScheduler::default(), unread: Vec::new(), tls }
    }

    /// Whether a socket has, or may have, unread input.
    pub(super) fn have_unread(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns the connections that have, or may have, unread input.
    pub(super) fn unread(&mut self) -> &[ConnId] {
        self.unread.clear();
        self.unread.extend(self.ready.ids());
        &self.unread
    }

    /// Passes a new socket to the engine and registers it with the poll. A socket that either refuses is dropped.
    pub(super) fn add<A: App>(
        &mut self,
        now: Time,
        engine: &mut Engine<A>,
        registry: &Registry,
        mut stream: Stream,
        peer: Peer,
        arrival: Arrival,
    ) {
        if stream.is_tls() && !self.tls.admits(now, address_to_charge(engine.config(), peer)) {
            return debug!("peer={peer} refused: its address makes too many attempts");
        }
        let Ok(id) = engine.handle_accept(now, peer) else { return };
        let token = Token(id.index());
        let registered = stream.start_tls(&mut self.tls).and_then(|()| match arrival {
            Arrival::Proxied { is_registered: true } => registry.reregister(&mut stream, token, INTEREST),
            Arrival::Accepted | Arrival::Proxied { .. } => registry.register(&mut stream, token, INTEREST),
        });
        if let Err(error) = registered {
            debug!("conn={id} peer={peer} cannot be registered with the poll: {error}");
            return engine.handle_hangup(now, id);
        }
        if id.index() >= self.table.len() {
            self.table.resize_with(id.index() + 1, || None);
        }
        let reads_to_end = stream.may_read_short();
        // A socket beyond `max_pending` is read in this turn: its request may have arrived while it waited in the backlog,
        // and the next newcomers take its place.
        let is_ready = engine.is_overflow(id) || arrival != Arrival::Accepted;
        let class = if stream.is_tls() { ReadClass::Handshake } else { ReadClass::New };
        if is_ready {
            self.ready.push(id, class);
        }
        self.table[id.index()] =
            Some(ConnSocket { id, stream, is_ready, class, is_readable: is_ready, backlog: None, reads_to_end });
    }

    /// Marks a socket as ready to be read or written.
    pub(super) fn handle_event<A: App>(&mut self, now: Time, engine: &mut Engine<A>, event: &Event) {
        let Some(socket) = self.table.get_mut(event.token().0).and_then(Option::as_mut) else { return };
        if event.is_writable() {
            socket.stream.handle_writable();
            engine.handle_writable(now, socket.id);
        }
        let is_closed = event.is_read_closed() || event.is_error();
        socket.reads_to_end |= is_closed || event.is_priority();
        socket.is_readable |= event.is_readable() || event.is_priority() || is_closed;
        if socket.is_readable && !socket.is_ready {
            socket.is_ready = true;
            self.ready.push(socket.id, socket.class);
        }
    }

    /// Reads the ready sockets until the turn's budget is spent. The rest waits for the next turn. Nothing stays in
    /// `buffer` between two reads.
    ///
    /// # Errors
    ///
    /// [`JournalError`] when the journal cannot be written.
    pub(super) fn read_ready<A: App>(
        &mut self,
        now: Time,
        engine: &mut Engine<A>,
        buffer: &mut [u8],
    ) -> Result<(), JournalError> {
        let config = engine.config();
        let (max_receive_work, max_request) = (config.work_per_receive.0, config.max_header_bytes.0);
        let budget = Budget {
            new: config.accept_per_turn,
            others: config.events_per_turn,
            handshakes: config.tls_handshakes_per_turn,
            work: config.work_per_turn.0,
        };
        let mut turn = self.ready.begin_turn(budget);
        while let Some((id, class)) = self.ready.next(&mut turn) {
            // From a new connection only the request is read, at most `max_header_bytes`. Frames after the request
            // are handled in a later read.
            let (max_bytes, max_work) = match class {
                ReadClass::New | ReadClass::Handshake => (max_request.min(buffer.len()), 0),
                ReadClass::Light | ReadClass::Unclassified | ReadClass::Heavy => (buffer.len(), max_receive_work),
            };
            let work = self.receive(now, engine, id, buffer, (max_bytes, max_work));
            self.ready.spend(class, work);
            // Many senders in one turn must not fill the outbox of a receiver that reads: no write to its socket has
            // been attempted yet.
            if engine.wants_flush() {
                engine.flush(self)?;
            }
        }
        Ok(())
    }

    /// Passes bytes of a connection to the engine, up to `max_bytes` and `max_work`: from its backlog, or else from one read
    /// into `buffer`. Returns the work done.
    fn receive<A: App>(
        &mut self,
        now: Time,
        engine: &mut Engine<A>,
        id: ConnId,
        buffer: &mut [u8],
        (max_bytes, max_work): (usize, usize),
    ) -> usize {
        let socket = self.table.get_mut(id.index()).and_then(Option::as_mut);
        let Some(socket) = socket.filter(|socket| socket.id == id) else { return 0 };
        socket.is_ready = false;
        let (mut work, mut message_work, mut received) = (READ_WORK, 0, 0);
        if let Some(backlog) = &mut socket.backlog {
            let consumed = engine.handle_bytes_up_to(now, id, backlog.bytes(), max_work);
            if backlog.consume(consumed.bytes) {
                socket.backlog = None;
            }
            message_work = consumed.work;
            work = message_work;
        } else {
            match socket.stream.receive(&mut self.tls, buffer, max_bytes) {
                Ok(Received::End) => {
                    engine.handle_hangup(now, id);
                    return work;
                }
                Ok(Received::Bytes { count, left, work: decrypting }) => {
                    socket.is_readable = match left {
                        Left::Nothing => false,
                        Left::Unlikely => socket.reads_to_end,
                        Left::More => true,
                    };
                    received = count;
                    work += decrypting;
                }
                Err(error) => {
                    debug!("conn={id} cannot be read: {error}");
                    engine.handle_hangup(now, id);
                    return work;
                }
            }
            if received > 0 {
                let given = &buffer[..received.min(max_bytes)];
                let consumed = engine.handle_bytes_up_to(now, id, given, max_work);
                socket.backlog = ReadBacklog::new(&buffer[consumed.bytes..received]);
                message_work = consumed.work;
                work += received + message_work;
            }
        }
        let has_more = socket.is_readable || socket.backlog.is_some();
        socket.class = match socket.class {
            ReadClass::Handshake if socket.stream.is_handshaking() => ReadClass::Handshake,
            // The request has not come with the end of the handshake.
            ReadClass::Handshake if received == 0 => ReadClass::New,
            _ if has_more => ReadClass::Heavy,
            ReadClass::New | ReadClass::Handshake => ReadClass::Unclassified,
            _ if message_work > max_work => ReadClass::Heavy,
            _ => ReadClass::Light,
        };
        if has_more {
            socket.is_ready = true;
            self.ready.push(id, socket.class);
        }
        work
    }
}

/// Returns the address that is charged for an attempt: none behind a proxy, which makes the attempts of all its clients, and
/// none for socket files.
fn address_to_charge(config: &Config, peer: Peer) -> Option<IpAddr> {
    match peer {
        Peer::Ip(address) if config.trusted_proxies == 0 => Some(address.ip()),
        _ => None,
    }
}

impl Transport for Sockets {
    type Socket<'a> = &'a mut Stream;

    fn socket(&mut self, conn: ConnId) -> Option<&mut Stream> {
        self.table.get_mut(conn.index())?.as_mut().map(|socket| &mut socket.stream)
    }

    fn wrote(&mut self, conn: ConnId, outcome: &io::Result<Flow>) {
        if let (Ok(Flow::Finished), Some(stream)) = (outcome, self.socket(conn)) {
            stream.shut_down_output();
        }
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason) {
        if let Some(socket) = self.table.get_mut(conn.index()).and_then(Option::take) {
            socket.stream.close(&mut self.tls);
        }
    }
}
