//! Accepting connections, with or without a header of the PROXY protocol.

use super::listener::Accepted;
use super::server::Server;
use super::sockets::Arrival;
use crate::base::time::Time;
use crate::engine::app::App;

impl<A: App> Server<A> {
    /// Whether a connection that was accepted has no seat and no answer yet.
    pub(super) fn has_handshakes(&self) -> bool {
        self.engine.stats().pending > 0 || !self.proxied.is_empty()
    }

    /// Passes new connections on: to the engine, or if they come from a listed proxy, once their header has arrived.
    pub(super) fn accept(&mut self, now: Time) {
        let registry = self.poll.registry();
        while let Some((stream, peer)) = self.proxied.next(now) {
            let arrival = Arrival::Proxied { is_registered: true };
            self.sockets.add(now, &mut self.engine, registry, stream, peer, arrival);
        }
        // If the budget ends before the listen backlogs are empty, the next turn continues.
        for _ in 0..self.engine.config().accept_per_turn {
            match self.listeners.accept(now) {
                Some(Accepted::Connection(stream, peer)) if self.proxied.expects(peer) => {
                    if let Some((stream, peer)) = self.proxied.add(now, registry, stream, peer) {
                        let arrival = Arrival::Proxied { is_registered: false };
                        self.sockets.add(now, &mut self.engine, registry, stream, peer, arrival);
                    }
                }
                Some(Accepted::Connection(stream, peer)) => {
                    self.sockets.add(now, &mut self.engine, registry, stream, peer, Arrival::Accepted);
                }
                Some(Accepted::Shed) => self.engine.handle_shed(now),
                Some(Accepted::Aborted) => {}
                None => return,
            }
        }
    }
}
