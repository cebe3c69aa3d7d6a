//! A node: an engine with its sockets in memory, and its clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::asked::Asked;
use super::redis::{Redis, UNIX};
use super::trace::Trace;
use crate::apps::Relay;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::cluster::link::LinkConfig;
use crate::cluster::log::Incarnation;
use crate::config::CheckedConfig;
use crate::engine::Engine;
use crate::engine::driver::Start;
use crate::sim::memory::MemorySockets;
use crate::sim::redis_link::RedisLink;

/// A connection between a client and a node.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) to_server: Vec<u8>,
    pub(super) to_client: Vec<u8>,
    /// The server has closed the connection, or its node is gone.
    pub(super) is_ended: bool,
    /// The client has closed it. Nothing that it is sent arrives.
    pub(super) is_dropped: bool,
    /// Nothing arrives at the server any more, not even that the client is gone.
    pub(super) is_vanished: bool,
    /// Until when the client's socket takes nothing.
    pub(super) stalled_until: u64,
    /// It reaches this node at this time.
    pub(super) late: Option<(usize, u64)>,
}

/// When a node starts that does not come back.
pub(super) const NEVER: u64 = u64::MAX;

/// Number of a connection in a run.
pub(super) type WireId = u64;

pub(super) struct Node {
    pub(super) number: usize,
    /// Whether it is no part of a cluster, so that its state ends with its process.
    pub(super) is_alone: bool,
    pub(super) engine: Option<Engine<Relay>>,
    sockets: MemorySockets,
    conns: BTreeMap<ConnId, WireId>,
    accepting: Vec<WireId>,
    /// Time of the run at the engine's start.
    zero: u64,
    /// How much faster its clock is, in millionths.
    drift: i64,
    /// Its link to Redis, while the process runs.
    pub(super) link: Option<RedisLink>,
    /// What the engine was told: its place, and the index of the last entry.
    pub(super) place: Option<Incarnation>,
    pub(super) given: u64,
    pub(super) paused_until: u64,
    /// No connection to Redis is established until then.
    pub(super) cut_until: u64,
    /// Nothing arrives from Redis or there until then.
    pub(super) silent_until: u64,
    /// Since when, or from when on, it has no fault.
    pub(super) well_since: u64,
    /// Its lease cannot have expired before.
    pub(super) safe_until: u64,
    pub(super) restart_at: u64,
    /// When nothing was on the way between it and Redis, without faults.
    pub(super) idle_at: u64,
    pub(super) asked: Asked,
}

impl Node {
    pub(super) fn new(number: usize, is_alone: bool) -> Node {
        Node {
            number,
            is_alone,
            engine: None,
            sockets: MemorySockets::default(),
            conns: BTreeMap::new(),
            accepting: Vec::new(),
            zero: 0,
            drift: 0,
            link: None,
            place: None,
            given: 0,
            paused_until: 0,
            cut_until: 0,
            silent_until: 0,
            well_since: 0,
            safe_until: 0,
            restart_at: 0,
            idle_at: 0,
            asked: Asked::default(),
        }
    }

    /// Starts the process of this node.
    pub(super) fn start(&mut self, now: u64, config: &CheckedConfig, random: &mut Random) {
        let skew = random.below(4_000_000);
        let start = Start { unix_micros: UNIX + now + skew - 2_000_000, seed: random.next_u64() };
        let mut engine = Engine::new(config.clone(), start, Relay::default());
        if !self.is_alone {
            engine.join_cluster();
        }
        let link = (!self.is_alone).then(|| RedisLink::new(link_config(self.number, config, random)));
        let stopped = Node::new(self.number, self.is_alone);
        *self = Node { zero: now, engine: Some(engine), link, well_since: now, ..stopped };
        self.drift = random.below(400) as i64 - 200;
    }

    /// Kills the process of this node.
    pub(super) fn kill(&mut self, now: u64, redis: &mut Redis, wires: &mut BTreeMap<WireId, Wire>, restart_at: u64) {
        self.drop_connection(now, redis);
        for wire in self.conns.values().chain(&self.accepting) {
            if let Some(wire) = wires.get_mut(wire) {
                wire.is_ended = true;
            }
        }
        *self = Node { restart_at, ..Node::new(self.number, self.is_alone) };
    }

    /// Whether the node does not come back.
    pub(super) fn is_gone(&self) -> bool {
        self.restart_at == NEVER
    }

    pub(super) fn is_running(&self, now: u64) -> bool {
        self.engine.is_some() && self.paused_until <= now
    }

    /// The engine's time.
    pub(super) fn time(&self, now: u64) -> Time {
        let micros = (now - self.zero) as i64;
        Time::from_micros((micros + micros / 1000 * self.drift / 1000) as u64)
    }

    pub(super) fn open(&mut self, wire: WireId) {
        self.accepting.push(wire);
    }

    pub(super) fn wires(&self) -> impl Iterator<Item = (ConnId, WireId)> {
        self.conns.iter().map(|(&conn, &wire)| (conn, wire))
    }

    /// Whether a connection waits to be accepted.
    pub(super) fn accepts(&self, wire: WireId) -> bool {
        self.accepting.contains(&wire)
    }

