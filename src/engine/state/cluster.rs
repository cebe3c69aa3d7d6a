//! What a node knows of its cluster, beside the users and lobbies themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use smol_str::SmolStr;

use crate::base::arena::SideTable;
use crate::base::close::CloseReason;
use crate::base::id::{ConnId, SeatId, SeatKey};
use crate::base::time::Time;
use crate::cluster::log::{ClusterOutput, Incarnation};
use crate::engine::cluster::operation::operation_length;
use crate::engine::member::Identity;
use crate::engine::state::submitted::Submitted;

/// Longest operations of one batch, in bytes, unless it has one operation only. While more wait to be appended, requests are
/// refused or wait.
pub(crate) const MAX_OPERATIONS_BYTES: usize = 4 << 20;

/// The connection of a seat, as the whole cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeatConnection {
    /// Id of the seat.
    pub(crate) seat: SeatId,
    /// The node that has the connection.
    pub(crate) node: Incarnation,
    /// Number of the operation with which it got the seat. Operations of an earlier connection have another one, and are
    /// ignored.
    pub(crate) join_number: u64,
    /// Data of the member's identity.
    pub(crate) data: Option<Arc<[u8]>>,
    /// Why the seat ends with this connection or a later one, whatever ends that: the reason of an operator's command.
    pub(crate) ordered: Option<CloseReason>,
}

/// Requests of a connection that are in the log, or on the way to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) requests: u32,
    pub(crate) bytes: usize,
}

/// How this engine's time relates to the clock of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SharedOrigin {
    /// Time of the log's clock at [`Time::ZERO`], in microseconds since the Unix epoch. May be negative.
    pub(crate) unix_at_zero: i64,
}

impl SharedOrigin {
    /// The origin with which the log's time `unix_micros` is `now`.
    pub(crate) fn at(now: Time, unix_micros: u64) -> SharedOrigin {
        SharedOrigin { unix_at_zero: unix_micros.cast_signed().saturating_sub_unsigned(now.as_micros()) }
    }

    /// The log's clock was set back by so much. Deadlines stay where they are, and time goes on from where it was.
    pub(crate) fn set_back(&mut self, micros: u64) {
        self.unix_at_zero = self.unix_at_zero.saturating_sub_unsigned(micros);
    }

    /// Returns the time of this engine at a time of the log. Earlier times than [`Time::ZERO`] become that.
    pub(crate) fn time(self, unix_micros: u64) -> Time {
        let micros = unix_micros.cast_signed().saturating_sub(self.unix_at_zero);
        Time::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// Returns the time of the log at a time of this engine.
    pub(crate) fn unix_micros(self, time: Time) -> u64 {
        u64::try_from(self.unix_at_zero.saturating_add_unsigned(time.as_micros())).unwrap_or(0)
    }
}

/// A connection that waits for its seat: its request to join is in the log, or on the way to it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) identity: Identity,
}

