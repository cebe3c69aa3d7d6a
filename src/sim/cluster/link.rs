//! The link of a node to Redis, and what it tells the engine.

use super::node::Node;
use super::redis::{LEASE, Redis};
use super::trace::Trace;
use crate::cluster::log::{ClusterInput, EntryBody};
use crate::cluster::scripts::Hash;
use crate::engine::cluster::inspect;
use crate::sim::redis_link::{Network, RedisLink};

/// For how long a node that was well keeps its place whatever happens: the rest of its lease after its last heartbeat, in microseconds.
const SAFE: u64 = 3_000_000;
/// After this time without a fault a node has renewed its lease, in microseconds.
const WELL: u64 = 5_000_000;

/// What the link has told the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// A place; whether the log begins anew.
    Attached {
        is_first: bool,
        index: u64,
    },
    /// The entry with this index and hash, if the link still knows it.
    Entry(u64, Option<[u8; 16]>),
    Detached,
    Other,
}

impl Node {
    fn network(&self, now: u64) -> Network {
        match now {
            _ if now < self.silent_until => Network::Silent,
            _ if now < self.cut_until => Network::Refuses,
            _ => Network::Works,
        }
    }

    /// Moves at most `chunk` bytes in each direction, and passes on what the engine asks of the log.
    pub(super) fn pump(&mut self, now: u64, redis: &mut Redis, chunk: usize) {
        let network = self.network(now);
        let Some(link) = &mut self.link else { return };
        if network != Network::Silent {
            redis.serve(now, link, chunk);
        }
        if self.is_running(now) {
            self.pass_outputs(now);
            let time = self.time(now);
            redis.turn(now, time, self.link.as_mut().expect("the node runs"), network, chunk);
        }
    }

    /// Takes what the engine has for the log. While too much waits, it stays in the engine.
    fn pass_outputs(&mut self, now: u64) {
        let time = self.time(now);
        let (Some(engine), Some(link)) = (&mut self.engine, &mut self.link) else { return };
        while !link.link.is_congested()
            && let Some(output) = engine.poll_cluster()
        {
            link.link.push(time, output);
        }
    }

    /// Passes the next thing that the link has to say to the engine.
    pub(super) fn pass_input(&mut self, now: u64, trace: &mut Trace) -> Result<Option<Passed>, String> {
        let time = self.time(now);
        let number = self.number;
        let (Some(engine), Some(RedisLink { link, .. })) = (&mut self.engine, &mut self.link) else { return Ok(None) };
        let Some(input) = link.poll_input() else { return Ok(None) };
        let input = input.as_input();
        engine.handle_cluster(time, input);
        Ok(Some(match input {
            ClusterInput::Attached { node, index, state } => {
                if !engine.is_attached() {
                    return Err(format!("node{number} cannot read the state of another node"));
                }
                trace.note(now, || format!("node{number} has a place as {node}, at {index}"));
                (self.place, self.given) = (Some(node), index);
                self.well_since = self.well_since.max(now);
                Passed::Attached { is_first: state.is_none(), index }
            }
            ClusterInput::Entry(entry) => {
                let index = entry.index;
                if index != self.given + 1 {
                    return Err(format!("node{number} is given entry {index} after {}", self.given));
                }
                trace.note(now, || format!("node{number} executes {index}: {}", show(&entry.body)));
                self.given = index;
                Passed::Entry(index, link.kept_log().and_then(|kept| kept.hash_of(index)).map(|hash| hash.0))
            }
            ClusterInput::Reachable(is_reachable) => {
                trace.note(now, || format!("node{number}: Redis answers: {is_reachable}"));
                Passed::Other
            }
            ClusterInput::Detached => {
                let problem = link.poll_problem().unwrap_or_default();
                trace.note(now, || format!("node{number}: {problem}"));
                let place = self.place.take().ok_or("a node without a place is detached")?;
                if problem.contains("lease has expired")
                    && (now < self.safe_until || now > self.well_since + LEASE + SAFE)
                {
                    return Err(format!("node{number} has lost its place as {place} without a reason"));
                }
                Passed::Detached
            }
        }))
    }

    /// From now on, and until `until`, this node may not renew its lease.
    pub(super) fn note_fault(&mut self, now: u64, until: u64) {
        if self.place.is_some() && now >= self.well_since + WELL {
            self.safe_until = now + SAFE;
        }
        self.well_since = self.well_since.max(until);
    }

    /// Ends the connection to Redis. What is on the way may arrive.
    pub(super) fn drop_connection(&mut self, now: u64, redis: &mut Redis) {
        let time = self.time(now);
        if let Some(rest) = self.link.as_mut().and_then(|link| link.disconnect(time)) {
            redis.note_rest(now, rest);
        }
    }

    /// Whether the engine has executed all that Redis has, and nothing is on the way.
    pub(super) fn is_idle(&self, redis: &Redis) -> bool {
        if self.is_alone {
            return self.engine.is_some();
        }
        let is_settled = self.link.as_ref().is_some_and(|link| link.link.is_settled());
        is_settled && self.place.is_some() && self.given == redis.last().0
    }

    /// Whether this node has applied all entries that Redis has.
    pub(super) fn knows_all(&self, redis: &Redis) -> bool {
        let kept = self.link.as_ref().and_then(|link| link.link.kept_log());
        kept.is_some_and(|kept| kept.last() == redis.last())
    }

    /// Whether this node could restore a Redis whose last entry is this one.
    pub(super) fn could_restore(&self, (index, hash): (u64, Hash)) -> bool {
        let kept = self.link.as_ref().and_then(|link| link.link.kept_log());
        kept.is_some_and(|kept| index == 0 || kept.has(index, hash))
    }
}

fn show(body: &EntryBody<'_>) -> String {
    match body {
        EntryBody::Founded => "founded".to_owned(),
        EntryBody::Attached { node, .. } => format!("attached {node}"),
        EntryBody::Ended { node } => format!("ended {node}"),
        EntryBody::Operations { node, bytes } => {
            format!("of {node}: {}", inspect::describe(bytes))
        }
    }
}
