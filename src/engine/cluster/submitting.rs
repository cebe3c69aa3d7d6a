//! What this node appends to the log: the requests of its clients, after the checks that concern one connection alone, and the
//! end of its connections.

use super::super::core::Core;
use super::super::member::{Identity, Member};
use super::super::state::cluster::{MAX_OPERATIONS_BYTES, Waiting};
use super::super::state::conn::{ConnState, PendingAuth};
use super::super::state::homes::Home;
use super::operation::{Join, Operation};
use crate::base::close::{CloseReason, Reject};
use crate::base::entry::RequestedLobby;
use crate::base::id::{ConnId, ConnKey, SeatKey};
use crate::lobby::entering::Wanted;
use crate::protocol;
use crate::ws::handshake::{Acceptance, Page};

/// The `retry_after_ms` of a refusal because too much of the connection is on the way to the log.
const RETRY_MS: u64 = 100;

/// A message of a member for the log.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) enum SharedMessage<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl SharedMessage<'_> {
    fn len(self) -> usize {
        match self {
            SharedMessage::Text(text) => text.len(),
            SharedMessage::Binary(bytes) => bytes.len(),
        }
    }
}

impl Core {
    /// Whether the cluster decides whether a client that is authorized gets a seat here.
    pub(in crate::engine) fn must_ask_cluster(&self, requested: &RequestedLobby) -> bool {
        self.is_clustered() || self.find_home(requested) != Home::Here
    }

    /// Defers the request of a client that is authorized until the cluster has answered.
    pub(in crate::engine) fn defer_to_cluster(
        &mut self,
        key: ConnKey,
        (form, page): (Acceptance, Page),
        wanted: Wanted<'_>,
        identity: Identity,
    ) {
        if self.conns[key].close_kind.is_some() {
            return;
        }
        self.conns[key].wire.defer(form, page);
        let Wanted { requested, claim, entry, .. } = wanted;
        let pending = PendingAuth { requested: requested.clone(), claim, entry, reservation: None };
        let known = self.ask_cluster(key, pending, identity);
        debug_assert!(known.is_none(), "the caller has asked must_ask_cluster()");
    }

    /// Lets a client whose request is deferred wait for the cluster. Returns what was passed in if there is nothing to
    /// wait for.
    pub(in crate::engine) fn ask_cluster(
        &mut self,
        key: ConnKey,
        pending: PendingAuth,
        identity: Identity,
    ) -> Option<(PendingAuth, Identity)> {
        if self.is_clustered() {
            self.request_seat(key, pending, identity);
            return None;
        }
        self.wait_for_home(key, pending, identity)
    }

    /// Whether a connection waits for the cluster.
    pub(in crate::engine) fn waits_for_cluster(&self, conn: ConnId) -> bool {
        let for_seat = self.cluster.as_ref().is_some_and(|cluster| cluster.waiting.contains_key(&conn));
        for_seat || self.homes.as_ref().is_some_and(|homes| homes.waiting.contains_key(&conn))
    }

    /// Forgets that a connection waits for the cluster.
    pub(in crate::engine) fn forget_waiting(&mut self, conn: ConnId) {
        if let Some(homes) = &mut self.homes {
            homes.waiting.remove(&conn);
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.waiting.remove(&conn);
            cluster.to_ask.remove(&conn);
        }
    }

    fn request_seat(&mut self, key: ConnKey, request: PendingAuth, identity: Identity) {
        let slot = &mut self.conns[key];
        let conn = slot.id;
        slot.state = ConnState::Pending(Some(Box::new(request)));
        self.set_stage_deadline(key, self.config.auth_timeout);
        let cluster = self.in_cluster();
        cluster.waiting.insert(conn, Waiting { identity });
        cluster.to_ask.insert(conn);
    }

