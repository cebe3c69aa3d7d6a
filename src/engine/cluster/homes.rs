//! A cluster whose application keeps state of its own: each lobby is on one node, its home.
//!
//! The users, lobbies and seats of a node are its own, as without a cluster. The nodes share only which lobby is where. A node
//! claims a lobby before it creates it, and releases it when it is removed; the first claim in the log counts. A client that comes to
//! another node is told the URL of the home.

use std::collections::{BTreeMap, BTreeSet};

use log::{info, warn};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::super::Engine;
use super::super::app::App;
use super::super::core::Core;
use super::super::member::Identity;
use super::super::state::conn::{ConnState, PendingAuth};
use super::super::state::homes::{Home, Homes, NodeInfo};
use super::operation::Operation;
use crate::base::close::CloseReason;
use crate::base::entry::RequestedLobby;
use crate::base::id::ConnKey;
use crate::cluster::log::{ClusterInput, ClusterOutput, EntryBody, Incarnation, LogEntry};

/// What a node that attaches gets from another one.
#[derive(Serialize, Deserialize)]
struct State {
    nodes: Vec<(u64, String, Option<String>)>,
    lobbies: BTreeMap<String, u64>,
}

impl<A: App> Engine<A> {
    pub(super) fn handle_homes(&mut self, input: ClusterInput<'_>) {
        match input {
            ClusterInput::Attached { node, index, state } => self.core.homes_attached(node, index, state),
            ClusterInput::Entry(_) if self.core.is_detached() => {}
            ClusterInput::Entry(entry) => self.execute_for_homes(entry),
            ClusterInput::Reachable(is_reachable) => {
                self.core.homes_mut().is_reachable = is_reachable;
                self.core.claim_awaited();
            }
            ClusterInput::Detached => self.core.lose_homes(),
        }
    }

    fn execute_for_homes(&mut self, entry: LogEntry<'_>) {
        self.core.homes_mut().index = entry.index;
        match entry.body {
            EntryBody::Founded => {}
            EntryBody::Attached { node, name } => {
                info!("cluster: node {name:?} has attached as {node}");
                let homes = self.core.homes_mut();
                homes.nodes.insert(node, NodeInfo::read(name));
                let first = homes.nodes.keys().copied().find(|&other| other != node);
                if homes.node.is_some() && homes.node == first {
                    let (index, bytes) = (homes.index, homes.write());
                    homes.outputs.push_back(ClusterOutput::State { node, index, bytes });
                }
            }
            EntryBody::Ended { node } => {
                info!("cluster: node {node} has ended");
                let homes = self.core.homes_mut();
                homes.nodes.remove(&node);
                homes.of_lobbies.retain(|_, home| *home != node);
            }
            EntryBody::Operations { node, mut bytes } => {
                while let Some((operation, rest)) = Operation::read(bytes) {
                    match operation {
                        Operation::Claim { lobby } => self.execute_claim(node, lobby),
                        Operation::Release { lobby } => self.core.execute_release(node, lobby),
                        _ => warn!("cluster: node {node} runs another kind of application"),
                    }
                    bytes = rest;
                }
            }
        }
    }

    fn execute_claim(&mut self, node: Incarnation, lobby: &str) {
        let homes = self.core.homes_mut();
        let home = *homes.of_lobbies.entry(lobby.into()).or_insert(node);
        if home != node || homes.node != Some(node) {
            // Another node was first; and this node may have created the lobby in the meantime.
            let is_other = homes.node.is_some_and(|own| home != own);
            if is_other {
                self.core.give_up_lobby(lobby);
            }
        }
        for (conn, identity) in self.core.homes_mut().take_waiting(lobby) {
            if let Some(early) = self.seat_deferred(conn, Ok(identity)) {
                self.process_bytes(conn, &early, usize::MAX);
            }
        }
        // Released again if nobody was let in.
        self.core.directory.note_changed_lobby(lobby);
    }
}

impl Homes {
    fn write(&self) -> Vec<u8> {
        let text = |text: &SmolStr| text.to_string();
        let nodes = self.nodes.iter().map(|(node, info)| (node.0, text(&info.name), info.url.as_ref().map(text)));
        let lobbies = self.of_lobbies.iter().map(|(code, home)| (text(code), home.0)).collect();
        serde_json::to_vec(&State { nodes: nodes.collect(), lobbies }).expect("it can be written")
    }

    fn read(&mut self, state: &[u8]) -> serde_json::Result<()> {
        let State { nodes, lobbies } = serde_json::from_slice(state)?;
        let info = |name: String, url: Option<String>| NodeInfo { name: name.into(), url: url.map(SmolStr::from) };
        self.nodes = nodes.into_iter().map(|(node, name, url)| (Incarnation(node), info(name, url))).collect();
        self.of_lobbies = lobbies.into_iter().map(|(code, home)| (code.into(), Incarnation(home))).collect();
        Ok(())
    }
}

impl Core {
    pub(super) fn homes_mut(&mut self) -> &mut Homes {
        self.homes.as_mut().expect("the engine is a node with lobbies of its own")
    }

