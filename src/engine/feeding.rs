//! Notes what happens to seats and lobbies, for the operators' event stream and the hook: see [`Feed`](super::state::feed::Feed).
//!
//! In a cluster all nodes see all events, and each event is reported by one node: by that of the member's connection or, if
//! that node has ended or the event is about no member, by the node that has been attached for the longest time.

use std::time::Duration;

use super::Engine;
use super::app::App;
use super::core::Core;
use super::member::Member;
use super::state::feed::{FeedEvent, FeedMember};
use crate::base::close::LeaveReason;
use crate::base::event_kind::EventKind;
use crate::base::id::{LobbyKey, SeatKey};

impl<A: App> Engine<A> {
    /// Notes events from now on.
    pub(crate) fn start_feed(&mut self) {
        self.core.feed.start();
        self.core.directory.note_opened_lobbies();
    }

    /// Takes the events since the last call, in the order in which they happened. Empty unless
    /// [`start_feed`](Self::start_feed) was called.
    pub(crate) fn take_feed(&mut self) -> Vec<FeedEvent> {
        if self.core.feed.is_on() {
            self.core.feed_lobbies();
        }
        self.core.feed.take()
    }

    /// Returns the wall time of this turn, in milliseconds since the Unix epoch.
    pub(crate) fn unix_millis(&self) -> u64 {
        self.core.unix_millis()
    }
}

impl Core {
    /// Notes an event of a member.
    #[inline]
    pub(super) fn feed_member(&mut self, kind: EventKind, member: &Member, reason: Option<LeaveReason>) {
        if self.feed.is_on() {
            // The lobby was opened before its first member joined, and closed after its last one left.
            let is_end = kind == EventKind::Left;
            if !is_end {
                self.feed_lobbies();
            }
            self.push_member(kind, member, reason);
            if is_end {
                self.feed_lobbies();
            }
        }
    }

    fn push_member(&mut self, kind: EventKind, member: &Member, reason: Option<LeaveReason>) {
        if !self.reports_member(member) {
            return;
        }
        let is_watcher = Some(member.is_watcher);
        let feed_member = FeedMember { user: member.user.clone(), seat: member.seat, is_watcher };
        let event =
            FeedEvent { lobby: Some(member.lobby.clone()), member: Some(feed_member), reason, ..self.event(kind) };
        self.feed.push(event);
    }

    /// Notes that a lobby has another host.
    pub(super) fn feed_host(&mut self, seat: SeatKey) {
        if self.feed.is_on() && self.reports_lobbies() {
            let lobby = self.directory.lobby_ref(self.directory.seat(seat).lobby).code.clone();
            let (user, id) = (self.directory.user_of(seat).clone(), self.directory.seat(seat).id);
            let member = Some(FeedMember { user, seat: id, is_watcher: None });
            let event = FeedEvent { lobby: Some(lobby), member, ..self.event(EventKind::Host) };
            self.feed.push(event);
        }
    }

    /// Notes that a lobby has started.
    pub(super) fn feed_start(&mut self, lobby: LobbyKey) {
        if self.feed.is_on() && self.reports_lobbies() {
            let lobby = Some(self.directory.lobby_ref(lobby).code.clone());
            let event = FeedEvent { lobby, ..self.event(EventKind::Started) };
            self.feed.push(event);
        }
    }

    /// Notes that a drain begins.
    pub(super) fn feed_drain(&mut self, left: Duration) {
        if self.feed.is_on() {
            let deadline_millis = Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            let event = FeedEvent { deadline_millis, ..self.event(EventKind::Draining) };
            self.feed.push(event);
        }
    }

    /// Notes the lobbies that were opened and closed.
    fn feed_lobbies(&mut self) {
        let changes = self.directory.take_opened_lobbies();
        if self.reports_lobbies() {
            for (is_opened, code) in changes {
                let kind = if is_opened { EventKind::LobbyOpened } else { EventKind::LobbyClosed };
                let event = FeedEvent { lobby: Some(code), ..self.event(kind) };
                self.feed.push(event);
            }
        }
    }

    fn event(&self, kind: EventKind) -> FeedEvent {
        FeedEvent::of_server(kind, self.unix_millis())
    }

    fn reports_member(&self, member: &Member) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        match cluster.node_of(member.seat_key, member.seat).filter(|node| cluster.nodes.contains_key(node)) {
            Some(node) => cluster.node == Some(node),
            None => self.reports_lobbies(),
        }
    }

    fn reports_lobbies(&self) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        cluster.node.is_some() && cluster.nodes.keys().next() == cluster.node.as_ref()
    }
}
