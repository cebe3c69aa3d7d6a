//! Sends frames to members: calls [`Egress`](crate::egress::Egress), and acts on its results. A full queue closes the
//! connection, a crossed watermark is reported to the application, and everything is counted.

use super::core::Core;
use super::member::{Exclude, Pressure, Sent};
use super::state::events::AppEvent;
use crate::base::id::{ConnId, ConnKey, LobbyKey};
use crate::egress::{Compressible, Priority, Queued, SharedFrame};
use crate::lobby::directory::{Directory, LobbyMember};
use crate::ws::frame::{Frame, Outgoing};

impl Core {
    // ---- one receiver ----

    /// Queues a frame for a member, and returns true. If `max_outbound_bytes` leaves no room for the frame, closes the
    /// connection as a slow consumer instead, and returns false.
    pub(super) fn send(&mut self, key: ConnKey, frame: Outgoing<'_>, priority: Priority) -> bool {
        let queued = self.egress.push(key, frame, priority);
        let is_queued = self.note_queued(key, queued);
        if !is_queued {
            self.close_slow_consumer(key);
        }
        is_queued
    }

    /// Queues a frame even if it exceeds `max_outbound_bytes`.
    pub(super) fn send_unbounded(&mut self, key: ConnKey, frame: Outgoing<'_>, priority: Priority) {
        let crossed = self.egress.push_unbounded(key, frame, priority);
        self.note_queued(key, Ok(crossed));
    }

    /// Queues a frame that contains only what its receiver has sent, compressed if the receiver takes compressed frames.
    pub(super) fn send_back(&mut self, key: ConnKey, frame: Outgoing<'_>) -> bool {
        if !self.egress.takes_compressed(key) {
            return self.send(key, frame, Priority::Deferred);
        }
        let compressed = self.egress.form_for(key, &frame.to_frame(), &mut None);
        self.send(key, Outgoing::Frame(&compressed), Priority::Deferred)
    }

    /// Queues a frame in place of the unsent one under the key `latest`. Returns whether there was room for it. Closes
    /// no connection.
    pub(super) fn send_latest(&mut self, key: ConnKey, latest: u64, frame: Frame) -> bool {
        let queued = self.egress.push_latest(key, latest, frame);
        self.counters.frames_replaced += u64::from(queued.has_replaced);
        self.counters.frames_out += u64::from(queued.is_queued);
        self.counters.frames_dropped += u64::from(!queued.is_queued);
        self.note_crossed(key, queued.crossed);
        queued.is_queued
    }

    /// Counts a frame that was queued, and reports the watermark that it crossed. Returns whether it was queued.
    fn note_queued(&mut self, key: ConnKey, queued: Queued) -> bool {
        if let Ok(crossed) = queued {
            self.counters.frames_out += 1;
            self.note_crossed(key, crossed);
        }
        queued.is_ok()
    }

    /// Reports to the application that the queue of a member has crossed a watermark.
    pub(super) fn note_crossed(&mut self, key: ConnKey, crossed: Option<Pressure>) {
        if let Some(pressure) = crossed
            && let Some(member) = self.member(key)
        {
            self.events.push_back(AppEvent::Pressure(member, pressure));
        }
    }

    // ---- several receivers ----

    /// Sends a frame to the members of a lobby, except to the connection `except`.
    pub(super) fn send_to_lobby(&mut self, lobby: LobbyKey, frame: Outgoing<'_>, except: Option<ConnId>) -> Sent {
        // The connection may be closed, or belong to another lobby.
        let except = except.filter(|&conn| self.egress.lobby_of(conn) == Some(lobby));
        // What is in the broadcast log may be compressed.
        let compressible = compressible(except.map_or(Exclude::None, Exclude::Conn));
        debug_assert_eq!(compressible, Compressible::Yes);
        let Some(mut shared) = self.egress.broadcast(lobby, frame, except) else {
            let except = except.map(ConnId::key);
            return self.queue_for_members(lobby, frame, compressible, |_, member| Some(member.conn) != except);
        };
        let excluded = usize::from(except.is_some());
        let members = self.directory.members(lobby).len();
        let mut sent = Sent { queued: members - excluded, dropped: 0, excluded };
        self.counters.frames_out += sent.queued as u64;
        if !self.egress.lagging(lobby).is_empty() {
            self.send_to_lagging(lobby, &mut shared, except, &mut sent);
        }
        sent
    }

