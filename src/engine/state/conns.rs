//! The table of connections, and their order in each stage of their life.
//!
//! Moves a connection from one stage to the next, as drawn at [`ConnState`]. Why it moves is decided elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::ops::{Index, IndexMut};

use super::conn::{ConnState, Slot};
use crate::base::arena::{Arena, Key};
use crate::base::close::{CloseKind, CloseReason};
use crate::base::codes::CloseCode;
use crate::base::id::{ConnId, ConnKey, ListKey, SeatKey};
use crate::base::peer::Peer;
use crate::base::time::Time;

#[derive(Debug, Default)]
pub(crate) struct Conns {
    slots: Arena<ConnKey, Slot>,
    /// Connections that have no seat yet, by generation: oldest first.
    pending: BTreeMap<u64, ConnId>,
    /// Connections beyond `max_pending`, by generation: oldest first.
    overflow: BTreeMap<u64, ConnId>,
    /// Closing connections, in the order in which they began to close.
    closing: BTreeMap<u64, ConnId>,
    closes_started: u64,
    /// Closed connections whose socket the driver has still to drop.
    closed: VecDeque<ConnId>,
    /// Addresses of the clients that a proxy has named. Apart from the connections, so that those without a proxy pay
    /// nothing for it.
    forwarded: BTreeMap<ConnKey, IpAddr>,
    /// Close codes of connections that the application has closed with a code of its own.
    app_codes: BTreeMap<ConnKey, CloseCode>,
    /// The slot of [`ConnId::ELSEWHERE`], in a cluster. It is closed, so whatever is sent to it is dropped.
    elsewhere: Option<Box<Slot>>,
}

/// The remote end of a connection. Displayed as `127.0.0.1:4000`, or `127.0.0.1:4000 address=192.0.2.1` behind a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remote {
    peer: Peer,
    forwarded: Option<IpAddr>,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.forwarded {
            Some(address) => write!(f, "{} address={address}", self.peer),
            None => self.peer.fmt(f),
        }
    }
}

impl Conns {
    /// Adds a pending connection. Returns `None` if no id is left for it.
    pub(crate) fn insert(&mut self, generation: u64, peer: Peer, now: Time) -> Option<ConnId> {
        let id = ConnId::new(self.slots.vacant_key().index(), generation)?;
        self.slots.insert(Slot::new(id, peer, now));
        self.pending.insert(generation, id);
        Some(id)
    }

    /// Adds a connection beyond `max_pending`. Returns `None` if no id is left for it.
    pub(crate) fn insert_overflow(&mut self, generation: u64, peer: Peer, now: Time) -> Option<ConnId> {
        let id = self.insert(generation, peer, now)?;
        self.pending.remove(&generation);
        self.overflow.insert(generation, id);
        self.slots[id.key()].state = ConnState::Overflow;
        Some(id)
    }

    /// Returns a connection that is not closed.
    #[inline]
    pub(crate) fn open(&self, id: ConnId) -> Option<&Slot> {
        self.get(id).filter(|slot| !slot.is_closed())
    }

    #[inline]
    pub(crate) fn open_mut(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(id.key()).filter(|slot| slot.id == id && !slot.is_closed())
    }

    /// Returns a connection that is not freed: it may be closed.
    #[inline]
    pub(crate) fn get(&self, id: ConnId) -> Option<&Slot> {
        self.slots.get(id.key()).filter(|slot| slot.id == id)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(id.key()).filter(|slot| slot.id == id)
    }

    pub(crate) fn by_key(&self, key: ConnKey) -> Option<&Slot> {
        self.slots.get(key)
    }