    // ---- a turn of the engine ----

    /// Passes on what has arrived on the connections, in pieces, and ends the turn.
    pub(super) fn turn(&mut self, now: u64, run: &mut Turn<'_>) {
        if !self.is_running(now) {
            return;
        }
        let time = self.time(now);
        self.accept(time, run);
        let conns: Vec<(ConnId, WireId)> = self.conns.iter().map(|(&conn, &wire)| (conn, wire)).collect();
        for &(conn, wire) in &conns {
            self.receive(now, time, (conn, wire), run);
        }
        let engine = self.engine.as_mut().expect("the node runs");
        if engine.has_due_timers(time) {
            let is_unread =
                |wire: &WireId| run.wires.get(wire).is_some_and(|it| !it.is_vanished && !it.to_server.is_empty());
            let unread: Vec<ConnId> =
                self.conns.iter().filter(|(_, wire)| is_unread(wire)).map(|(&conn, _)| conn).collect();
            engine.handle_unread(time, &unread);
        }
        engine.end_turn(time, &mut self.sockets).expect("nothing is recorded");
        self.collect(now, run);
    }

    fn accept(&mut self, time: Time, run: &mut Turn<'_>) {
        let engine = self.engine.as_mut().expect("the node runs");
        for wire in std::mem::take(&mut self.accepting) {
            let peer = format!("10.0.0.{}:4000", 1 + wire % 200).parse().expect("an address");
            match engine.handle_accept(time, peer) {
                Ok(conn) => drop(self.conns.insert(conn, wire)),
                Err(_) => run.wires.get_mut(&wire).into_iter().for_each(|wire| wire.is_ended = true),
            }
        }
    }

    fn receive(&mut self, now: u64, time: Time, (conn, id): (ConnId, WireId), run: &mut Turn<'_>) {
        let engine = self.engine.as_mut().expect("the node runs");
        let Some(wire) = run.wires.get_mut(&id) else { return };
        if wire.stalled_until > 0 && wire.stalled_until <= now {
            wire.stalled_until = 0;
            self.sockets.limit(conn, usize::MAX);
            engine.handle_writable(time, conn);
        }
        if wire.stalled_until > now {
            self.sockets.limit(conn, 0);
        }
        if wire.is_vanished {
            return;
        }
        if !wire.to_server.is_empty() && (run.is_calm || run.random.percent(80)) {
            let length = wire.to_server.len();
            let is_piece = !run.is_calm && run.random.percent(20);
            let length = if is_piece { 1 + run.random.below(length as u64) as usize } else { length };
            let consumed = engine.handle_bytes_up_to(time, conn, &wire.to_server[..length], usize::MAX).bytes;
            wire.to_server.drain(..consumed);
            // What the server does not read any more is lost.
            if consumed < length {
                wire.to_server.clear();
            }
        }
        if wire.is_dropped && (wire.to_server.is_empty() || run.random.percent(30)) {
            engine.handle_hangup(time, conn);
            wire.is_vanished = true;
        }
    }

    /// Takes what the engine has written.
    fn collect(&mut self, now: u64, run: &mut Turn<'_>) {
        for write in self.sockets.take_writes() {
            if let Some(wire) = self.conns.get(&write.conn).and_then(|wire| run.wires.get_mut(wire)) {
                wire.to_client.extend(write.bytes);
                if self.sockets.is_shut_down(write.conn) {
                    wire.is_ended = true;
                }
            }
        }
        for (conn, reason) in self.sockets.take_closed() {
            run.closes.push(reason);
            if let Some(wire) = self.conns.remove(&conn) {
                run.trace.note(now, || format!("node{} closes wire {wire}: {}", self.number, reason.word()));
                run.wires.get_mut(&wire).into_iter().for_each(|wire| wire.is_ended = true);
            }
        }
    }

    /// How long the process may wait.
    pub(super) fn wait(&self, now: u64) -> Option<Duration> {
        let time = self.time(now);
        let link = self.link.as_ref().map(|link| link.link.poll_timeout());
        let engine = self.engine.as_ref()?.poll_timeout();
        let next = link.into_iter().chain(engine).min()?;
        Some(next - time)
    }
}

/// What a turn needs of the run.
pub(super) struct Turn<'a> {
    pub(super) wires: &'a mut BTreeMap<WireId, Wire>,
    pub(super) random: &'a mut Random,
    pub(super) trace: &'a mut Trace,
    pub(super) closes: &'a mut Vec<CloseReason>,
    /// Whether no faults are injected.
    pub(super) is_calm: bool,
}

fn link_config(number: usize, config: &CheckedConfig, random: &mut Random) -> LinkConfig {
    LinkConfig {
        node: format!("node{number}"),
        namespace: "sim".to_owned(),
        database: 0,
        user: None,
        password: None,
        fingerprint: config.shared_fingerprint(),
        lease: config.cluster_lease,
        log_entries: config.cluster_log_entries,
        log_bytes: config.cluster_log_bytes.0,
        queue_bytes: config.cluster_queue_bytes.0,
        state_bytes: config.cluster_state_bytes.0,
        seed: random.next_u64(),
    }
}
