//! Deadlines of connections, and which of their timers are due.

use std::time::Duration;

use super::core::Core;
use super::state::timers::Expiry;
use crate::base::arena::Key;
use crate::base::id::{ConnId, ConnKey};
use crate::base::time::Time;

impl Core {
    /// Sets the current wall time. Deadlines that are points in wall time move with it.
    pub(super) fn set_wall_time(&mut self, unix_micros: u64) {
        self.clock.set_unix_micros(unix_micros);
        let keys: Vec<ConnKey> = self.timers.expiries.keys().copied().collect();
        for key in keys {
            self.set_expiry_deadline(key);
            self.rearm(key);
        }
    }

    /// Sets the deadline of a member whose identity expires: the expiry, or the end of `max_lifetime` if that is
    /// earlier.
    pub(super) fn set_expiry_deadline(&mut self, key: ConnKey) {
        let Expiry { unix_millis, max_lifetime_end } = self.timers.expiries[&key];
        // Adds the grace first: after a step of the wall clock the expiry may lie before `Time::ZERO`.
        let unix_end = Time::from_micros(unix_millis.saturating_mul(1000)) + self.config.token_grace;
        let expires = Time::from_micros(unix_end.as_micros().saturating_sub(self.clock.unix_at_zero()));
        let slot = &mut self.conns[key];
        slot.deadline = expires.min(max_lifetime_end);
        slot.ends_at_max_lifetime = max_lifetime_end < expires;
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let tick = self.ticks.as_ref().and_then(|ticks| ticks.next(self.now()));
        let [count_update, away, control] = self.next_lobby_events();
        let lists = self.next_list_update();
        [self.next_timer(), self.next_batch_at(), count_update, away, control, lists, tick].into_iter().flatten().min()
    }

    /// Time of the next timer of a connection or of an operator's ping.
    pub(super) fn next_timer(&self) -> Option<Time> {
        [self.timers.next(), self.pings.next()].into_iter().flatten().min()
    }

    /// Returns the keys of the connections whose timers are due and not deferred for unread input.
    pub(super) fn expire(&mut self) -> Vec<ConnKey> {
        let now = self.now();
        let mut fired = Vec::new();
        self.timers.wheel.expire(now, &mut fired);
        let mut due = Vec::new();
        if self.timers.unread.next().is_some_and(|at| at <= now) {
            for (conn, turns) in self.timers.unread.take_waiting() {
                if self.conns.open(conn).is_some() && !self.defer(conn.key(), turns) {
                    due.push(conn.key());
                }
            }
        }
        for key in fired.into_iter().map(ConnKey::new) {
            if !self.defer(key, 0) {
                due.push(key);
            }
        }
        due
    }

    /// Defers a connection's timer if the connection may have unread input, or if it is closing and will be written to
    /// in this turn: its socket may have become writable only now. Returns false when the timer must act now.
    fn defer(&mut self, key: ConnKey, turns: u32) -> bool {
        let Some(slot) = self.conns.by_key(key) else { return false };
        let now = self.clock.now();
        // No input can extend a member's token or lifetime.
        let is_over = slot.is_admitted() && now >= slot.deadline;
        let will_write = slot.close_kind.is_some() && self.egress.is_dirty(key);
        let may_wait = will_write || self.timers.unread.contains(slot.id);
        let defers = !is_over && turns < self.config.max_deferred_turns && may_wait;
        if defers {
            self.timers.unread.wait(now, slot.id, turns + 1);
        }
        defers
    }

    /// Whether the connection's due timer waits for unread input.
    pub(super) fn is_deferred(&self, conn: ConnId) -> bool {
        self.timers.unread.is_waiting(conn)
    }

    pub(super) fn rearm(&mut self, key: ConnKey) {
        self.timers.wheel.arm(key.index(), self.conns[key].deadline(&self.config));
    }

    /// Sets the deadline of the current stage of a connection.
    pub(super) fn set_stage_deadline(&mut self, key: ConnKey, span: Duration) {
        self.conns[key].deadline = self.clock.own() + span;
        self.rearm(key);
    }
}
