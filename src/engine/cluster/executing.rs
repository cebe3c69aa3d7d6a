//! Executes the entries of the log. Every node does it in the same order and at the same time of the log, so nothing here may depend on what
//! one node alone knows.

use std::sync::Arc;

use log::{info, warn};
use smol_str::SmolStr;

use super::super::Engine;
use super::super::app::App;
use super::super::core::Core;
use super::super::member::{Identity, Message};
use super::super::state::cluster::{SeatConnection, SharedOrigin};
use super::super::state::conn::ConnState;
use super::super::state::pings::CheckResult;
use super::command::read_command;
use super::fields::Body;
use super::operation::{Join, Operation};
use crate::base::close::CloseReason;
use crate::base::id::{AddressKey, ConnId, SeatId, SeatKey};
use crate::cluster::log::{ClusterOutput, EntryBody, Incarnation, LogEntry};
use crate::lobby::directory::SeatRequest;
use crate::lobby::entering::Wanted;
use crate::protocol::{self, Envelope};

impl<A: App> Engine<A> {
    /// Executes the next entry.
    pub(super) fn execute(&mut self, entry: LogEntry<'_>) {
        self.core.begin_entry(&entry);
        self.core.expire_shared();
        self.dispatch_events();
        match entry.body {
            EntryBody::Founded => {}
            EntryBody::Attached { node, name } => {
                self.core.in_cluster().nodes.insert(node, SmolStr::new(name));
                info!("cluster: node {name:?} has attached as {node}");
            }
            EntryBody::Ended { node } => {
                info!("cluster: node {node} has ended");
                self.core.end_node(node);
            }
            EntryBody::Operations { node, bytes } => self.execute_all(node, bytes),
        }
        self.flush_presence_and_events();
        if let EntryBody::Attached { node, .. } = entry.body {
            self.core.provide_state(node);
        }
        self.core.end_entry();
        for (conn, early) in std::mem::take(&mut self.core.in_cluster().early) {
            self.process_bytes(conn, &early, usize::MAX);
        }
    }

    fn execute_all(&mut self, node: Incarnation, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some((operation, rest)) = Operation::read(bytes) else {
                return warn!(
                    "cluster: an operation of node {node} cannot be read, and is ignored with what follows it"
                );
            };
            self.core.in_cluster().executed += 1;
            self.execute_one(node, operation);
            self.dispatch_events();
            bytes = rest;
        }
    }

    fn execute_one(&mut self, node: Incarnation, operation: Operation<'_>) {
        match operation {
            Operation::Text { seat, join_number, text } => {
                if let Some(seat) = self.core.speaking_seat(seat, join_number, text.len()) {
                    self.execute_text(seat, text);
                }
            }
            Operation::Binary { seat, join_number, bytes } => {
                if let Some(seat) = self.core.speaking_seat(seat, join_number, bytes.len()) {
                    let member = self.core.member_in(seat);
                    // Only a JSON message can be answered with an error, so a rejection is dropped here.
                    let _ = self.deliver(&member, Message::Binary(bytes));
                }
            }
            Operation::Join(join) => self.execute_join(node, &join),
            Operation::Check { seat, join_number, ticket, timeout } => {
                self.core.execute_check(node, (seat, join_number), ticket, timeout);
            }
            Operation::Checked { asker, ticket, seat, latency } => {
                self.core.execute_checked(CheckResult { asker, ticket, seat, latency });
            }
            Operation::Claim { .. } | Operation::Release { .. } => {
                warn!("cluster: node {node} runs another kind of application");
            }
            Operation::Drop { seat, join_number, reason, is_written } => {
                let seat = self.core.in_cluster().seat_with_connection(seat, join_number);
                if let Some(seat) = seat.filter(|&seat| self.core.directory.seat(seat).is_elsewhere()) {
                    self.core.end_connection(seat, reason, is_written);
                }
            }
            Operation::Operate { ticket, command } => match read_command(&mut Body(command)) {
                Some(command) => self.core.execute_command(node, ticket, command),
                None => warn!("cluster: a command of node {node} cannot be read, and is ignored"),
            },
        }
    }

    fn execute_text(&mut self, seat: SeatKey, text: &str) {
        let member = self.core.member_in(seat);
        let has_control = self.core.has_control(seat);
        let read = protocol::read(text, self.core.config.max_json_depth, || has_control);
        let Ok(Envelope { request, reference }) = read else {
            return warn!(
                "cluster: a message of user {:?} was checked by rules that this node does not know",
                member.user()
            );
        };
        if self.core.use_reference(&member, reference) {
            self.serve(&member, text, request, reference);
        }
    }

    fn execute_join(&mut self, node: Incarnation, join: &Join<'_>) {
        let core = &mut self.core;
        let join_number = core.in_cluster().executed;
        let is_own = core.in_cluster().node == Some(node);
        let mut waiting = if is_own { core.take_waiting(join.conn) } else { None };
        let wanted = Wanted { requested: &join.requested, claim: join.claim, entry: join.entry, reserved: None };
        let now = core.now();
        let code = core.directory.resolve(&wanted, join.user, now);
        // All nodes decide alike, so the limit for addresses does not apply: this node knows only those of its own clients.
        let request = SeatRequest::new(&code, join.user, AddressKey::NONE, &wanted);
        let plan = core.plan_seat(&request);
        let is_guess = |(conn, _): &mut (ConnId, Identity)| core.has_guessed_too_often(conn.key(), plan, join.entry);
        let guessed = waiting.take_if(is_guess);
        if let Some((conn, identity)) = &guessed {
            core.accept_pending(conn.key());
            core.refuse_login(conn.key(), wanted, &identity.user, CloseReason::RateLimited);
        }
        let connection = |core: &Core, seat| SeatConnection {
            seat: core.directory.seat(seat).id,
            node,
            join_number,
            data: join.data.map(Arc::from),
            ordered: None,
        };
        match (plan, waiting) {
            (Ok(plan), Some((conn, identity))) => {
                let early = core.accept_pending(conn.key());
                core.take_seat(conn.key(), request, plan, &identity, |core, seat| {
                    let connection = connection(core, seat);
                    core.in_cluster().set_connection(seat, connection);
                });
                core.egress.mark_dirty(conn.key());
                core.close_as_ordered(conn);
                core.in_cluster().early.push((conn, early));
            }
            (Ok(plan), None) => {
                let seat = core.take_seat_elsewhere(request, plan, |core, seat| {
                    let connection = connection(core, seat);
                    core.in_cluster().set_connection(seat, connection);
                });
                if is_own {
                    // Its connection has ended in the meantime. One that has guessed leaves no session.
                    let reason = if guessed.is_some() { CloseReason::Left } else { CloseReason::Hangup };
                    core.append_drop(seat, reason, false);
                }
            }
            (Err(reason), Some((conn, identity))) => {
                let key = conn.key();
                core.accept_pending(key);
                core.note_guess(key, reason, join.entry);
                core.refuse_login(key, wanted, &identity.user, reason);
            }
            (Err(_), None) => {}
        }
    }
}

