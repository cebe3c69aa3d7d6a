//! Checkpoints: the state of an engine without connections, from which a replay can start.

use super::core::Core;
use super::driver::Start;
use super::recording::Checkpoint;
use super::state::ticks::Ticks;

impl Core {
    /// Whether the engine has no connections and no unfinished work. A node of a cluster is not attached either: the state
    /// that it shares with the other nodes is in no checkpoint.
    pub(super) fn is_blank(&self) -> bool {
        let Core { cluster, homes, .. } = self;
        if cluster.as_ref().is_some_and(|cluster| !cluster.is_blank())
            || homes.as_ref().is_some_and(|homes| !homes.is_blank())
        {
            return false;
        }
        let is_tick_under_way = self.ticks.as_ref().is_some_and(Ticks::is_under_way);
        let is_empty = self.conns.is_empty() && self.directory.is_blank() && self.pings.is_empty();
        is_empty && !is_tick_under_way && self.drain.is_none() && self.close_queue.is_empty()
    }

    pub(super) fn checkpoint(&mut self) -> Checkpoint {
        let now = self.now();
        let (seats_created, last_epoch) = self.directory.numbers();
        Checkpoint {
            now,
            unix_at_zero: self.clock.unix_at_zero(),
            random: self.random.state(),
            wheel: self.timers.wheel.position(),
            seats_created,
            last_epoch,
            closes_started: self.conns.closes_started(),
            last_ticket: self.pings.last_ticket(),
            batch: self.close_queue.numbers(),
            counters: self.counters.clone(),
            ticks: self.ticks.as_mut().map(Ticks::numbers).unwrap_or_default(),
            users: self.directory.remembered(now),
            addresses: self.addresses.remembered(now),
            guesses: self.addresses.guesses(now),
            lists: self.addresses.lists(now),
            is_node: self.is_node(),
        }
    }

    /// Restores a checkpoint. `is_stateless` says whether the application keeps no state.
    pub(super) fn restore_checkpoint(&mut self, checkpoint: &Checkpoint, is_stateless: bool) {
        let start = Start { unix_micros: checkpoint.unix_at_zero, seed: 0 };
        let (record_mode, observer) = (std::mem::take(&mut self.record_mode), std::mem::take(&mut self.observer));
        *self = Core { record_mode, observer, ..Core::new(self.config.clone(), self.protocol, start) };
        if checkpoint.is_node {
            self.become_node(is_stateless);
        }
        self.clock.advance(checkpoint.now);
        self.random.set_state(checkpoint.random);
        self.timers.wheel.set_position(checkpoint.wheel, checkpoint.now);
        self.directory.set_numbers(checkpoint.seats_created, checkpoint.last_epoch);
        self.conns.set_closes_started(checkpoint.closes_started);
        self.pings.set_last_ticket(checkpoint.last_ticket);
        self.close_queue.set_numbers(checkpoint.batch);
        self.counters = checkpoint.counters.clone();
        self.ticks.iter_mut().for_each(|ticks| ticks.set_numbers(&checkpoint.ticks));
        self.update_corking();
        checkpoint
            .users
            .iter()
            .for_each(|(user, buckets)| self.directory.remember(user.clone(), *buckets, checkpoint.now));
        checkpoint
            .addresses
            .iter()
            .for_each(|&(address, attempts)| self.addresses.remember(address, attempts, checkpoint.now));
        checkpoint
            .guesses
            .iter()
            .for_each(|&(address, guesses)| self.addresses.remember_guesses(address, guesses, checkpoint.now));
        checkpoint
            .lists
            .iter()
            .for_each(|&(address, lists)| self.addresses.remember_lists(address, lists, checkpoint.now));
    }
}
