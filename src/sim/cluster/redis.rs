//! The Redis of a run: a model of it with the scripts of a cluster, and its faults.

use std::collections::VecDeque;

use super::super::redis_link::{Network, RedisLink, Rest};
use super::super::redis_model::{RedisCopy, RedisModel};
use crate::base::random::Random;
use crate::base::time::Time;
use crate::cluster::scripts::Hash;

/// How long a node keeps its place without a sign of life, in microseconds.
pub(super) const LEASE: u64 = 6_000_000;
/// The clock of Redis at the start of a run, in microseconds since the Unix epoch.
pub(super) const UNIX: u64 = 1_700_000_000_000_000;
/// Number of copies that are kept.
const COPIES: usize = 6;
/// Furthest that the clock of a Redis that takes over is off, in microseconds.
pub(super) const MAX_SKEW: u64 = 1_000_000;

/// Times are microseconds since the start of the run.
pub(super) struct Redis {
    model: RedisModel,
    /// It does nothing until then, and its connections stay.
    stopped_until: u64,
    /// There is none until then.
    down_until: u64,
    /// How far its clock is off.
    skew: i64,
    runs: u64,
    /// What replicas have, with the time of it.
    copies: VecDeque<(u64, RedisCopy)>,
    /// What arrives from nodes that have given their connection up, or are gone.
    late: VecDeque<(u64, Rest)>,
}

impl Redis {
    pub(super) fn new() -> Redis {
        Redis {
            model: RedisModel::new("run 0"),
            stopped_until: 0,
            down_until: 0,
            skew: 0,
            runs: 0,
            copies: VecDeque::new(),
            late: VecDeque::new(),
        }
    }

    /// Returns index and hash of the last entry.
    pub(super) fn last(&self) -> (u64, Hash) {
        self.model.last()
    }

    pub(super) fn set_time(&mut self, now: u64) {
        self.model.set_time((UNIX + now).saturating_add_signed(self.skew));
        while self.late.front().is_some_and(|(at, _)| *at <= now) {
            let (_, rest) = self.late.pop_front().expect("there is one");
            if now >= self.stopped_until {
                self.model.receive(rest.client, &rest.to_redis);
            }
            self.model.disconnect(rest.client);
        }
    }

    /// Until when it answers nobody.
    pub(super) fn is_out(&self, now: u64) -> bool {
        now < self.stopped_until.max(self.down_until)
    }

    /// Carries out what a node has sent, at most `chunk` bytes.
    pub(super) fn serve(&mut self, now: u64, link: &mut RedisLink, chunk: usize) {
        if now >= self.stopped_until {
            link.serve(&mut self.model, chunk);
        }
    }

    /// Lets the link of a node do what it can. `time` is that of the node.
    pub(super) fn turn(&mut self, now: u64, time: Time, link: &mut RedisLink, network: Network, chunk: usize) {
        let network = if network == Network::Works && now < self.down_until { Network::Refuses } else { network };
        if let Some(rest) = link.turn(time, &mut self.model, network, chunk) {
            self.note_rest(now, rest);
        }
    }

    /// A node has given its connection up. What it has written may arrive some time later.
    pub(super) fn note_rest(&mut self, now: u64, rest: Rest) {
        // Long enough that the node may have come back in the meantime.
        let delay = rest.to_redis.len() as u64 * 1_000 % 1_500_000;
        let at = self.late.back().map_or(0, |(at, _)| *at).max(now + delay);
        self.late.push_back((at, rest));
    }

    // ---- faults ----

    pub(super) fn stop(&mut self, until: u64) {
        self.stopped_until = self.stopped_until.max(until);
    }

    /// A replica gets what is stored now.
    pub(super) fn note_copy(&mut self, now: u64) {
        if self.copies.len() == COPIES {
            self.copies.pop_front();
        }
        self.copies.push_back((now, self.model.copy()));
    }

    /// Draws what another Redis has that takes over: all, nothing, or what a replica had some time ago.
    pub(super) fn draw_copy(&mut self, random: &mut Random) -> RedisCopy {
        match random.below(10) {
            0 | 1 => RedisCopy::blank(),
            2 => self.model.copy(),
            _ if self.copies.is_empty() => self.model.copy(),
            _ => self.copies[random.below(self.copies.len() as u64) as usize].1.clone(),
        }
    }

    /// Another Redis takes over at a later time, with what it has.
    pub(super) fn fail_over(&mut self, until: u64, copy: RedisCopy, random: &mut Random) {
        self.runs += 1;
        self.model.restart(&format!("run {}", self.runs), Some(copy));
        self.model.set_pushes_first(random.percent(50));
        self.skew = random.below(2 * MAX_SKEW) as i64 - MAX_SKEW as i64;
        (self.down_until, self.stopped_until) = (until, 0);
        // A later copy is one of a log that is lost.
        self.copies.clear();
        self.late.clear();
    }

    /// What an administrator or a proxy may do.
    pub(super) fn disturb(&mut self, random: &mut Random) -> &'static str {
        if random.percent(50) {
            self.model.forget_subscriptions();
            return "subscriptions lost";
        }
        let client = self.model.connect();
        self.model.receive(client, b"*2\r\n$6\r\nSCRIPT\r\n$5\r\nFLUSH\r\n");
        self.model.disconnect(client);
        "scripts flushed"
    }

    /// Ends all faults.
    pub(super) fn calm(&mut self) {
        (self.stopped_until, self.down_until) = (0, 0);
    }
}
