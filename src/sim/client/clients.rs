//! All model clients of a run, each with its current connection.

use std::collections::BTreeMap;
use std::ops::Range;

use super::link::Link;
use super::player::Players;
use super::shared_state::SharedState;
use crate::base::id::ConnId;
use crate::base::random::Random;
use crate::base::time::Time;

/// The model clients of a run.
pub(crate) struct Clients {
    /// The clients' ends of the connections. An entry is free again once the client has read the end and the server has
    /// dropped the socket.
    pub(crate) links: Vec<Option<Link>>,
    /// Network of each connection of a run that claimed a session. Its seat may outlive it.
    networks: BTreeMap<ConnId, usize>,
    /// Number of connections that clients can have at a time. The links behind them are for POSTs.
    count: usize,
    /// Index into `links`, by the connection's index in the engine.
    link_of_conn: Vec<usize>,
    pub(crate) shared: SharedState,
    pub(crate) players: Option<Players>,
    /// Text, binary, ping and pong frames received on links that were removed.
    removed_frames: u64,
    /// `health_pong` messages sent on links that were removed.
    removed_health_pongs: u64,
}

impl Clients {
    /// Creates clients that can have `count` connections at a time, and as many for POSTs if they `may_post`.
    pub(crate) fn new(count: usize, may_post: bool, shared: SharedState, players: Option<Players>) -> Clients {
        Clients {
            count,
            links: (0..if may_post { 2 * count } else { count }).map(|_| None).collect(),
            networks: BTreeMap::new(),
            link_of_conn: Vec::new(),
            shared,
            players,
            removed_frames: 0,
            removed_health_pongs: 0,
        }
    }

    pub(crate) fn indices(&self) -> Range<usize> {
        0..self.links.len()
    }

    /// Returns all indices, beginning with `start`.
    pub(crate) fn indices_from(&self, start: usize) -> impl Iterator<Item = usize> + use<> {
        (start..self.links.len()).chain(0..start)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut().flatten()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Link> {
        self.links[index].as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Link> {
        self.links[index].as_mut()
    }

    /// Returns the link at `index`, which the caller knows to exist.
    pub(crate) fn link(&mut self, index: usize) -> &mut Link {
        self.link_and_shared(index).0
    }

    /// Returns the link at `index`, which the caller knows to exist, and the state that all clients share.
    pub(crate) fn link_and_shared(&mut self, index: usize) -> (&mut Link, &mut SharedState) {
        (self.links[index].as_mut().expect("the caller found the link"), &mut self.shared)
    }

    /// Draws a link that `fits`: the first one from a random index on.
    pub(crate) fn pick(&self, random: &mut Random, fits: impl Fn(&Link) -> bool) -> Option<usize> {
        let start = random.below(self.links.len() as u64) as usize;
        self.indices_from(start).find(|&index| self.get(index).is_some_and(&fits))
    }

    pub(crate) fn free_index(&self) -> Option<usize> {
        (0..self.count).find(|&index| self.links[index].is_none())
    }

    /// Returns the index of a free link for POSTs.
    pub(crate) fn free_post_index(&self) -> Option<usize> {
        (self.count..self.links.len()).find(|&index| self.links[index].is_none())
    }

    /// Adds a link at a free index.
    pub(crate) fn insert(&mut self, index: usize, conn: ConnId, link: Link) {
        if conn.index() >= self.link_of_conn.len() {
            self.link_of_conn.resize(conn.index() + 1, usize::MAX);
        }
        self.link_of_conn[conn.index()] = index;
        if link.view.session.is_some() {
            self.networks.insert(conn, link.network);
        }
        self.links[index] = Some(link);
    }

    pub(crate) fn remove(&mut self, index: usize) {
        if let Some(mut link) = self.links[index].take() {
            link.leave_session(&mut self.shared);
            self.removed_frames += link.frames;
            self.removed_health_pongs += link.health_pongs;
        }
    }

    /// Returns the network for which a seat of the connection counts.
    pub(crate) fn network_of(&self, conn: ConnId) -> Option<usize> {
        let link = self.index_of(conn).and_then(|index| self.get(index));
        link.map(|link| link.network).or_else(|| self.networks.get(&conn).copied())
    }

    pub(crate) fn index_of(&self, conn: ConnId) -> Option<usize> {
        let index = *self.link_of_conn.get(conn.index())?;
        self.links.get(index)?.as_ref().filter(|link| link.conn == Some(conn)).map(|_| index)
    }

    /// The connection that speaks for the session `index` gives way to another one. Returns its index, if the client still
    /// reads.
    pub(crate) fn supersede(&mut self, index: usize) -> Option<usize> {
        let number = self.shared.sessions.all[index].link;
        let at = self.indices().find(|&at| self.get(at).is_some_and(|link| link.number == number))?;
        let (link, shared) = self.link_and_shared(at);
        link.leave_session(shared);
        link.pipe.is_client_reading().then_some(at)
    }

    /// Returns the number of connections of `user` so far.
    pub(crate) fn connections_of(&self, user: usize) -> usize {
        self.shared.link_users.iter().filter(|&&other| other == user).count()
    }

    /// Whether a connection was reported to have unread input, so that its timers may be deferred.
    pub(crate) fn has_unread(&self) -> bool {
        self.iter().any(|link| link.unread_turns > 0)
    }

    /// Returns the time of the next scheduled retry.
    pub(crate) fn next_retry(&self) -> Option<Time> {
        let waiting = self.iter().filter_map(|link| link.retry);
        waiting.filter(|retry| retry.retried.is_none()).map(|retry| retry.until).min()
    }

    /// Returns the number of text, binary, ping and pong frames received in the run.
    pub(crate) fn frames_received(&self) -> u64 {
        self.removed_frames + self.iter().map(|link| link.frames).sum::<u64>()
    }

    /// Returns the number of `health_pong` messages sent in the run.
    pub(crate) fn health_pongs(&self) -> u64 {
        self.removed_health_pongs + self.iter().map(|link| link.health_pongs).sum::<u64>()
    }
}
