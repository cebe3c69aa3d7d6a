//! Telling many to go: in batches, oldest first; and how the whole server ends.
//!
//! ```text
//! serving --begin_drain()--> draining: no new seats; batches of goodbyes; everything queued is flushed
//!                               |--everybody has gone----------------------------> drained
//!                               +--the deadline, or a second request: cut_all()--> drained
//! ```

use std::collections::VecDeque;
use std::fmt;

use log::info;

use super::core::Core;
use super::slot::{Slot, Standing};
use crate::close::CloseReason;
use crate::id::ConnId;
use crate::time::Time;
use crate::wire::http::Refusal;

/// What came of saying goodbye to everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainTotals {
    /// Connections that ended in good order, or by themselves.
    pub closed: u64,
    /// Bytes written to them since the drain began.
    pub flushed_bytes: u64,
    /// Bytes that were queued for connections that were cut off, lost or too slow.
    pub dropped_bytes: u64,
    /// Connections that were cut off, because the deadline passed or because of a second request to stop.
    pub forced: u64,
}

impl fmt::Display for DrainTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DrainTotals { closed, flushed_bytes, dropped_bytes, forced } = self;
        write!(f, "closed={closed} flushed_bytes={flushed_bytes} dropped_bytes={dropped_bytes} forced={forced}")
    }
}

/// The server is saying goodbye.
pub(super) struct Drain {
    deadline: Time,
    /// The youngest connection that is waited for. Later ones are only told to come back another time.
    youngest: u32,
    /// How many there were to wait for.
    begun: usize,
    /// How many of those are left.
    left: usize,
    flushed_bytes: u64,
    dropped_bytes: u64,
    forced: u64,
}

/// Connections that will be told to go, in the order in which they will.
#[derive(Default)]
pub(super) struct Partings {
    queue: VecDeque<(ConnId, CloseReason)>,
    /// How many more may be told before `next_batch`.
    room: u32,
    next_batch: Time,
}

impl Partings {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Goodbyes left in the current batch, and the time of the next batch.
    pub(super) fn numbers(&self) -> (u32, Time) {
        (self.room, self.next_batch)
    }

    pub(super) fn set_numbers(&mut self, (room, next_batch): (u32, Time)) {
        (self.room, self.next_batch) = (room, next_batch);
    }
}

impl Drain {
    fn waits_for(&self, id: ConnId) -> bool {
        id.generation <= self.youngest
    }

    fn totals(&self) -> DrainTotals {
        let gone = (self.begun - self.left) as u64;
        DrainTotals {
            closed: gone.saturating_sub(self.forced),
            flushed_bytes: self.flushed_bytes,
            dropped_bytes: self.dropped_bytes,
            forced: self.forced,
        }
    }
}

impl Core {
    // ---- in batches ----

    /// Ends connections for `reason`, `drain_batch` of them now and so many every `drain_batch_interval`, so that
    /// neither the loop nor those who come back are overrun. Returns how many will be ended.
    ///
    /// Who is to be ended already keeps its place and its reason.
    pub(super) fn part_with(&mut self, conns: impl IntoIterator<Item = ConnId>, reason: CloseReason) -> usize {
        let mut count = 0;
        for conn in conns {
            if let Some(slot) = self.slot(conn).filter(|slot| slot.ended.is_none()) {
                count += 1;
                if !std::mem::replace(&mut slot.parting, true) {
                    self.partings.queue.push_back((conn, reason));
                }
            }
        }
        self.part();
        count
    }

    /// A newer connection of a member has taken its seat over. If the member was to be told to go, it still is, unless to
    /// come again was all that was asked of it.
    pub(super) fn inherit_parting(&mut self, old: ConnId, new: ConnId) {
        if !self.slots[old.index()].parting {
            return;
        }
        let parting = self.partings.queue.iter_mut().find(|(conn, _)| *conn == old);
        if let Some((conn, _)) = parting.filter(|(_, reason)| *reason != CloseReason::ForcedReconnect) {
            *conn = new;
            self.slots[new.index()].parting = true;
        }
    }

    /// The connections of all members, oldest first.
    pub(super) fn members_by_age(&self) -> Vec<ConnId> {
        let members = self.slots.iter().filter(|(_, slot)| slot.seat().is_some());
        let mut conns: Vec<ConnId> = members.map(|(_, slot)| slot.id).collect();
        conns.sort_unstable_by_key(|conn| conn.generation);
        conns
    }

    fn part(&mut self) {
        if self.partings.queue.is_empty() {
            return;
        }
        if self.now >= self.partings.next_batch {
            self.partings.room = self.config.drain_batch;
            self.partings.next_batch = self.now + self.config.drain_batch_interval;
        }
        while self.partings.room > 0
            && let Some((conn, reason)) = self.partings.queue.pop_front()
        {
            if self.slot(conn).is_some_and(|slot| slot.ended.is_none()) {
                self.partings.room -= 1;
                self.end(conn.index(), reason);
            }
        }
        if self.partings.queue.is_empty() {
            self.partings.queue = VecDeque::new();
        }
    }

