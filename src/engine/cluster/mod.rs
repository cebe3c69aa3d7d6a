//! This node's part in a cluster: see [`cluster`](crate::cluster).
//!
//! ```text
//! request of a client --local checks--> operation --log--> executed on every node
//! ```
//!
//! While an entry is executed, users, lobbies, seats, sessions and histories change by the same code as without a cluster, and at the
//! time of the entry. At any other moment they do not change. What happens to a connection of this node, and only to it,
//! is appended as an operation: [`submitting`] does it. What an entry changes is in [`executing`], and what it means that a
//! connection has ended in [`ending`].
//!
//! Members on other nodes have a seat, and their connection is [`ConnId::ELSEWHERE`](crate::ConnId).

mod checks;
mod command;
mod commands;
mod ending;
mod executing;
mod fields;
mod homes;
pub(crate) mod inspect;
pub(crate) mod operation;
mod snapshot;
mod state;
mod submitting;

pub(super) use self::submitting::SharedMessage;

use std::time::Duration;

use log::{info, warn};

use super::Engine;
use super::app::App;
use super::core::Core;
use super::recording::Input;
use super::state::cluster::Cluster;
use crate::base::close::CloseReason;
use crate::base::id::{ConnId, LobbyKey};
use crate::base::time::Time;
use crate::cluster::log::{ClusterInput, ClusterOutput, Incarnation};

/// How much later each further node acts on a deadline that has passed, so that one of them does it for all.
const RANK_DELAY: Duration = Duration::from_millis(30);
/// Shortest time between two empty entries of a node.
const NUDGE_INTERVAL: Duration = Duration::from_millis(100);

impl<A: App> Engine<A> {
    /// Makes this engine a node of a cluster. Must be called before it has any connection.
    pub(crate) fn join_cluster(&mut self) {
        debug_assert!(self.core.is_blank() && !self.core.is_node(), "a node begins without connections");
        self.enter(self.core.now(), &Input::JoinCluster);
        self.core.become_node(A::IS_STATELESS);
    }

    /// The index of the next entry; `None` if this engine is no node of a cluster.
    pub(crate) fn next_entry(&self) -> Option<u64> {
        let Core { cluster, homes, .. } = &self.core;
        let index = cluster.as_ref().map(|cluster| cluster.index).or(homes.as_ref().map(|homes| homes.index));
        index.map(|index| index + 1)
    }

    /// Whether this node is attached to its cluster. It is not after [`ClusterInput::Attached`] with a state that it cannot
    /// read: then the link is to detach it.
    pub(crate) fn is_attached(&self) -> bool {
        !self.core.is_detached()
    }

    /// Reports what the link to the cluster says.
    pub(crate) fn handle_cluster(&mut self, now: Time, input: ClusterInput<'_>) {
        self.enter(now, &Input::Cluster(input));
        if self.core.homes.is_some() {
            self.handle_homes(input);
            return self.dispatch_events();
        }
        match input {
            ClusterInput::Attached { node, index, state } => self.attached(node, index, state),
            // While it is detached, this node has not got the state to which the entry belongs.
            ClusterInput::Entry(_) if self.core.is_detached() => {}
            ClusterInput::Entry(entry) => self.execute(entry),
            ClusterInput::Reachable(is_reachable) => {
                let now = self.core.now();
                let cluster = self.core.in_cluster();
                cluster.is_reachable = is_reachable;
                cluster.unreachable_since = (!is_reachable).then_some(now);
            }
            ClusterInput::Detached => self.core.detach(),
        }
        self.dispatch_events();
    }

    fn attached(&mut self, node: Incarnation, index: u64, state: Option<&[u8]>) {
        let now = self.core.now();
        // The log's time may go back when it is founded anew.
        self.core.in_cluster().unix_micros = 0;
        if let Some(state) = state
            && let Err(error) = self.core.load_state(state, now)
        {
            // The driver sees is_attached(), and lets the link attach again.
            return warn!("the state of the cluster cannot be read: {error}");
        }
        let cluster = self.core.in_cluster();
        cluster.seen_at = now;
        (cluster.node, cluster.index, cluster.is_reachable) = (Some(node), index, true);
        info!("attached to the cluster as {node}, at entry {index}");
        cluster.to_ask = cluster.waiting.keys().copied().collect();
    }

    /// Takes what is to be passed to the link. A driver calls this until it returns `None`, after all events of a turn and
    /// before it waits.
    pub(crate) fn poll_cluster(&mut self) -> Option<ClusterOutput> {
        self.core.append_joins();
        self.core.append_check_results();
        let Core { cluster, homes, .. } = &mut self.core;
        let output = match homes {
            Some(homes) => homes.take_output(),
            None => cluster.as_mut()?.take_output(),
        }?;
        self.core.record_taken(&output);
        Some(output)
    }
}

impl Core {
    /// Whether this engine is a node of a cluster, also of one whose application keeps state of its own.
    pub(super) fn is_node(&self) -> bool {
        self.cluster.is_some() || self.homes.is_some()
    }

    /// Whether this engine is a node that is not attached to its cluster.
    pub(super) fn is_detached(&self) -> bool {
        let Core { cluster, homes, .. } = self;
        cluster.as_ref().is_some_and(|cluster| cluster.node.is_none())
            || homes.as_ref().is_some_and(|homes| homes.node.is_none())
    }

    /// Whether this node has not reached Redis for so long that it has sent its members to the others.
    pub(super) fn has_given_up(&self) -> bool {
        let is_given_up = |cluster: &Cluster| !cluster.is_reachable && cluster.unreachable_since.is_none();
        self.cluster.as_deref().is_some_and(is_given_up)
    }