impl Core {
    /// Sets the clock to the time of an entry.
    fn begin_entry(&mut self, entry: &LogEntry<'_>) {
        let now = self.clock.now();
        let cluster = self.cluster.as_mut().expect("the engine is a node of a cluster");
        debug_assert_eq!(entry.index, cluster.index + 1, "the link passes on entries without gaps");
        if cluster.unix_micros == 0 {
            cluster.origin = SharedOrigin::at(now, entry.unix_micros);
        } else {
            cluster.origin.set_back(cluster.unix_micros.saturating_sub(entry.unix_micros));
        }
        (cluster.index, cluster.seen_at) = (entry.index, now);
        cluster.entries += 1;
        if let EntryBody::Operations { node, bytes } = entry.body {
            cluster.bytes += bytes.len() as u64;
            cluster.own_executed += u64::from(cluster.node == Some(node));
        }
        cluster.unix_micros = entry.unix_micros;
        (cluster.is_executing, cluster.is_shared) = (true, true);
        self.clock.show_shared(cluster.origin.time(cluster.unix_micros), cluster.unix_micros);
    }

    fn end_entry(&mut self) {
        self.clock.show_own();
        let cluster = self.in_cluster();
        (cluster.is_executing, cluster.is_shared) = (false, false);
    }

    /// Returns the seat of a member that sends a message of so many bytes, if its connection still has the seat.
    fn speaking_seat(&mut self, seat: SeatId, join_number: u64, length: usize) -> Option<SeatKey> {
        let cluster = self.in_cluster();
        if let Some(in_flight) = cluster.in_flight.get_mut(&join_number) {
            in_flight.requests = in_flight.requests.saturating_sub(1);
            in_flight.bytes = in_flight.bytes.saturating_sub(length);
        }
        let seat = cluster.seat_with_connection(seat, join_number)?;
        // An away seat has no connection that could send.
        (!self.directory.seat(seat).is_away).then_some(seat)
    }

    /// Takes a connection of this node that waits for its seat, if it is still open.
    fn take_waiting(&mut self, bits: u64) -> Option<(ConnId, Identity)> {
        let conn = ConnId::from_bits(bits);
        let waiting = self.in_cluster().waiting.remove(&conn)?;
        let slot = self.slot(conn).filter(|slot| slot.close_kind.is_none() && slot.wire.is_deciding())?;
        slot.state = ConnState::Pending(None);
        Some((conn, waiting.identity))
    }

    /// Queues the close of a connection that got a seat which an operator's command ends.
    fn close_as_ordered(&mut self, conn: ConnId) {
        let seat = self.conns.get(conn).and_then(|slot| slot.seat());
        let ordered = seat.and_then(|seat| self.in_cluster().seat_connections.get(seat)?.ordered);
        if let Some(reason) = ordered {
            self.close_in_batches([conn], reason);
        }
    }

    /// Writes the state for a node that has attached, if this node is the one to do it: the longest attached one.
    fn provide_state(&mut self, node: Incarnation) {
        let cluster = self.in_cluster();
        let first = cluster.nodes.keys().copied().find(|&other| other != node);
        if cluster.node.is_some() && cluster.node == first {
            let (index, bytes) = (cluster.index, self.write_state());
            self.in_cluster().outputs.push_back(ClusterOutput::State { node, index, bytes });
        }
    }
}