/// This node's part in its cluster, in numbers.
///
/// [`Stats`](super::stats::Stats) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStats {
    /// Whether this node is attached to the cluster.
    pub is_attached: bool,
    /// Whether Redis answers this node.
    pub is_reachable: bool,
    /// Nodes that are attached to the cluster, as this one knows. 0 if it is not attached itself.
    pub nodes: usize,
    /// Connections of this node that have a seat.
    pub connections: usize,
    /// Index of the last entry of the log that this node has executed.
    pub index: u64,
    /// Entries that this node has executed since its start.
    pub entries: u64,
    /// Bytes of the operations in them.
    pub bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    /// `None` while this node is not attached to the cluster.
    pub(crate) node: Option<Incarnation>,
    /// Whether Redis answers.
    pub(crate) is_reachable: bool,
    /// Since when Redis does not answer, unless the members were told.
    pub(crate) unreachable_since: Option<Time>,
    /// The attached nodes, and their names.
    pub(crate) nodes: BTreeMap<Incarnation, SmolStr>,
    /// Index of the last entry that was executed.
    pub(crate) index: u64,
    /// Number of operations executed since the log was founded.
    pub(crate) executed: u64,
    pub(crate) origin: SharedOrigin,
    /// Time of the last entry by the log's clock, in microseconds since the Unix epoch. Goes back when that clock is set back:
    /// then [`origin`](Self::origin) changes, so that no time of this engine does.
    pub(crate) unix_micros: u64,
    /// This node's own time at the last entry.
    pub(crate) seen_at: Time,
    /// Whether an entry is being executed.
    pub(crate) is_executing: bool,
    /// Whether what happens now happens on all nodes: an entry is executed, and the application is not told of something that
    /// concerns a connection of this node.
    pub(crate) is_shared: bool,
    /// The seat that was freed last, and the node that had its connection.
    pub(crate) freed: Option<(SeatId, Incarnation)>,
    /// By the key of a seat.
    pub(crate) seat_connections: SideTable<SeatKey, SeatConnection>,
    pub(crate) seats: HashMap<SeatId, SeatKey>,
    pub(crate) waiting: BTreeMap<ConnId, Waiting>,
    /// Those of them whose request to join is still to append.
    pub(crate) to_ask: BTreeSet<ConnId>,
    /// Requests of this node's members, by the `join_number` of their connections.
    pub(crate) in_flight: HashMap<u64, InFlight>,
    /// Operations that are not appended yet, in the format of the log.
    pub(crate) operations: Vec<u8>,
    pub(crate) outputs: VecDeque<ClusterOutput>,
    /// When an empty entry was last appended, to let the time of the log pass.
    pub(crate) nudged_at: Option<Time>,
    /// Whether an empty entry is to be appended.
    pub(crate) wants_nudge: bool,
    /// Received bytes of connections that got their seat in this entry, still to process.
    pub(crate) early: Vec<(ConnId, Vec<u8>)>,
    /// Operators' commands that this node has appended.
    pub(crate) submitted: Submitted,
    /// Batches of operations that the link has taken since this node was attached, and how many of them were executed.
    pub(crate) own_taken: u64,
    pub(crate) own_executed: u64,
    /// Entries that were executed since the start, and bytes of the operations in them.
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        Cluster {
            node: None,
            is_reachable: false,
            unreachable_since: None,
            nodes: BTreeMap::new(),
            index: 0,
            executed: 0,
            origin: SharedOrigin::default(),
            unix_micros: 0,
            seen_at: Time::ZERO,
            is_executing: false,
            is_shared: false,
            freed: None,
            seat_connections: SideTable::default(),
            seats: HashMap::new(),
            waiting: BTreeMap::new(),
            to_ask: BTreeSet::new(),
            in_flight: HashMap::new(),
            operations: Vec::new(),
            outputs: VecDeque::new(),
            nudged_at: None,
            wants_nudge: false,
            early: Vec::new(),
            submitted: Submitted::default(),
            own_taken: 0,
            own_executed: 0,
            entries: 0,
            bytes: 0,
        }
    }

    /// Whether this node is not attached and has nothing that another one lacks. All else is as in a new node then.
    pub(crate) fn is_blank(&self) -> bool {
        let has_state = self.node.is_some() || self.is_reachable || !self.seats.is_empty();
        let has_work = !self.operations.is_empty() || !self.outputs.is_empty() || self.wants_nudge;
        !has_state && !has_work && self.waiting.is_empty() && self.early.is_empty() && self.submitted.is_empty()
    }

    /// Forgets all but the connections that wait for a seat.
    pub(crate) fn detach(&mut self) {
        let seat_connections = std::mem::take(&mut self.seat_connections);
        let (waiting, early) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.early));
        let seats = std::mem::take(&mut self.seats);
        let mut submitted = std::mem::take(&mut self.submitted);
        submitted.end_all();
        let (entries, bytes) = (self.entries, self.bytes);
        *self = Cluster { seat_connections, seats, waiting, early, submitted, entries, bytes, ..Cluster::new() };
    }

    /// The state in numbers. `connections` of this node have a seat.
    pub(crate) fn stats(&self, connections: usize) -> ClusterStats {
        ClusterStats {
            is_attached: self.node.is_some(),
            is_reachable: self.is_reachable,
            nodes: self.nodes.len(),
            connections,
            index: self.index,
            entries: self.entries,
            bytes: self.bytes,
        }
    }

    /// Whether all that this node was asked to append was executed, or never will be.
    pub(crate) fn is_settled(&self) -> bool {
        self.node.is_none() || (self.operations.is_empty() && self.own_taken == self.own_executed)
    }

    /// Notes that a seat ends for `reason`, unless that is decided already.
    pub(crate) fn order_end(&mut self, seat: SeatKey, reason: CloseReason) {
        if let Some(connection) = self.seat_connections.get_mut(seat) {
            connection.ordered.get_or_insert(reason);
        }
    }

    /// Takes what is to be passed to the link next.
    pub(crate) fn take_output(&mut self) -> Option<ClusterOutput> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.operations.is_empty() && !std::mem::take(&mut self.wants_nudge) {
            return None;
        }
        self.node?;
        self.own_taken += 1;
        Some(ClusterOutput::Append(take_batch(&mut self.operations)))
    }

    /// Returns the seat with this id, if the connection that got it with this operation still has it.
    pub(crate) fn seat_with_connection(&self, id: SeatId, join_number: u64) -> Option<SeatKey> {
        let seat = *self.seats.get(&id)?;
        self.seat_connections
            .get(seat)
            .is_some_and(|connection| connection.seat == id && connection.join_number == join_number)
            .then_some(seat)
    }

    pub(crate) fn set_connection(&mut self, seat: SeatKey, mut connection: SeatConnection) {
        if let Some(before) = self.seat_connections.get(seat) {
            self.in_flight.remove(&before.join_number);
            let ordered = before.ordered.filter(|_| before.seat == connection.seat);
            connection.ordered = connection.ordered.or(ordered);
        }
        self.seats.insert(connection.seat, seat);
        self.seat_connections.insert(seat, connection);
    }

    /// Forgets all seats.
    pub(crate) fn forget_seats(&mut self) {
        self.seat_connections = SideTable::default();
        self.seats.clear();
        self.executed = 0;
    }

    /// Forgets the connection of a seat that was freed.
    pub(crate) fn seat_freed(&mut self, seat: SeatKey) {
        if let Some(connection) = self.seat_connections.get(seat) {
            self.freed = Some((connection.seat, connection.node));
            self.seats.remove(&connection.seat);
            self.in_flight.remove(&connection.join_number);
            self.seat_connections.remove(seat);
        }
    }

    /// Returns the node that has the connection of a seat, or had it: of one that is away, or was freed last.
    pub(crate) fn node_of(&self, seat: SeatKey, id: SeatId) -> Option<Incarnation> {
        match self.freed {
            Some((freed, node)) if freed == id => Some(node),
            _ => self
                .seat_connections
                .get(seat)
                .filter(|connection| connection.seat == id)
                .map(|connection| connection.node),
        }
    }
}

/// Takes as many operations, from the front, as fit into one batch. One that is longer is a batch of its own.
pub(crate) fn take_batch(operations: &mut Vec<u8>) -> Vec<u8> {
    if operations.len() <= MAX_OPERATIONS_BYTES {
        return std::mem::take(operations);
    }
    let mut end = 0;
    while let Some(length) = operation_length(&operations[end..])
        && (end == 0 || end + length <= MAX_OPERATIONS_BYTES)
    {
        end += length;
    }
    let rest = operations.split_off(end);
    std::mem::replace(operations, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_log_and_of_the_engine_convert_both_ways() {
        for (now, unix) in [(0, 0), (5, 1_700_000_000_000_000), (1_700_000_000_000_000, 5)] {
            let origin = SharedOrigin::at(Time::from_micros(now), unix);
            assert_eq!(origin.time(unix), Time::from_micros(now));
            assert_eq!(origin.unix_micros(Time::from_micros(now)), unix);
            assert_eq!(origin.time(unix + 7), Time::from_micros(now + 7));
        }
        let origin = SharedOrigin::at(Time::from_micros(3), 1_000_000);
        assert_eq!(origin.time(0), Time::ZERO, "a time before the engine's zero");
    }
}
