//! Sockets of the admin port: separate listeners, and the I/O for [`AdminConns`], which answers the requests.

use std::io::{self, Write};
use std::path::Path;

use log::debug;
use mio::event::Event;
use mio::{Interest, Registry, Token};

use super::error::Error;
use super::files::read_file;
use super::hook::Events;
use super::listen_socket::GivenSockets;
use super::listener::Accepted;
use super::listeners::Listeners;
use super::metrics::ServerMetrics;
use super::plain_stream::{Left, READ_WORK, Received};
use super::stream::Stream;
use super::tls::Tls;
use super::tokens::{ADMIN_LISTENERS, FIRST_ADMIN};
use crate::admin::{self, AdminConns};
use crate::base::peer::Peer;
use crate::base::time::Time;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::app::App;

/// Most bytes of the file with the operators' token, which has one line.
const MAX_TOKEN_FILE: usize = 4096;

/// Most connections accepted in one turn. The rest waits for the next turn.
const ACCEPTED_PER_TURN: usize = 16;

/// Work after which no further socket is read in a turn, as in [`Received`]. So clients that may have no token delay the members by
/// no more than some milliseconds.
const WORK_PER_TURN: usize = 1 << 20;

pub(super) struct Operators {
    listeners: Listeners,
    conns: AdminConns,
    /// Indexed by the keys of `conns`.
    sockets: Vec<Option<AdminSocket>>,
    /// Sockets read in one turn that have not completed their TLS handshake.
    handshakes_per_turn: u32,
    /// Key of the socket that is read first in the next turn: the first one that was left over in the last.
    first_to_read: usize,
}

struct AdminSocket {
    stream: Stream,
    /// Whether the socket has, or may have, bytes to read. Readiness is edge-triggered, so it must be remembered.
    is_ready: bool,
    is_blocked: bool,
    is_shut_down: bool,
}

impl Operators {
    /// Listens on `config.admin`; returns `None` when that is off.
    pub(super) fn bind(
        config: &Config,
        registry: &Registry,
        given: &mut GivenSockets,
    ) -> Result<Option<Operators>, Error> {
        let Some(addresses) = &config.admin else { return Ok(None) };
        let token = config.admin_token_file.as_deref().map(read_token).transpose()?;
        let mut listeners = Listeners::bind(addresses, config.listen_mode, None, given)?;
        listeners.register(registry, ADMIN_LISTENERS).map_err(Error::Poll)?;
        let conns = AdminConns::new(config, token);
        let handshakes_per_turn = config.tls_handshakes_per_turn;
        Ok(Some(Operators { listeners, conns, sockets: Vec::new(), handshakes_per_turn, first_to_read: 0 }))
    }

    /// Reads the token's file again. If that fails, the token stays as it is.
    pub(super) fn reload_token(&mut self, path: &Path) -> Result<(), Error> {
        self.conns.set_token(read_token(path)?);
        Ok(())
    }