    /// Queues a broadcast frame for the lagging members of a lobby, and corrects the totals in `sent`.
    fn send_to_lagging(
        &mut self,
        lobby: LobbyKey,
        shared: &mut SharedFrame<'_>,
        except: Option<ConnId>,
        sent: &mut Sent,
    ) {
        let mut slow = Vec::new();
        // Copied first, because queueing may add lagging members.
        let mut receivers = std::mem::take(&mut self.buffers.receivers);
        receivers.clear();
        receivers.extend_from_slice(self.egress.lagging(lobby));
        for &key in &receivers {
            if Some(key) != except.map(ConnId::key) {
                // push_shared() counts the frame again if it is queued.
                self.counters.frames_out -= 1;
                let queued = self.egress.push_shared(key, shared);
                if !self.note_queued(key, queued) {
                    slow.push(key);
                }
            }
        }
        self.buffers.receivers = receivers;
        sent.queued -= slow.len();
        sent.dropped += slow.len();
        // Close in join order, which does not depend on when a member began to lag.
        slow.sort_unstable_by_key(|&key| self.conns[key].seat().map(|seat| self.directory.seat(seat).id));
        slow.into_iter().for_each(|key| self.close_slow_consumer(key));
    }

    /// Queues a frame for some members of a lobby, those for which `includes` returns true. It is not compressed. A member without
    /// room for the frame counts as dropped, and its connection is closed as a slow consumer.
    pub(super) fn send_to_members(
        &mut self,
        lobby: LobbyKey,
        frame: Outgoing<'_>,
        includes: impl FnMut(&Directory, LobbyMember) -> bool,
    ) -> Sent {
        self.queue_for_members(lobby, frame, Compressible::No, includes)
    }

    /// The same for a frame that may be compressed.
    pub(super) fn queue_for_members(
        &mut self,
        lobby: LobbyKey,
        frame: Outgoing<'_>,
        compressible: Compressible,
        mut includes: impl FnMut(&Directory, LobbyMember) -> bool,
    ) -> Sent {
        let mut encoded = None;
        let mut shared = self.egress.share(lobby, frame, compressible, &mut encoded);
        let mut slow = Vec::new();
        let sent = self.for_members(lobby, |core, member| {
            if !includes(&core.directory, member) {
                return None;
            }
            let queued = core.egress.push_shared(member.conn, &mut shared);
            let is_queued = core.note_queued(member.conn, queued);
            if !is_queued {
                slow.push(member.conn);
            }
            Some(is_queued)
        });
        // Closed afterwards, so that every member at the time of the call is sent the frame.
        slow.into_iter().for_each(|key| self.close_slow_consumer(key));
        sent
    }

    /// Queues a frame for each member of a lobby for which `includes` returns true, in place of the unsent frame under
    /// the key `latest`. Closes no connection.
    pub(super) fn send_latest_to_members(
        &mut self,
        lobby: LobbyKey,
        frame: &Frame,
        latest: u64,
        compressible: Compressible,
        mut includes: impl FnMut(&Directory, LobbyMember) -> bool,
    ) -> Sent {
        let mut compressed = None;
        self.for_members(lobby, |core, member| {
            includes(&core.directory, member).then(|| {
                let form = match compressible {
                    Compressible::Yes => core.egress.form_for(member.conn, frame, &mut compressed),
                    Compressible::No => frame.clone(),
                };
                core.send_latest(member.conn, latest, form)
            })
        })
    }

    /// Calls `queue` for each member in join order and counts the results: whether the frame was queued, or `None` for
    /// a member that is excluded.
    fn for_members(&mut self, lobby: LobbyKey, mut queue: impl FnMut(&mut Core, LobbyMember) -> Option<bool>) -> Sent {
        let mut sent = Sent::default();
        for index in 0..self.directory.members(lobby).len() {
            let member = self.directory.members(lobby)[index];
            match queue(self, member) {
                Some(true) => sent.queued += 1,
                Some(false) => sent.dropped += 1,
                None => sent.excluded += 1,
            }
        }
        sent
    }
}

/// Whether a frame for all members of a lobby but those that `exclude` names may be compressed.
///
/// The length of a compressed frame depends on all of its contents. A client that chooses a part of them and sees the lengths of
/// frames on the line could guess the rest. In a frame for the whole lobby, or for all but one connection that is usually the
/// sender's, there is nothing to guess for the members. A frame that excludes users may be secret from them.
pub(super) fn compressible(exclude: Exclude<'_>) -> Compressible {
    match exclude {
        Exclude::None | Exclude::Conn(_) => Compressible::Yes,
        Exclude::User(_) | Exclude::Users(_) => Compressible::No,
    }
}
