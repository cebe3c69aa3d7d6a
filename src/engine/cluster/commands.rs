//! Operators' commands about users and lobbies: any node appends them, all nodes carry them out, and the node that was asked
//! answers.

use super::super::core::Core;
use super::super::member::Sent;
use super::super::operator::{OperatorAnswer, OperatorCommand, OperatorRefusal};
use super::super::state::cluster::MAX_OPERATIONS_BYTES;
use super::command::{is_shared, put_command};
use super::operation::Operation;
use crate::base::close::CloseReason;
use crate::base::id::{LobbyKey, SeatKey};
use crate::cluster::log::Incarnation;

impl Core {
    /// Whether a command takes its place in the log before it is carried out.
    pub(in crate::engine) fn must_submit(&self, command: &OperatorCommand) -> bool {
        self.is_clustered() && is_shared(command)
    }

    /// Appends a command. Its answer follows when it is carried out.
    pub(in crate::engine) fn submit(&mut self, command: OperatorCommand) -> Result<OperatorAnswer, OperatorRefusal> {
        if let OperatorCommand::Create(_) = command
            && self.is_draining()
        {
            return Err(OperatorRefusal::Draining);
        }
        if let OperatorCommand::Publish { payload, .. } | OperatorCommand::Send { payload, .. } = &command {
            self.check_payload(payload)?;
        }
        let mut bytes = Vec::new();
        put_command(&mut bytes, &command);
        if bytes.len() > MAX_OPERATIONS_BYTES / 2 {
            return Err(OperatorRefusal::TooLong);
        }
        let deadline = self.now() + self.config.admin_timeout;
        let cluster = self.cluster.as_mut().expect("the engine is a node of a cluster");
        if cluster.node.is_none() || !cluster.is_reachable {
            return Err(OperatorRefusal::Unavailable);
        }
        if cluster.submitted.is_full() || cluster.operations.len() + bytes.len() > MAX_OPERATIONS_BYTES {
            return Err(OperatorRefusal::Busy);
        }
        let ticket = self.pings.next_ticket();
        cluster.submitted.begin(ticket, deadline);
        Operation::Operate { ticket, command: &bytes }.write(&mut cluster.operations);
        Ok(OperatorAnswer::Submitted(ticket))
    }

    /// Carries out a command that a node has appended.
    pub(super) fn execute_command(&mut self, node: Incarnation, ticket: u64, command: OperatorCommand) {
        let answer = self.operate(command);
        let cluster = self.in_cluster();
        if cluster.node == Some(node) {
            cluster.submitted.answered(ticket, answer);
        }
    }

    /// Lets the present ones of these seats end for `reason` even if their connections end for another one before. Returns
    /// their number. Their own nodes close the connections.
    pub(in crate::engine) fn order_end(&mut self, seats: &[SeatKey], reason: CloseReason) -> usize {
        let Core { cluster, directory, .. } = self;
        let Some(cluster) = cluster else { return 0 };
        let mut count = 0;
        for &seat in seats {
            if !directory.seat(seat).is_away {
                count += 1;
                if !reason.keeps_seat() {
                    cluster.order_end(seat, reason);
                }
            }
        }
        count
    }

    /// The receivers of what is published to a lobby, which all nodes count alike: a member with a connection on any node
    /// counts as one for which it is queued. `None` without a cluster.
    pub(in crate::engine) fn audience(&self, lobby: LobbyKey, exclude: &[String]) -> Option<Sent> {
        self.cluster.as_ref()?;
        let state = self.directory.get_lobby(lobby)?;
        let present = state.all_seats_count() - state.away().len();
        let is_excluded = |seat: &SeatKey| {
            let seat = self.directory.seat(*seat);
            seat.lobby == lobby && !seat.is_away
        };
        // A user may be named twice.
        let mut users: Vec<&String> = exclude.iter().collect();
        users.sort_unstable();
        users.dedup();
        let seats = users.into_iter().flat_map(|user| self.directory.seats_of(user));
        let excluded = seats.filter(|seat| is_excluded(seat)).count();
        Some(Sent { queued: present - excluded, dropped: 0, excluded })
    }

    /// The name of the node that has, or had, the connection of a seat. `None` without a cluster, and if it has ended.
    pub(in crate::engine) fn node_of(&self, seat: SeatKey) -> Option<String> {
        let cluster = self.cluster.as_ref()?;
        let connection = cluster.seat_connections.get(seat)?;
        cluster.nodes.get(&connection.node).map(ToString::to_string)
    }
}
