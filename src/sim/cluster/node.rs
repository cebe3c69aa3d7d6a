//! A node: an engine with its sockets in memory, its clock, and its link to the log.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::log::{HAS_STATES, LEASE, Log, UNIX};
use super::trace::Trace;
use crate::apps::Relay;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::cluster::log::{ClusterInput, ClusterOutput, EntryBody, Incarnation};
use crate::config::CheckedConfig;
use crate::engine::Engine;
use crate::engine::cluster::inspect;
use crate::engine::driver::Start;
use crate::sim::memory::MemorySockets;

/// How long a node waits for the state of another one before it attaches anew.
const STATE_TIMEOUT: u64 = 2_000_000;

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
}

/// Number of a connection in a run.
pub(super) type WireId = u64;

/// The place of a node in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    None,
    /// It waits for the state of another node.
    Waiting(Incarnation, u64),
    Held(Incarnation),
}

#[derive(Debug)]
struct Link {
    place: Place,
    /// What the engine has asked to append.
    queue: VecDeque<Vec<u8>>,
    /// Index of the last entry that the engine was given.
    given: u64,
    is_told_reachable: bool,
    /// When the lease was last renewed.
    renewed_at: u64,
}

pub(super) struct Node {
    pub(super) number: usize,
    pub(super) engine: Option<Engine<Relay>>,
    sockets: MemorySockets,
    conns: BTreeMap<ConnId, WireId>,
    accepting: Vec<WireId>,
    /// Time of the run at the engine's start.
    zero: u64,
    /// How much faster its clock is, in millionths.
    drift: i64,
    link: Link,
    pub(super) paused_until: u64,
    pub(super) cut_until: u64,
    pub(super) restart_at: u64,
    starts: u64,
}

impl Node {
    pub(super) fn new(number: usize) -> Node {
        let link =
            Link { place: Place::None, queue: VecDeque::new(), given: 0, is_told_reachable: false, renewed_at: 0 };
        Node {
            number,
            engine: None,
            sockets: MemorySockets::default(),
            conns: BTreeMap::new(),
            accepting: Vec::new(),
            zero: 0,
            drift: 0,
            link,
            paused_until: 0,
            cut_until: 0,
            restart_at: 0,
            starts: 0,
        }
    }

    /// Starts the process of this node.
    pub(super) fn start(&mut self, now: u64, config: &CheckedConfig, random: &mut Random) {
        let skew = random.below(4_000_000);
        let start = Start { unix_micros: UNIX + now + skew - 2_000_000, seed: random.next_u64() };
        let mut engine = Engine::new(config.clone(), start, Relay::default());
        engine.join_cluster();
        *self = Node { starts: self.starts + 1, zero: now, engine: Some(engine), ..Node::new(self.number) };
        self.drift = random.below(400) as i64 - 200;
    }

    /// Kills the process of this node.
    pub(super) fn kill(&mut self, wires: &mut BTreeMap<WireId, Wire>, restart_at: u64) {
        for wire in self.conns.values().chain(&self.accepting) {
            if let Some(wire) = wires.get_mut(wire) {
                wire.is_ended = true;
            }
        }
        *self = Node { starts: self.starts, restart_at, ..Node::new(self.number) };
    }

    pub(super) fn is_running(&self, now: u64) -> bool {
        self.engine.is_some() && self.paused_until <= now
    }

    pub(super) fn is_linked(&self, now: u64) -> bool {
        self.is_running(now) && self.cut_until <= now
    }

    pub(super) fn place(&self) -> Place {
        self.link.place
    }

    pub(super) fn incarnation(&self) -> Option<Incarnation> {
        match self.link.place {
            Place::Held(node) => Some(node),
            Place::None | Place::Waiting(..) => None,
        }
    }

    /// Index of the last entry that the engine has executed, if it has a place.
    pub(super) fn index(&self) -> Option<u64> {
        self.incarnation().map(|_| self.link.given)
    }

