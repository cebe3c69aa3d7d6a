//! Accepting sockets: which are served, which are refused, and which must make room.

use std::net::IpAddr;

use log::debug;

use super::Engine;
use super::app::App;
use super::core::Core;
use super::driver::Full;
use super::event_streams::BUSY_WAIT;
use super::state::conn::{ConnState, Slot};
use crate::base::close::CloseReason;
use crate::base::id::{ConnId, ConnKey};
use crate::base::network::displaced_by;
use crate::base::peer::Peer;
use crate::http::PlainResponse;
use crate::ws::handshake::Acceptance;

impl<A: App> Engine<A> {
    /// Returns whether the socket is one beyond `max_pending`, which further ones displace.
    pub(crate) fn is_overflow(&self, conn: ConnId) -> bool {
        self.core.conns.get(conn).is_some_and(|slot| matches!(slot.state, ConnState::Overflow))
    }
}

impl Core {
    pub(super) fn accept(&mut self, peer: Peer) -> Result<ConnId, Full> {
        let is_full = self.conns.pending_count() >= self.config.max_pending as usize;
        let is_pending = !is_full || self.displace_idle() || self.displace_pending(peer.ip());
        let has_overflow = self.config.max_overflow > 0;
        let generation = self.counters.accepted + 1;
        let accepted = if has_overflow && !is_pending {
            self.accept_overflow(generation, peer)
        } else if self.make_room() {
            self.conns.insert(generation, peer, self.now())
        } else if has_overflow {
            self.accept_overflow(generation, peer)
        } else {
            None
        };
        let Some(id) = accepted else {
            self.counters.shed += 1;
            return Err(Full);
        };
        self.counters.accepted += 1;
        self.egress.open(id);
        let key = id.key();
        debug!("conn={id} peer={peer} accepted");
        if is_pending || has_overflow {
            self.conns[key].deadline = self.now() + self.config.handshake_timeout;
            self.rearm(key);
        } else {
            self.refuse_unread(key);
        }
        Ok(id)
    }
    /// Accepts a socket beyond `max_pending`. If `max_overflow` is reached, the oldest of these sockets gives way: a load
    /// balancer must not take the server out of service because strangers hold all sockets.
    fn accept_overflow(&mut self, generation: u64, peer: Peer) -> Option<ConnId> {
        if self.conns.overflow_count() >= self.config.max_overflow as usize
            && let Some(oldest) = self.conns.oldest_overflow()
        {
            debug!("conn={oldest} displaced by a newer socket beyond max_pending");
            let is_answered = self.conns[oldest.key()].close_kind.is_some();
            if is_answered || !self.make_room() {
                self.abort(oldest.key(), CloseReason::HttpRefused);
            } else {
                self.refuse_unread(oldest.key());
            }
        }
        self.conns.insert_overflow(generation, peer, self.now())
    }

    /// Decides whether the request of a connection may be served. That of a socket beyond `max_pending` is served only if
    /// there is room by now, or if another one gives way to the client with this address.
    pub(super) fn admit_overflow(&mut self, key: ConnKey, address: IpAddr) -> Result<(), PlainResponse> {
        if !matches!(self.conns[key].state, ConnState::Overflow) {
            return Ok(());
        }
        let is_full = self.conns.pending_count() >= self.config.max_pending as usize;
        if is_full && !self.displace_idle() && !self.displace_waiting(address) || !self.make_room() {
            return Err(busy());
        }
        self.conns.set_pending(key);
        Ok(())
    }

    /// Answers with HTTP status 503 without reading a request. The connection counts as closing from now on, so that the
    /// bounds of the others hold.
    fn refuse_unread(&mut self, key: ConnKey) {
        self.record_close_reason(key, CloseReason::HttpRefused);
        self.set_closing(key);
        self.refuse_http(key, &busy());
    }

