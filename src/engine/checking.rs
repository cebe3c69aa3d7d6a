//! Asserts the invariants of the engine and its parts. For tests: it visits every connection, lobby and timer.

use std::collections::BTreeMap;

use super::core::Core;
use super::state::conn::{ConnState, Slot};
use super::state::ticks::Ticks;
use crate::base::arena::Key;
use crate::base::close::CloseKind;
use crate::base::id::ConnKey;
use crate::base::limit::{MAX_FILE_BYTES, MAX_LIST_BYTES};
use crate::ws::connection::Connection;
use crate::ws::handshake::Acceptance;

/// Size of an outbox beyond its bound: the bookkeeping of the last frame, a pong, a goodbye and a close frame.
const OUTBOX_OVERRUN: usize = 1024;

impl Core {
    /// Asserts all invariants.
    pub(super) fn check(&self) {
        self.directory.check();
        self.timers.wheel.check();
        let (mut pending, mut overflow, mut seated, mut listing, mut closing, mut closed) = (0, 0, 0, 0, 0, 0);
        for (key, slot) in self.conns.iter() {
            assert_eq!(slot.id.key(), key);
            self.check_timer(key, slot);
            self.check_output(key, slot);
            match &slot.state {
                ConnState::Pending(_) => pending += 1,
                ConnState::Overflow => overflow += 1,
                &ConnState::Seated(seat) => {
                    seated += 1;
                    assert!(slot.close_kind.is_none() && slot.wire.is_open(), "a member's connection is open");
                    assert_eq!(self.directory.conn_of(seat), Some(slot.id));
                    let is_of_address = Some(self.directory.seat(seat).address) == slot.address;
                    assert!(
                        is_of_address || self.directory.session_of(seat).is_some() || self.is_clustered(),
                        "a seat counts for its address"
                    );
                    assert!(slot.health.open_checks() <= self.config.max_health_pings as usize);
                    assert!(slot.strikes <= self.config.max_strikes);
                }
                ConnState::Listing(_) => {
                    listing += 1;
                    assert!(slot.close_kind.is_none() && slot.wire.is_open(), "its connection is open");
                    assert!(slot.address.is_some() && slot.strikes <= self.config.max_strikes);
                }
                ConnState::Closing(order) => {
                    closing += 1;
                    assert!(slot.close_kind.is_some(), "a closing connection has a close reason");
                    assert!(self.conns.is_closing_at(*order, slot.id));
                }
                ConnState::Closed => closed += 1,
            }
        }
        let counts = (self.conns.pending_count(), self.conns.closing_count(), self.conns.closed_count());
        assert_eq!((pending, closing, closed), counts);
        let away = self.directory.away_count();
        let elsewhere = self.directory.elsewhere_count();
        let seats = self.directory.members_count();
        assert_eq!(seated + away + elsewhere, seats, "every seat has its connection, or is away or elsewhere");
        assert!(elsewhere == 0 || self.is_clustered(), "only a cluster has seats elsewhere");
        self.check_cluster();
        self.check_sessions();
        if self.drain.is_none() && self.directory.is_presence_flushed() {
            self.directory.all_lobbies().for_each(|lobby| self.directory.check_host(lobby, self.now()));
        }
        assert!(pending <= self.config.max_pending as usize, "max_pending");
        assert_eq!(overflow, self.conns.overflow_count());
        assert!(overflow <= self.config.max_overflow as usize, "max_overflow");
        assert_eq!(listing, self.lists.len(), "every connection that follows the list is counted");
        assert!(listing <= self.config.max_list_watchers as usize, "max_list_watchers");
        self.lists.check(self.list_changes(), |conn| match self.conns.by_key(conn)?.state {
            ConnState::Listing(list) => Some(list),
            _ => None,
        });
        let open = pending + seated + listing + closing;
        assert!(self.config.max_sockets().bound().is_none_or(|bound| open <= bound as usize));
        let queued = self.conns.iter().filter(|(_, slot)| slot.close_kind.is_none() && slot.queued_close.is_some());
        self.close_queue.check(queued.map(|(_, slot)| slot.id));
        self.ticks.iter().for_each(Ticks::check);
        self.inboxes.check(self.config.max_message_bytes.0, |conn| {
            self.conns.get(conn).is_some_and(|slot| slot.seat().is_some())
        });
        self.egress.check_all();
        self.check_posts();
        assert_eq!(self.egress.is_corking(), self.should_cork(), "output waits for ticks only while they run");
        let mut with_data = self.identity_data.keys();
        assert!(
            with_data.all(|key| self.conns.by_key(key).is_some_and(|slot| slot.seat().is_some())),
            "data of a member"
        );
        self.check_addresses();
        self.check_counters(seats);
    }

    fn check_posts(&self) {
        let wire = |conn| self.conns.by_key(conn).filter(|slot| !slot.is_closed()).map(|slot| &slot.wire);
        // The stream of a session is no stream any more while it closes.
        let is_post = |conn| wire(conn).is_some_and(Connection::is_reading_body);
        let is_asked =
            |conn| wire(conn).is_some_and(|wire| matches!(wire.pending_request(), Some(Acceptance::Post(_))));
        self.posts.check(|conn| wire(conn).is_some(), is_asked, is_post);
    }

