//! Accepting sockets: which are served, which are refused, and which must make room.

use std::collections::BTreeMap;
use std::net::IpAddr;

use log::debug;

use super::core::Core;
use super::driver::Full;
use super::state::meters::network_of;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::peer::Peer;
use crate::http::PlainResponse;

impl Core {
    pub(super) fn accept(&mut self, peer: Peer) -> Result<ConnId, Full> {
        let is_full = self.conns.pending_count() >= self.config.max_pending as usize;
        let is_refused = is_full && !self.displace_pending(peer.ip());
        if self.is_crowded() {
            match self.conns.oldest_closing() {
                // During a drain, flushing the closing connections takes precedence over new ones.
                Some(oldest) if self.drain.is_none() => self.mark_closed(oldest.key()),
                _ => {
                    self.counters.shed += 1;
                    return Err(Full);
                }
            }
        }
        let Some(id) = self.conns.insert(self.counters.accepted + 1, peer, self.now()) else {
            self.counters.shed += 1;
            return Err(Full);
        };
        self.counters.accepted += 1;
        self.egress.open(id);
        let key = id.key();
        debug!("conn={id} peer={peer} accepted");
        if is_refused {
            // A socket beyond the bound of pending sockets counts as closing, so that the bound holds.
            self.record_close_reason(key, CloseReason::HttpRefused);
            self.set_closing(key);
            self.refuse_http(key, &PlainResponse::new(503, "the server is busy; try again in a moment"));
        } else {
            self.conns[key].deadline = self.now() + self.config.handshake_timeout;
            self.rearm(key);
        }
        Ok(id)
    }

    /// Makes room for a new socket from `address` when `max_pending` is reached. Returns whether there is room now.
    ///
    /// Aborts the oldest pending socket of the address that has most of them, if it has more than `address` would then
    /// have. So a client that opens sockets and sends nothing can only displace its own sockets.
    fn displace_pending(&mut self, address: IpAddr) -> bool {
        // Behind a proxy all sockets come from the same address, as far as is known before the request.
        if self.config.trusted_proxies > 0 {
            return false;
        }
        let mut pending: BTreeMap<IpAddr, (usize, ConnId)> = BTreeMap::new();
        for id in self.conns.pending() {
            pending.entry(network_of(self.conns[id.key()].peer.peer().ip())).or_insert((0, id)).0 += 1;
        }
        let count = pending.get(&network_of(address)).map_or(0, |&(count, _)| count);
        match pending.into_values().max_by_key(|&(count, _)| count) {
            Some((most, oldest)) if most > count + 1 => {
                debug!("conn={oldest} displaced: its address has {most} sockets without a seat");
                self.abort(oldest.key(), CloseReason::HttpRefused);
                true
            }
            _ => false,
        }
    }

    /// Whether a further socket needs the room of one that is closing.
    fn is_crowded(&self) -> bool {
        let max_sockets = self.config.max_sockets();
        match max_sockets.bound() {
            Some(_) => !max_sockets.has_room(self.conns.len() - self.conns.closed_count()),
            // The number of seats is unlimited, so closing connections are bounded on their own.
            None => self.conns.closing_count() >= self.config.max_closing as usize,
        }
    }
}