    /// Makes room for one more socket without a seat, if all sockets together have reached their bound: drops the oldest
    /// closing one. Returns false if there is none, or if the server drains: flushing the closing connections then takes
    /// precedence.
    fn make_room(&mut self) -> bool {
        if !self.is_crowded() {
            return true;
        }
        match self.conns.oldest_closing() {
            Some(oldest) if self.drain.is_none() => {
                self.mark_closed(oldest.key());
                true
            }
            _ => false,
        }
    }

    /// Makes room for a request when `max_pending` is reached: drops the oldest socket on which none is under way. Returns
    /// whether there was one.
    fn displace_idle(&mut self) -> bool {
        let idle = self.conns.pending().find(|id| self.conns[id.key()].wire.is_idle());
        if let Some(idle) = idle {
            self.abort(idle.key(), CloseReason::HttpRefused);
        }
        idle.is_some()
    }

    /// Makes room for a new socket from `address` when `max_pending` is reached. Returns whether there is room now.
    ///
    /// Aborts the oldest pending socket of the address that has most of them, if it has more than `address` would then
    /// have. So a client that opens sockets and sends nothing can only displace its own sockets.
    fn displace_pending(&mut self, address: IpAddr) -> bool {
        // Behind a proxy all sockets come from the same address, as far as is known before the request: see displace_waiting().
        if self.config.trusted_proxies > 0 {
            return false;
        }
        let pending = self.conns.pending().map(|id| (self.conns[id.key()].peer.peer().ip(), id));
        let displaced = displaced_by(address, pending);
        if let Some((oldest, most)) = displaced {
            debug!("conn={oldest} displaced: its address has {most} sockets without a seat");
            self.abort(oldest.key(), CloseReason::HttpRefused);
        }
        displaced.is_some()
    }

    /// Makes room for a request from `address` behind a proxy when `max_pending` is reached. Returns whether there is room now.
    ///
    /// The same as [`displace_pending`](Self::displace_pending) among the connections that wait for their authorization: of
    /// these the proxy has named the address.
    fn displace_waiting(&mut self, address: IpAddr) -> bool {
        if self.config.trusted_proxies == 0 {
            // accept() has compared the addresses of all pending sockets.
            return false;
        }
        let is_waiting = |slot: &Slot| slot.close_kind.is_none() && matches!(slot.state, ConnState::Pending(Some(_)));
        let waiting = self.conns.pending().filter(|id| is_waiting(&self.conns[id.key()]));
        let displaced = displaced_by(address, waiting.map(|id| (self.conns.address(id.key()), id)));
        if let Some((oldest, most)) = displaced {
            debug!("conn={oldest} displaced: its address has {most} clients that wait for their authorization");
            self.refuse_waiting(oldest.key());
        }
        displaced.is_some()
    }

    /// Refuses a request that waits for its authorization. It is answered, because a proxy may count a connection that ends
    /// without an answer as a failure of the server. Counts as closing, as after [`refuse_unread`](Self::refuse_unread).
    fn refuse_waiting(&mut self, key: ConnKey) {
        let is_stream = matches!(self.conns[key].wire.pending_request(), Some(Acceptance::Events));
        let reason = if is_stream { CloseReason::ServerFull } else { CloseReason::HttpRefused };
        self.record_close_reason(key, reason);
        self.leave_seat(key, reason);
        self.set_closing(key);
        if is_stream {
            self.send_close(key, reason, Some(BUSY_WAIT));
        } else {
            self.refuse_http(key, &busy());
        }
    }

    /// Whether a further socket needs the room of one that is closing.
    fn is_crowded(&self) -> bool {
        let max_sockets = self.config.max_sockets();
        match max_sockets.bound() {
            Some(_) => {
                let outside = self.conns.closed_count() + self.conns.overflow_count();
                !max_sockets.has_room(self.conns.len() - outside)
            }
            // The number of seats is unlimited, so closing connections are bounded on their own.
            None => self.conns.closing_count() >= self.config.max_closing as usize,
        }
    }
}

/// The response to requests beyond `max_pending`.
fn busy() -> PlainResponse {
    PlainResponse::new(503, "the server is busy; try again in a moment")
}