    fn homes_attached(&mut self, node: Incarnation, index: u64, state: Option<&[u8]>) {
        let homes = self.homes_mut();
        if let Some(state) = state
            && let Err(error) = homes.read(state)
        {
            return warn!("the state of the cluster cannot be read: {error}");
        }
        (homes.node, homes.index, homes.is_reachable) = (Some(node), index, true);
        info!("attached to the cluster as {node}, at entry {index}");
        self.claim_awaited();
        // The lobbies that this node has created while it was detached are nobody's yet.
        self.directory.note_all_lobbies();
        self.directory.set_code_salt(node.0);
    }

    /// Claims the lobbies that connections wait for, with the next batch. Those that are claimed already stay as they are.
    fn claim_awaited(&mut self) {
        let homes = self.homes_mut();
        let lobbies: BTreeSet<SmolStr> = homes.waiting.values().map(|(lobby, _)| lobby.clone()).collect();
        for lobby in lobbies {
            if homes.has_room() {
                homes.append(&Operation::Claim { lobby: &lobby });
            }
        }
    }

    /// Gives up all lobbies, because this node was detached: another node may be their home from now on.
    fn lose_homes(&mut self) {
        warn!("this node is no longer attached to the cluster: its members are asked to reconnect");
        let homes = self.homes_mut();
        let waiting = std::mem::take(&mut homes.waiting);
        **self.homes.as_mut().expect("a node") = Homes { waiting, ..Homes::default() };
        self.directory.set_code_salt(0);
        for conn in self.members_by_age() {
            self.begin_close(conn.key(), CloseReason::ForcedReconnect);
        }
        self.end_away_for_drain();
    }

    /// Closes a lobby that this node has created although it is another node's.
    fn give_up_lobby(&mut self, code: &str) {
        let Some(lobby) = self.directory.find_lobby(code) else { return };
        warn!("lobby={code} was created on two nodes at the same time: its members here go to the other one");
        let seats: Vec<_> = self.directory.all_seats_in(lobby).collect();
        let Home::At(url) = self.homes_mut().find(code, false) else { return };
        for seat in seats {
            match self.directory.conn_of(seat) {
                Some(conn) => self.redirect(conn.key(), url.as_deref()),
                None => self.end_away(seat, crate::base::close::LeaveReason::Dropped),
            }
        }
    }

    /// Returns where a client that is admitted finds its lobby. A new lobby, and an open one of a pool, is one of this node.
    pub(super) fn find_home(&self, requested: &RequestedLobby) -> Home {
        match (&self.homes, requested) {
            (Some(homes), RequestedLobby::Lobby(code)) => homes.find(code, self.directory.find_lobby(code).is_some()),
            _ => Home::Here,
        }
    }

    /// Sends a client whose request is deferred to the home of its lobby, or lets it wait until that is known. Returns what was
    /// passed in if its lobby is here.
    pub(super) fn wait_for_home(
        &mut self,
        key: ConnKey,
        pending: PendingAuth,
        identity: Identity,
    ) -> Option<(PendingAuth, Identity)> {
        match self.find_home(&pending.requested) {
            Home::Here => Some((pending, identity)),
            Home::At(url) => {
                if let Some(reservation) = pending.reservation {
                    self.directory.cancel(reservation, self.now());
                }
                self.accept_pending(key);
                self.redirect(key, url.as_deref());
                None
            }
            Home::Unknown => {
                let RequestedLobby::Lobby(code) = &pending.requested else {
                    unreachable!("only a lobby with a code has a home")
                };
                let (conn, lobby) = (self.conns[key].id, SmolStr::new(code));
                self.conns[key].state = ConnState::Pending(Some(Box::new(pending)));
                self.set_stage_deadline(key, self.config.auth_timeout);
                let homes = self.homes_mut();
                let is_first = homes.waiting.values().all(|(other, _)| *other != lobby);
                if is_first && homes.has_room() {
                    homes.append(&Operation::Claim { lobby: &lobby });
                }
                homes.waiting.insert(conn, (lobby, identity));
                None
            }
        }
    }

    fn execute_release(&mut self, node: Incarnation, lobby: &str) {
        let homes = self.homes_mut();
        if homes.of_lobbies.get(lobby) == Some(&node) {
            homes.of_lobbies.remove(lobby);
        }
        if homes.node == Some(node) {
            homes.releasing.remove(lobby);
        }
    }

    /// Claims lobbies that this node has created, and releases those that it has removed.
    #[cold]
    pub(in crate::engine) fn append_homes(&mut self) {
        let Core { directory, homes, .. } = self;
        let Some(homes) = homes else { return };
        for code in directory.take_changed_lobbies() {
            let is_own = homes.node.is_some() && homes.of_lobbies.get(&code).copied() == homes.node;
            let exists = directory.find_lobby(&code).is_some();
            let is_awaited = homes.waiting.values().any(|(other, _)| *other == code);
            if exists && !is_own {
                homes.append(&Operation::Claim { lobby: &code });
            } else if !exists && is_own && !is_awaited && homes.releasing.insert(code.clone()) {
                homes.append(&Operation::Release { lobby: &code });
            }
        }
    }
}

impl Homes {
    fn append(&mut self, operation: &Operation<'_>) {
        if self.node.is_some() {
            operation.write(&mut self.operations);
        }
    }
}