    pub(super) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let ready = self.sockets.iter().flatten().any(|socket| socket.is_ready).then_some(Time::ZERO);
        [ready, self.listeners.poll_timeout(), self.conns.poll_timeout()].into_iter().flatten().min()
    }

    /// Whether a client's deadline has passed. The sockets are polled once more before the client is timed out.
    pub(super) fn has_due_timers(&self, now: Time) -> bool {
        self.conns.poll_timeout().is_some_and(|at| at <= now)
    }

    pub(super) fn handle_listener_ready(&mut self, now: Time, index: usize) {
        self.listeners.handle_ready(now, index);
    }

    pub(super) fn handle_socket_ready(&mut self, event: &Event) {
        let index = event.token().0 - FIRST_ADMIN;
        let Some(socket) = self.sockets.get_mut(index).and_then(Option::as_mut) else { return };
        socket.is_ready |= event.is_readable() || event.is_read_closed() || event.is_error();
        if event.is_writable() {
            socket.stream.handle_writable();
            socket.is_blocked = false;
        }
    }

    /// Accepts connections, and reads each ready socket once.
    ///
    /// A new socket is read in the same turn: in a flood of connections, the request of an operator has arrived while its
    /// connection waited to be accepted.
    pub(super) fn read(&mut self, now: Time, registry: &Registry, buffer: &mut [u8], tls: &mut Tls) {
        for _ in 0..ACCEPTED_PER_TURN {
            // Without room, the rest waits for the next turn.
            if !self.conns.has_room() {
                break;
            }
            match self.listeners.accept(now) {
                Some(Accepted::Connection(stream, peer)) => self.add_socket(now, registry, (stream, peer), tls),
                Some(Accepted::Shed | Accepted::Aborted) => {}
                None => break,
            }
        }
        let (mut handshakes, mut work, mut skipped) = (self.handshakes_per_turn, 0, None);
        for at in 0..self.sockets.len() {
            let key = (self.first_to_read + at) % self.sockets.len();
            let Some(socket) = self.sockets[key].as_ref().filter(|socket| socket.is_ready) else { continue };
            let is_handshaking = socket.stream.is_handshaking();
            if work >= WORK_PER_TURN || (is_handshaking && handshakes == 0) {
                skipped = skipped.or(Some(key));
                continue;
            }
            handshakes -= u32::from(is_handshaking);
            work += self.read_socket(key, buffer, tls);
        }
        self.first_to_read = skipped.unwrap_or(0);
    }

    /// Reads a socket once. Returns the work done.
    fn read_socket(&mut self, key: usize, buffer: &mut [u8], tls: &mut Tls) -> usize {
        let Some(socket) = self.sockets[key].as_mut() else { return 0 };
        match socket.stream.receive(tls, buffer, buffer.len()) {
            Ok(Received::End) => {
                socket.is_ready = false;
                self.conns.handle_end(key);
            }
            Ok(Received::Bytes { count, left, work }) => {
                // Every read is followed by another one, until one finds nothing.
                socket.is_ready = left != Left::Nothing;
                if count > 0 {
                    self.conns.handle_bytes(key, &buffer[..count]);
                }
                if count > 0 && left == Left::More {
                    self.conns.handle_unread(key);
                }
                return READ_WORK + count + work;
            }
            Err(_) => {
                socket.is_ready = false;
                self.conns.handle_hangup(key);
            }
        }
        READ_WORK
    }

    fn add_socket(&mut self, now: Time, registry: &Registry, (mut stream, peer): (Stream, Peer), tls: &mut Tls) {
        let address = if let Peer::Ip(address) = peer { Some(address.ip()) } else { None };
        if stream.is_tls() && !tls.admits_operator(now, address) {
            return debug!("admin: {peer} refused: its address makes too many attempts");
        }
        let Some(key) = self.conns.handle_accept(now, peer) else { return };
        self.drop_closed(tls);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(FIRST_ADMIN + key);
        if let Err(error) = stream.start_tls(tls).and_then(|()| registry.register(&mut stream, token, interest)) {
            debug!("admin: {peer} cannot be registered with the poll: {error}");
            return self.conns.handle_hangup(key);
        }
        if key >= self.sockets.len() {
            self.sockets.resize_with(key + 1, || None);
        }
        self.sockets[key] = Some(AdminSocket { stream, is_ready: true, is_blocked: false, is_shut_down: false });
    }

    /// Carries out the requests. Their answers are queued until [`write`](Self::write).
    pub(super) fn work<A: App>(&mut self, now: Time, engine: &mut Engine<A>, mut metrics: ServerMetrics<'_>) {
        let log = metrics.of_events.map(Events::log);
        self.conns.work_with_events(now, engine, &mut metrics, log);
    }

    /// Writes the queued answers and the events of this turn, and drops the sockets of closed clients.
    pub(super) fn write(&mut self, now: Time, events: Option<&Events>, tls: &mut Tls) {
        if let Some(events) = events {
            self.conns.fill_streams(now, events.log());
        }
        for (key, socket) in self.sockets.iter_mut().enumerate() {
            let Some(socket) = socket.as_mut() else { continue };
            while !socket.is_blocked && !self.conns.pending(key).is_empty() {
                match socket.stream.write(self.conns.pending(key)) {
                    Ok(n) => self.conns.handle_written(now, key, n),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.is_blocked = true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => {
                        self.conns.handle_hangup(key);
                        break;
                    }
                }
            }
            if self.conns.is_finished(key) && !std::mem::replace(&mut socket.is_shut_down, true) {
                socket.stream.shut_down_output();
            }
        }
        self.drop_closed(tls);
    }

    fn drop_closed(&mut self, tls: &mut Tls) {
        while let Some(key) = self.conns.poll_closed() {
            if let Some(socket) = self.sockets.get_mut(key).and_then(Option::take) {
                socket.stream.close(tls);
            }
        }
    }
}

/// Reads the file with the operators' token.
pub(super) fn read_token(path: &Path) -> Result<admin::Token, Error> {
    let error = |problem: String| Error::Token(path.to_owned(), problem);
    let bytes = read_file(path, MAX_TOKEN_FILE).map_err(|cause| error(cause.to_string()))?;
    let text = str::from_utf8(&bytes).map_err(|_| error("is not UTF-8".into()))?;
    admin::Token::read(text).map_err(|rule| error(rule.into()))
}
