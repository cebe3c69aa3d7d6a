//! Checks of pages whose connections are on other nodes: the node that asks appends `Check`, the node with the connection measures and
//! appends `Checked`. What all nodes share does not change.

use std::time::Duration;

use super::super::core::Core;
use super::super::operator::OperatorRefusal;
use super::super::state::cluster::MAX_OPERATIONS_BYTES;
use super::super::state::pings::{CheckResult, PingTarget, Via};
use super::operation::Operation;
use crate::base::id::{SeatId, SeatKey};
use crate::cluster::log::Incarnation;

impl Core {
    /// Whether the log takes operations that somebody waits for.
    ///
    /// # Errors
    ///
    /// While the node is detached, without Redis, and while too much waits to be appended.
    pub(in crate::engine) fn check_log_takes_more(&self) -> Result<(), OperatorRefusal> {
        match &self.cluster {
            Some(cluster) if cluster.node.is_none() || !cluster.is_reachable => Err(OperatorRefusal::Unavailable),
            Some(cluster) if cluster.operations.len() > MAX_OPERATIONS_BYTES / 2 => Err(OperatorRefusal::Busy),
            _ => Ok(()),
        }
    }

    /// Asks the node of a seat to check its page. Returns the target for the ping with this ticket.
    pub(in crate::engine) fn ask_for_check(
        &mut self,
        seat: SeatKey,
        ticket: u64,
        timeout: Duration,
    ) -> Option<PingTarget> {
        let cluster = self.cluster.as_mut()?;
        let connection = cluster.seat_connections.get(seat)?;
        let (node, seat, join_number) = (connection.node, connection.seat, connection.join_number);
        Operation::Check { seat, join_number, ticket, timeout }.write(&mut cluster.operations);
        Some(PingTarget { seat, via: Via::Node(node), outcome: None })
    }

    /// Starts a check that a node has asked for, if the connection is here.
    pub(super) fn execute_check(&mut self, asker: Incarnation, check: (SeatId, u64), ticket: u64, timeout: Duration) {
        let (id, join_number) = check;
        let cluster = self.in_cluster();
        let own = cluster.node;
        let seat = cluster.seat_with_connection(id, join_number);
        let node = seat.and_then(|seat| cluster.seat_connections.get(seat)).map(|connection| connection.node);
        let is_present = seat.is_some_and(|seat| !self.directory.seat(seat).is_away);
        let conn = seat.filter(|_| is_present).and_then(|seat| self.directory.conn_of(seat));
        if let Some(conn) = conn {
            let nonce = self.begin_check(conn.key(), timeout);
            self.rearm(conn.key());
            if ticket != 0 {
                let outcome = self.conns[conn.key()].close_kind.is_some().then_some(None);
                let target = PingTarget { seat: id, via: Via::Conn(conn, nonce), outcome };
                let deadline = self.clock.own() + timeout;
                self.pings.begin_for(asker, ticket, deadline, target);
            }
        } else if is_present && node == own && ticket != 0 {
            // Its end is on its way to the log.
            self.pings.note_result(CheckResult { asker, ticket, seat: id, latency: None });
        } else if !is_present && own == Some(asker) {
            self.pings.answered_elsewhere(ticket, id, None);
        }
    }

    /// Passes the result of a check to the ping that waits for it.
    pub(super) fn execute_checked(&mut self, result: CheckResult) {
        let CheckResult { asker, ticket, seat, latency } = result;
        if self.in_cluster().node == Some(asker) {
            self.pings.answered_elsewhere(ticket, seat, latency);
        }
    }

    /// Appends the results of checks that other nodes have asked for.
    pub(super) fn append_check_results(&mut self) {
        let Core { cluster, pings, .. } = self;
        let Some(cluster) = cluster.as_mut().filter(|cluster| cluster.node.is_some()) else { return };
        while cluster.operations.len() < MAX_OPERATIONS_BYTES
            && let Some(CheckResult { asker, ticket, seat, latency }) = pings.take_result()
        {
            Operation::Checked { asker, ticket, seat, latency }.write(&mut cluster.operations);
        }
    }
}