    pub(super) fn become_node(&mut self, is_stateless: bool) {
        if !is_stateless {
            self.directory.note_changed_lobbies();
            self.homes = Some(Box::default());
            return;
        }
        self.conns.add_elsewhere();
        self.cluster = Some(Box::new(Cluster::new()));
    }

    pub(super) fn is_clustered(&self) -> bool {
        self.cluster.is_some()
    }

    /// Whether the application may change now what all nodes share: while an entry is executed, which all of them do.
    pub(super) fn may_change_shared(&self) -> bool {
        let may_change = self.cluster.as_ref().is_none_or(|cluster| cluster.is_shared);
        if !may_change {
            warn!("the application cannot change on one node what all nodes share");
        }
        may_change
    }

    /// Sets whether what follows happens on all nodes. Returns what was set before.
    pub(super) fn set_shared(&mut self, is_shared: bool) -> bool {
        self.cluster.as_mut().is_some_and(|cluster| std::mem::replace(&mut cluster.is_shared, is_shared))
    }

    /// The state of the cluster, in code that runs only in one.
    pub(super) fn in_cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("the engine is a node of a cluster")
    }

    /// Number of members and watchers of a lobby whose connections are on other nodes. They are told too.
    pub(super) fn members_elsewhere(&self, lobby: LobbyKey) -> usize {
        self.directory.get_lobby(lobby).map_or(0, |lobby| lobby.elsewhere().len())
    }

    /// Whether changes of seats are to be kept for a drain of this process alone. In a cluster the others go on.
    pub(super) fn is_ending(&self) -> bool {
        self.is_draining() && !self.is_clustered()
    }

    /// Forgets all users, lobbies and seats, because this node was detached. Its members are asked to come back.
    fn detach(&mut self) {
        self.in_cluster().detach();
        self.pings.lose_cluster();
        warn!("this node is no longer attached to the cluster: its members are asked to reconnect");
        for conn in self.members_by_age() {
            self.begin_close(conn.key(), CloseReason::ForcedReconnect);
        }
        // Their list would not show which lobbies are gone.
        for conn in self.list_followers() {
            self.begin_close(conn.key(), CloseReason::ForcedReconnect);
        }
        self.forget_shared();
    }

    fn list_followers(&self) -> Vec<ConnId> {
        self.conns.iter().filter(|(_, slot)| slot.is_listing()).map(|(_, slot)| slot.id).collect()
    }

    // ---- the time of the log ----

    /// The next deadline of users and lobbies, at which this node lets the time of the log pass if no other node does.
    #[cold]
    fn next_nudge(&self) -> Option<Time> {
        let cluster = self.cluster.as_ref().filter(|cluster| cluster.is_reachable)?;
        let node = cluster.node?;
        // As far as this node knows, so much of the log's time has passed as of its own since the last entry.
        let due = cluster.seen_at + (self.next_shared_deadline()? - cluster.origin.time(cluster.unix_micros));
        let rank = cluster.nodes.keys().take_while(|&&other| other < node).count().min(100) as u32;
        let earliest = cluster.nudged_at.map_or(Time::ZERO, |at| at + NUDGE_INTERVAL);
        Some((due + RANK_DELAY * rank).max(earliest))
    }

    /// The next deadline of users and lobbies.
    fn next_shared_deadline(&self) -> Option<Time> {
        self.shared_deadlines().into_iter().flatten().min()
    }

    #[inline]
    fn shared_deadlines(&self) -> [Option<Time>; 3] {
        let Core { directory, .. } = self;
        [directory.next_count_update(), directory.next_away_event(), directory.next_control_event()]
    }

    /// The next times at which the engine must act on users and lobbies.
    #[inline]
    pub(super) fn next_lobby_events(&self) -> [Option<Time>; 3] {
        match &self.cluster {
            None => self.shared_deadlines(),
            Some(cluster) => [self.next_nudge(), self.give_up_at(), cluster.submitted.next()],
        }
    }

    /// When members are asked to look for another node, because this one cannot reach Redis.
    #[cold]
    fn give_up_at(&self) -> Option<Time> {
        let since = self.cluster.as_ref()?.unreachable_since?;
        Some(since + self.config.cluster_lease)
    }

    /// Acts on the deadlines of users and lobbies that have passed. In a cluster they are those of the log's time.
    #[inline]
    pub(super) fn expire_lobbies(&mut self) {
        if self.is_clustered() {
            self.expire_in_cluster();
        } else {
            self.expire_shared();
        }
    }

    #[cold]
    fn expire_in_cluster(&mut self) {
        let now = self.now();
        self.in_cluster().submitted.expire(now);
        if self.give_up_at().is_some_and(|at| at <= now) {
            self.in_cluster().unreachable_since = None;
            warn!("Redis has not answered for cluster_lease: this node's members are asked to reconnect");
            for conn in self.members_by_age() {
                self.begin_close(conn.key(), CloseReason::ForcedReconnect);
            }
        }
        if self.next_nudge().is_some_and(|at| at <= now) {
            let cluster = self.in_cluster();
            (cluster.nudged_at, cluster.wants_nudge) = (Some(now), true);
        }
    }

    /// Acts on the deadlines of users and lobbies that have passed.
    #[inline]
    fn expire_shared(&mut self) {
        self.expire_count_updates();
        self.expire_away();
        self.expire_control();
    }
}

#[cfg(test)]
mod tests;