    /// All connections that are not freed, ordered by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnKey, &Slot)> {
        self.slots.iter()
    }

    /// Removes a connection and leaves everything else as it is, which breaks the engine.
    #[cfg(test)]
    pub(crate) fn remove_for_test(&mut self, key: ConnKey) {
        self.slots.remove(key);
    }

    /// Adds the slot that stands for the connections of other nodes.
    pub(crate) fn add_elsewhere(&mut self) {
        let slot = Slot::new(ConnId::ELSEWHERE, Peer::UNKNOWN, Time::ZERO);
        let (state, close_kind) = (ConnState::Closed, Some(CloseKind::PeerGone));
        self.elsewhere = Some(Box::new(Slot { state, close_kind, ..slot }));
    }

    #[cold]
    fn elsewhere(&self, key: ConnKey) -> &Slot {
        let slot = self.elsewhere.as_deref().filter(|slot| slot.id.key() == key);
        slot.expect("the key is that of a connection")
    }

    #[cold]
    fn elsewhere_mut(&mut self, key: ConnKey) -> &mut Slot {
        let slot = self.elsewhere.as_deref_mut().filter(|slot| slot.id.key() == key);
        slot.expect("the key is that of a connection")
    }

    // ---- stages ----

    pub(crate) fn set_seated(&mut self, key: ConnKey, seat: SeatKey) {
        let slot = &mut self.slots[key];
        self.pending.remove(&slot.id.generation());
        slot.state = ConnState::Seated(seat);
    }

    pub(crate) fn set_listing(&mut self, key: ConnKey, list: ListKey) {
        let slot = &mut self.slots[key];
        self.pending.remove(&slot.id.generation());
        slot.state = ConnState::Listing(list);
    }

    /// Makes a connection beyond `max_pending` an ordinary pending one.
    pub(crate) fn set_pending(&mut self, key: ConnKey) {
        let slot = &mut self.slots[key];
        slot.state = ConnState::Pending(None);
        self.overflow.remove(&slot.id.generation());
        self.pending.insert(slot.id.generation(), slot.id);
    }

    pub(crate) fn set_closing(&mut self, key: ConnKey) {
        self.closes_started += 1;
        let slot = &mut self.slots[key];
        self.closing.insert(self.closes_started, slot.id);
        match std::mem::replace(&mut slot.state, ConnState::Closing(self.closes_started)) {
            ConnState::Pending(authorization) => {
                debug_assert!(authorization.is_none(), "leave_seat() has cancelled the reservation");
                self.pending.remove(&slot.id.generation());
            }
            ConnState::Overflow => drop(self.overflow.remove(&slot.id.generation())),
            ConnState::Seated(_) | ConnState::Listing(_) | ConnState::Closing(_) | ConnState::Closed => {}
        }
    }

    /// Returns false if the connection was closed already.
    pub(crate) fn set_closed(&mut self, key: ConnKey) -> bool {
        let slot = &mut self.slots[key];
        match std::mem::replace(&mut slot.state, ConnState::Closed) {
            ConnState::Pending(authorization) => {
                self.pending.remove(&slot.id.generation());
                debug_assert!(authorization.is_none(), "leave_seat() has cancelled the reservation");
            }
            ConnState::Overflow => drop(self.overflow.remove(&slot.id.generation())),
            ConnState::Closing(order) => {
                self.closing.remove(&order);
            }
            ConnState::Seated(_) | ConnState::Listing(_) => unreachable!("leave_seat() has freed the seat"),
            ConnState::Closed => return false,
        }
        self.closed.push_back(slot.id);
        true
    }

    /// Whether closed connections are to be freed.
    #[inline]
    pub(crate) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Frees the closed connection that was closed first. Returns its id and its close reason.
    pub(crate) fn free_next(&mut self) -> Option<(ConnId, Option<CloseReason>)> {
        let id = self.closed.pop_front()?;
        let slot = self.slots.remove(id.key());
        let reason = self.close_reason(&slot);
        self.app_codes.remove(&id.key());
        self.forwarded.remove(&id.key());
        Some((id, reason))
    }

    // ---- addresses ----

    /// Sets the client's address, once its request is read.
    pub(crate) fn set_address(&mut self, key: ConnKey, address: IpAddr) {
        if address != self.slots[key].peer.peer().ip() {
            self.forwarded.insert(key, address);
        }
    }

    /// Forgets the client's address: another client may send the next request of the connection through the same proxy.
    pub(crate) fn clear_address(&mut self, key: ConnKey) {
        self.forwarded.remove(&key);
    }

    /// Returns the client's address: the one that a trusted proxy has named, or that of the peer.
    pub(crate) fn address(&self, key: ConnKey) -> IpAddr {
        self.forwarded.get(&key).copied().unwrap_or_else(|| self.slots[key].peer.peer().ip())
    }

    /// The connections for which a proxy has named an address.
    pub(crate) fn forwarded(&self) -> impl Iterator<Item = ConnKey> {
        self.forwarded.keys().copied()
    }

    /// Returns the peer and the client's address for the log.
    pub(crate) fn remote(&self, key: ConnKey) -> Remote {
        Remote { peer: self.slots[key].peer.peer(), forwarded: self.forwarded.get(&key).copied() }
    }

    // ---- close reasons ----

    /// Sets the close reason of a connection. Returns false if it has one already.
    pub(crate) fn set_close_reason(&mut self, key: ConnKey, reason: CloseReason) -> bool {
        let slot = &mut self.slots[key];
        if slot.close_kind.is_some() {
            return false;
        }
        slot.close_kind = Some(reason.kind());
        if let CloseReason::App(code) = reason {
            self.app_codes.insert(key, code);
        }
        true
    }

    /// Returns the close reason of a connection, if it has one.
    pub(crate) fn close_reason(&self, slot: &Slot) -> Option<CloseReason> {
        let kind = slot.close_kind?;
        kind.reason().or_else(|| self.app_codes.get(&slot.id.key()).copied().map(CloseReason::App))
    }

    // ---- counts ----

    /// Number of connections that are not freed.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(crate) fn closed_count(&self) -> usize {
        self.closed.len()
    }

    pub(crate) fn closing_count(&self) -> usize {
        self.closing.len()
    }

    /// Number of connections that have a seat or follow the list of lobbies.
    pub(crate) fn seated_count(&self) -> usize {
        self.len() - self.pending.len() - self.overflow.len() - self.closing.len() - self.closed.len()
    }

    pub(crate) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// The connections that have no seat yet, oldest first.
    pub(crate) fn pending(&self) -> impl Iterator<Item = ConnId> {
        self.pending.values().copied()
    }

    pub(crate) fn overflow_count(&self) -> usize {
        self.overflow.len()
    }

    /// The connection beyond `max_pending` that was accepted first.
    pub(crate) fn oldest_overflow(&self) -> Option<ConnId> {
        self.overflow.first_key_value().map(|(_, &id)| id)
    }

    /// The connection that began to close first.
    pub(crate) fn oldest_closing(&self) -> Option<ConnId> {
        self.closing.first_key_value().map(|(_, &id)| id)
    }

    /// Whether the connection is listed as the one that began to close at `order`.
    pub(crate) fn is_closing_at(&self, order: u64, id: ConnId) -> bool {
        self.closing.get(&order) == Some(&id)
    }

    /// Number of connections that have begun to close since the start.
    pub(crate) fn closes_started(&self) -> u64 {
        self.closes_started
    }

    pub(crate) fn set_closes_started(&mut self, closes_started: u64) {
        self.closes_started = closes_started;
    }
}

impl Index<ConnKey> for Conns {
    type Output = Slot;

    #[inline]
    fn index(&self, key: ConnKey) -> &Slot {
        match self.slots.get(key) {
            Some(slot) => slot,
            None => self.elsewhere(key),
        }
    }
}

impl IndexMut<ConnKey> for Conns {
    #[inline]
    fn index_mut(&mut self, key: ConnKey) -> &mut Slot {
        if !self.slots.contains(key) {
            return self.elsewhere_mut(key);
        }
        &mut self.slots[key]
    }
}