    pub(super) fn is_idle(&self, log: &Log) -> bool {
        self.link.queue.is_empty() && self.index() == Some(log.last_index())
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

    // ---- the link ----

    /// Lets the link do what it can. `most` entries are passed on at most.
    pub(super) fn pump(&mut self, now: u64, log: &mut Log, most: u64, trace: &mut Trace) -> Result<(), String> {
        if !self.is_linked(now) {
            return Ok(());
        }
        match self.link.place {
            Place::None => self.attach(now, log, trace),
            Place::Waiting(node, since) => self.await_state(now, log, (node, since), trace),
            Place::Held(node) => return self.pump_held(now, log, node, most, trace),
        }
        Ok(())
    }

    fn attach(&mut self, now: u64, log: &mut Log, trace: &mut Trace) {
        let (node, is_first) = log.attach(now, &format!("node{}", self.number));
        trace.note(now, || format!("node{} attaches as {node}, first={is_first}", self.number));
        self.link.renewed_at = now;
        if is_first || !HAS_STATES {
            log.note_state(node);
            self.attached(now, node, log.founded() - 1, None);
        } else {
            self.link.place = Place::Waiting(node, now);
        }
    }

    fn await_state(&mut self, now: u64, log: &mut Log, (node, since): (Incarnation, u64), trace: &mut Trace) {
        if let Some((index, bytes)) = log.take_state(node) {
            trace.note(now, || format!("node{} gets the state as of {index}", self.number));
            log.note_state(node);
            return self.attached(now, node, index, Some(&bytes));
        }
        if !log.renew(now, node) || now > since + STATE_TIMEOUT {
            self.link.place = Place::None;
        }
    }

    fn attached(&mut self, now: u64, node: Incarnation, index: u64, state: Option<&[u8]>) {
        self.link.place = Place::Held(node);
        (self.link.given, self.link.is_told_reachable) = (index, true);
        self.input(now, ClusterInput::Attached { node, index, state });
    }

    fn input(&mut self, now: u64, input: ClusterInput<'_>) {
        let time = self.time(now);
        self.engine.as_mut().expect("the node runs").handle_cluster(time, input);
    }

    fn pump_held(
        &mut self,
        now: u64,
        log: &mut Log,
        node: Incarnation,
        most: u64,
        trace: &mut Trace,
    ) -> Result<(), String> {
        let was_renewed_at = self.link.renewed_at;
        if !log.renew(now, node) {
            if now < was_renewed_at + LEASE {
                return Err(format!(
                    "node{} has lost its place as {node} although its lease has not expired",
                    self.number
                ));
            }
            trace.note(now, || format!("node{} is detached", self.number));
            self.link.queue.clear();
            (self.link.place, self.link.is_told_reachable) = (Place::None, false);
            self.input(now, ClusterInput::Detached);
            return Ok(());
        }
        self.link.renewed_at = now;
        if !self.link.is_told_reachable {
            self.link.is_told_reachable = true;
            self.input(now, ClusterInput::Reachable(true));
        }
        while let Some(bytes) = self.link.queue.pop_front() {
            log.append(now, node, bytes);
        }
        for _ in 0..most {
            let Some(entry) = log.entry(self.link.given + 1) else { break };
            self.link.given += 1;
            if matches!(entry.body, EntryBody::Ended { node: ended } if ended == node) {
                return Err(format!("node{} has a place as {node}, which has ended", self.number));
            }
            trace.note(now, || format!("node{} executes {}: {}", self.number, entry.index, show(&entry.body)));
            let time = self.time(now);
            self.engine.as_mut().expect("the node runs").handle_cluster(time, ClusterInput::Entry(entry));
        }
        Ok(())
    }

    /// Tells the engine that its link is cut, if it is.
    fn notice_cut(&mut self, now: u64) {
        if self.cut_until > now && self.link.is_told_reachable {
            self.link.is_told_reachable = false;
            self.input(now, ClusterInput::Reachable(false));
        }
    }

    // ---- a turn of the engine ----

    /// Passes on what has arrived on the connections, in pieces, and ends the turn.
    pub(super) fn turn(&mut self, now: u64, run: &mut Turn<'_>) {
        if !self.is_running(now) {
            return;
        }
        self.notice_cut(now);
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

    /// Takes what the engine has written, and what it asks of the log.
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
        let engine = self.engine.as_mut().expect("the node runs");
        while let Some(output) = engine.poll_cluster() {
            match output {
                ClusterOutput::Append(bytes) => self.link.queue.push_back(bytes),
                ClusterOutput::State { node, index, bytes } => run.states.push((node, index, bytes)),
            }
        }
    }

    /// How long the engine may wait.
    pub(super) fn wait(&self, now: u64) -> Option<Duration> {
        let time = self.time(now);
        self.engine.as_ref()?.poll_timeout().map(|at| at - time)
    }
}

/// What a turn needs of the run.
pub(super) struct Turn<'a> {
    pub(super) wires: &'a mut BTreeMap<WireId, Wire>,
    pub(super) random: &'a mut Random,
    pub(super) trace: &'a mut Trace,
    pub(super) closes: &'a mut Vec<CloseReason>,
    pub(super) states: &'a mut Vec<(Incarnation, u64, Vec<u8>)>,
    /// Whether no faults are injected.
    pub(super) is_calm: bool,
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