    fn check_cluster(&self) {
        let Some(cluster) = &self.cluster else { return };
        assert!(!cluster.is_executing, "no entry is being executed between two calls");
        assert_eq!(
            cluster.seat_connections.keys().count(),
            self.directory.members_count(),
            "every seat has its connection"
        );
        assert_eq!(cluster.seats.len(), self.directory.members_count(), "every seat is found by its id");
        for seat in self.directory.all_seats() {
            let (id, connection) = (self.directory.seat(seat).id, cluster.seat_connections.get(seat));
            assert_eq!(connection.map(|connection| connection.seat), Some(id), "a connection names its seat");
            assert_eq!(cluster.seats.get(&id), Some(&seat), "a seat is found by its id");
        }
        let waits = |conn| self.conns.open(conn).is_some_and(|slot| matches!(slot.state, ConnState::Pending(Some(_))));
        assert!(cluster.waiting.keys().all(|&conn| waits(conn)), "a connection that waits has a pending request");
    }

    fn check_timer(&self, key: ConnKey, slot: &Slot) {
        let (wheel, is_armed) = (&self.timers.wheel, self.timers.wheel.is_armed(key.index()));
        let is_deferred = self.is_deferred(slot.id);
        assert!(!slot.is_closed() || !is_armed, "a closed connection has no timer: {slot:?}");
        assert!(
            slot.is_closed() || is_deferred || is_armed,
            "every connection that is not closed has a timer: {slot:?}"
        );
        let deadline = slot.deadline(&self.config);
        let in_time = slot.is_closed() || is_deferred || wheel.fires_by(key.index(), deadline);
        assert!(in_time, "the timer fires by the deadline: {slot:?}");
        let expires = self.timers.expiries.contains_key(&key);
        assert!(!expires || slot.seat().is_some(), "only members have an expiring identity");
    }

    fn check_output(&self, key: ConnKey, slot: &Slot) {
        if slot.is_closed() {
            return self.egress.check_closed(key);
        }
        let lobby = slot.seat().map(|seat| self.directory.seat(seat).lobby);
        self.egress.check(slot.id, lobby);
        // The response to the upgrade may repeat a name from the request head.
        let bound = self.config.max_outbound_bytes.0.max(self.config.max_header_bytes.0) + OUTBOX_OVERRUN;
        // A file of the program has a bound of its own.
        let file = if slot.close_kind == Some(CloseKind::HttpRefused) { MAX_FILE_BYTES + OUTBOX_OVERRUN } else { 0 };
        // A part of the list of lobbies is sent as a whole.
        let list = if self.config.lobby_control && slot.seat().is_none() { MAX_LIST_BYTES + OUTBOX_OVERRUN } else { 0 };
        assert!(self.egress.queued_size(key).cost <= bound.max(file) + list, "max_outbound_bytes: {slot:?}");
    }

    fn check_addresses(&self) {
        let mut addresses = BTreeMap::new();
        for (_, slot) in self.conns.iter().filter(|(_, slot)| !slot.is_closed()) {
            slot.address.into_iter().for_each(|address| *addresses.entry(address).or_insert(0) += 1);
        }
        for seat in self.directory.all_seats().filter(|&seat| self.has_address_hold(seat)) {
            *addresses.entry(self.directory.seat(seat).address).or_insert(0) += 1;
        }
        assert_eq!(self.addresses.len(), addresses.len(), "only addresses with a connection are counted");
        assert!(addresses.iter().all(|(&address, &count)| self.addresses.connections(address) == count));
        let is_kept = |key| self.conns.by_key(key).is_some_and(|slot| slot.address.is_some());
        assert!(self.conns.forwarded().all(is_kept), "an address of a connection whose request was read");
    }

    pub(super) fn check_sessions(&self) {
        let mut sessions = 0;
        for seat in self.directory.all_seats() {
            let has_session = self.directory.session_of(seat).is_some();
            assert_eq!(has_session, self.sessions.get(seat).is_some(), "a session has its state");
            sessions += usize::from(has_session);
            if let Some(state) = self.sessions.get(seat) {
                let is_waiting = self.directory.conn_of(seat).is_some_and(|conn| self.inboxes.has_messages_of(conn));
                let directs = &state.directs;
                assert!(directs.len() <= self.config.direct_frames as usize, "direct_frames");
                assert!(directs.bytes() <= self.config.direct_bytes.0, "direct_bytes");
                assert!(state.unanswered == 0 || is_waiting, "only requests in an inbox wait");
            }
        }
        assert_eq!(sessions, self.sessions.count(), "no state without a session");
        let mut histories = 0;
        for lobby in self.directory.all_lobbies() {
            let history = self.histories.get(lobby);
            let lobby = self.directory.lobby_ref(lobby);
            assert_eq!(history.is_some(), lobby.has_sessions(), "a lobby with a session has a history");
            histories += usize::from(history.is_some());
            if let Some(history) = history {
                assert!(history.bytes() <= self.config.history_bytes.0 && history.covers(lobby.seq, lobby.seq));
                assert!(history.len() <= self.config.history_frames as usize);
            }
        }
        assert_eq!(histories, self.histories.count(), "no history without a lobby");
    }

    fn check_counters(&self, seated: usize) {
        let counters = &self.counters;
        // A node gets seats with the state of the cluster, and forgets them when it is detached.
        let is_counted = self.is_clustered() || counters.joined - counters.left == seated as u64;
        assert!(is_counted, "every join has one leave");
        let ended = self.conns.iter().filter(|(_, slot)| slot.close_kind.is_some()).count() as u64;
        let freed = counters.accepted - self.conns.len() as u64;
        assert_eq!(counters.closed_in_all(), freed + ended, "every connection has one close reason");
    }
}