    /// Appends the requests of connections that wait for their seats. While the node is detached, without Redis, and while too
    /// much is to be appended, they go on waiting.
    pub(super) fn append_joins(&mut self) {
        while let Some(cluster) = &mut self.cluster
            && cluster.node.is_some()
            && cluster.is_reachable
            && cluster.operations.len() < MAX_OPERATIONS_BYTES
            && let Some(conn) = cluster.to_ask.pop_first()
        {
            self.append_join(conn);
        }
    }

    fn append_join(&mut self, conn: ConnId) {
        let Core { cluster, conns, .. } = self;
        let cluster = cluster.as_mut().expect("the engine is a node of a cluster");
        let Some(Waiting { identity }) = cluster.waiting.get(&conn) else { return };
        let Some(ConnState::Pending(Some(request))) = conns.open(conn).map(|slot| &slot.state) else { return };
        let join = Join {
            conn: conn.bits(),
            user: &identity.user,
            requested: request.requested.clone(),
            claim: request.claim,
            entry: request.entry,
            data: identity.data.as_deref(),
        };
        Operation::Join(join).write(&mut cluster.operations);
    }

    /// Appends a message of a member, after charging it. `reference` is its `ref`.
    pub(in crate::engine) fn append_message(
        &mut self,
        member: &Member,
        message: SharedMessage<'_>,
        reference: Option<&str>,
    ) {
        let key = member.conn.key();
        // The log has answered it before. An error now would say that it was not executed.
        if self.answer_repeated(member, reference) {
            return;
        }
        if let Err(denied) = self.charge_message(key) {
            return self.rate_limited(key, reference, denied);
        }
        let (max_requests, max_bytes) = (self.config.max_unanswered, self.config.max_inbox_bytes.0);
        let cluster = self.cluster.as_mut().expect("the engine is a node of a cluster");
        let length = message.len();
        if cluster.node.is_none() || !cluster.is_reachable || cluster.operations.len() + length > MAX_OPERATIONS_BYTES {
            return self.reject(key, reference, Reject::Unavailable, "the cluster does not answer: try again later");
        }
        let Some(connection) = cluster.seat_connections.get(member.seat_key) else { return };
        let (seat, join_number) = (connection.seat, connection.join_number);
        let in_flight = cluster.in_flight.entry(join_number).or_default();
        let is_first = in_flight.bytes == 0;
        if in_flight.requests >= max_requests || (!is_first && in_flight.bytes + length > max_bytes) {
            return self.refuse_in_flight(key, reference);
        }
        in_flight.requests += 1;
        in_flight.bytes += length;
        let operation = match message {
            SharedMessage::Text(text) => Operation::Text { seat, join_number, text },
            SharedMessage::Binary(bytes) => Operation::Binary { seat, join_number, bytes },
        };
        operation.write(&mut cluster.operations);
    }

    fn refuse_in_flight(&mut self, key: ConnKey, reference: Option<&str>) {
        self.counters.count_reject(Reject::RateLimited);
        if self.should_report_refusal(key, reference) {
            let why = "more than max_unanswered requests, or max_inbox_bytes, are not answered yet";
            protocol::write_rate_limited(&mut self.buffers.text, reference, why, RETRY_MS);
            self.reply(key);
        }
    }

    /// Ends the connection of a seat as far as this node is concerned. The seat follows when all nodes know it.
    pub(in crate::engine) fn drop_later(&mut self, key: ConnKey, seat: SeatKey, reason: CloseReason) {
        let is_written = !self.egress.has_queue(key);
        self.directory.detach(seat);
        self.set_closing(key);
        self.append_drop(seat, reason, is_written);
    }

    /// Appends that the connection of a seat has ended. While the node is detached nobody is told.
    pub(super) fn append_drop(&mut self, seat: SeatKey, reason: CloseReason, is_written: bool) {
        let cluster = self.in_cluster();
        if let (Some(connection), Some(_)) = (cluster.seat_connections.get(seat), cluster.node) {
            let drop =
                Operation::Drop { seat: connection.seat, join_number: connection.join_number, reason, is_written };
            cluster.in_flight.remove(&connection.join_number);
            drop.write(&mut cluster.operations);
        }
    }
}