    /// Who will be told to go now.
    pub(super) fn next_to_part(&self) -> Vec<ConnId> {
        let Partings { queue, room, next_batch } = &self.partings;
        let room = if self.now >= *next_batch { self.config.drain_batch } else { *room };
        queue.iter().take(room as usize).map(|&(conn, _)| conn).collect()
    }

    /// The next batch, or the end of the drain.
    pub(super) fn next_parting(&self) -> Option<Time> {
        let batch = (!self.partings.queue.is_empty()).then_some(self.partings.next_batch);
        let deadline = self.draining.as_ref().filter(|drain| drain.left > 0).map(|drain| drain.deadline);
        [batch, deadline].into_iter().flatten().min()
    }

    /// Says the goodbyes that are due, and cuts off what is left when the time for the drain is over.
    pub(super) fn drive_drain(&mut self) {
        self.part();
        if self.draining.as_ref().is_some_and(|drain| drain.left > 0 && self.now >= drain.deadline) {
            self.cut_all();
        }
    }

    // ---- the end of it all ----

    /// Nobody is let in any more. Returns by when it must be over, the first time.
    pub(super) fn begin_drain(&mut self) -> Option<Time> {
        if self.draining.is_some() {
            return None;
        }
        // Nothing is told of comings and goings from now on, and nobody may hear from a member it does not know.
        self.introduce_all();
        let deadline = self.now + self.config.drain_deadline;
        let begun = self.slots.len();
        self.draining = Some(Drain {
            deadline,
            youngest: self.counters.accepted as u32,
            begun,
            left: begun,
            flushed_bytes: 0,
            dropped_bytes: 0,
            forced: 0,
        });
        info!("draining {begun} connections, until {deadline}");
        self.note_drained();
        Some(deadline)
    }

    /// Says goodbye to everybody, in batches; those who were not let in yet are told at once.
    pub(super) fn end_everybody(&mut self) {
        let pending = self.slots.iter().filter(|(_, slot)| matches!(slot.standing, Standing::Pending(_)));
        let pending: Vec<ConnId> = pending.map(|(_, slot)| slot.id).collect();
        for conn in pending {
            self.end_with_http(conn.index(), CloseReason::ServerShutdown, &shutting_down());
        }
        self.part_with(self.members_by_age(), CloseReason::ServerShutdown);
    }

    /// Cuts off whatever is left.
    pub(super) fn cut_all(&mut self) {
        let left: Vec<ConnId> =
            self.slots.iter().filter(|(_, slot)| !slot.is_gone()).map(|(_, slot)| slot.id).collect();
        if let Some(drain) = &mut self.draining {
            drain.forced += left.iter().filter(|&&conn| drain.waits_for(conn)).count() as u64;
        }
        left.iter().for_each(|conn| self.lost(conn.index(), CloseReason::ServerShutdown));
    }

    /// Whether the connection must not be given up yet, however slowly it reads: a drain flushes what is queued, and
    /// has one deadline for all.
    pub(super) fn must_flush(&self, slot: &Slot) -> bool {
        self.draining.as_ref().is_some_and(|drain| drain.waits_for(slot.id)) && slot.wire.outbox().is_some()
    }

    pub(super) fn note_flushed(&mut self, conn: ConnId, bytes: usize) {
        if let Some(drain) = self.draining.as_mut().filter(|drain| drain.waits_for(conn)) {
            drain.flushed_bytes += bytes as u64;
        }
    }

    pub(super) fn note_dropped(&mut self, conn: ConnId, bytes: usize) {
        if let Some(drain) = self.draining.as_mut().filter(|drain| drain.waits_for(conn)) {
            drain.dropped_bytes += bytes as u64;
        }
    }

    /// A connection's slot is free.
    pub(super) fn note_gone(&mut self, conn: ConnId) {
        if let Some(drain) = self.draining.as_mut().filter(|drain| drain.waits_for(conn)) {
            drain.left -= 1;
            self.note_drained();
        }
    }

    fn note_drained(&self) {
        if let Some(drain) = self.draining.as_ref().filter(|drain| drain.left == 0) {
            info!("drained: {}", drain.totals());
        }
    }

    /// When a member that is told goodbye now should come back: spread evenly by age, so that no more than about a
    /// thousand come in a second, and nobody comes before the server can have been started again.
    pub(super) fn retry_after_ms(&self, conn: ConnId) -> u64 {
        let window = self.draining.as_ref().map_or(0, |drain| drain.begun as u64).max(4000);
        // Multiples of the golden ratio fill a range evenly, however many there are (Knuth, volume 3, section 6.4).
        let place = u64::from(conn.generation.wrapping_mul(0x9e37_79b9));
        1000 + ((place * window) >> 32)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.draining.as_ref().is_some_and(|drain| drain.left == 0)
    }

    pub(super) fn drain_totals(&self) -> Option<DrainTotals> {
        self.draining.as_ref().map(Drain::totals)
    }
}

/// The answer to requests that come, or are undecided, while the server is draining.
pub(super) fn shutting_down() -> Refusal {
    Refusal::new(503, "the server is shutting down; try again in a moment")
}
