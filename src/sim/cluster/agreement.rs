//! What must hold among the nodes while they run, and for all nodes and pages when the faults have stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use super::node::Node;
use super::page::Connection;
use super::redis::UNIX;
use super::world::World;
use crate::base::time::Time;
use crate::client::State;
use crate::cluster::log::Incarnation;
use crate::config::{DuplicateLogin, Limit};

/// Longest time without faults, in microseconds, until everything agrees.
const CALM: u64 = 120_000_000;
/// Longest time, in microseconds, in which something is always on the way between a node and Redis. Pages that are refused again and
/// again do not let a cluster rest for long.
const BUSY: u64 = 40_000_000;
/// Longest time, in microseconds, in which a page that connects is answered.
const PATIENCE: u64 = 5_000_000;

/// Largest error of the clock of a node, in microseconds.
const CLOCK_SKEW: u64 = 2_200_000;

/// Number of entries whose states are known.
const KEPT: usize = 500;

/// Whether the page has connected a moment ago, and may be refused again.
fn is_asking(conn: &Connection, now: u64) -> bool {
    !conn.is_welcome && now < conn.heard_at + PATIENCE
}

impl World {
    /// Compares the state of a node with that of the others as of the same entry.
    pub(super) fn compare(&mut self, at: usize, index: u64, hash: [u8; 16]) -> Result<(), String> {
        let Some(engine) = &self.nodes[at].engine else { return Ok(()) };
        let state = engine.shared_state();
        match self.history.states.get(&(index, hash)) {
            None => drop(self.history.states.insert((index, hash), (at, state))),
            Some((_, known)) if *known == state => {}
            Some((other, known)) => {
                let differs = known.lines().zip(state.lines()).find(|(one, two)| one != two);
                let (one, two) = differs.unwrap_or((known, &state));
                return Err(format!(
                    "node{other} and node{at} differ after entry {index}:\n  node{other}: {one}\n  node{at}: {two}"
                ));
            }
        }
        if self.history.states.len() > KEPT {
            // A node that is far behind is compared with the others again when it has caught up.
            self.history.states.pop_first();
        }
        self.check_limits(at)?;
        if self.history.tips.insert(index, hash).is_some_and(|known| known != hash) {
            self.history.tips.split_off(&(index + 1));
            self.note_fork(format!("node{at} executes another entry {index} than a node before"))?;
        }
        if self.history.tips.len() > KEPT {
            self.history.tips.pop_first();
        }
        Ok(())
    }

    /// The limits are those of the whole cluster.
    fn check_limits(&mut self, at: usize) -> Result<(), String> {
        let Some(engine) = &self.nodes[at].engine else { return Ok(()) };
        let seats = engine.seats_in_cluster();
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        seats.iter().for_each(|seat| *users.entry(&seat.user).or_default() += 1);
        let lobbies = engine.lobbies(None, usize::MAX).items;
        let members = lobbies.iter().map(|lobby| lobby.members).max().unwrap_or(0);
        let most = users.values().copied().max().unwrap_or(0);
        let per_user = match self.config.duplicate_login {
            DuplicateLogin::Allow => self.config.max_per_user,
            DuplicateLogin::Replace | DuplicateLogin::Reject => Limit::at_most(1),
        };
        for (what, count, limit, full) in [
            ("connections", seats.len(), self.config.max_connections, "the cluster was full"),
            ("lobbies", lobbies.len(), self.config.max_lobbies, "there were as many lobbies as possible"),
            ("members of a lobby", members, self.config.max_per_lobby, "a lobby was full"),
            ("seats of a user", most, per_user, "a user had as many seats as possible"),
        ] {
            let Some(bound) = limit.bound().map(|bound| bound as usize) else { continue };
            if count > bound {
                return Err(format!("node{at} has {count} {what}; the limit is {bound}"));
            }
            if count == bound {
                self.books.count(full);
            }
        }
        Ok(())
    }

    /// The log begins anew after this entry.
    pub(super) fn note_founded(&mut self, at: usize, index: u64) -> Result<(), String> {
        if self.swarm.has_anchor && at != 0 && self.nodes[0].place.is_some() {
            return Err("the log begins anew although node0 has its state".to_owned());
        }
        self.history.founded_at = self.now;
        if self.history.tips.last_key_value().is_some_and(|(&last, _)| last > index) {
            self.history.tips.clear();
            self.note_fork(format!("the log begins anew after entry {index}, of which a node has later ones"))?;
        }
        Ok(())
    }

    /// A node has lost its place. It goes on with members that have to come back.
    pub(super) fn note_detached(&self, at: usize) -> Result<(), String> {
        if self.swarm.has_anchor && at == 0 {
            return Err("node0 has lost its place, although it has no faults".to_owned());
        }
        Ok(())
    }

    /// Nodes have executed entries that are no part of the log any more.
    fn note_fork(&mut self, why: String) -> Result<(), String> {
        if self.swarm.has_anchor && self.nodes[0].place.is_some() {
            return Err(format!("{why}, although node0 could restore all"));
        }
        self.trace.note(self.now, || format!("a fork: {why}"));
        self.history.forked_at = self.now;
        self.books.note_fork(self.now);
        self.pages.iter_mut().for_each(|page| page.is_forked = true);
        Ok(())
    }

    /// Runs without faults until nothing happens any more, and checks that all agree.
    pub(super) fn converge(&mut self) -> Result<(), String> {
        self.calm();
        for at in 0..self.pages.len() {
            // The network is back.
            self.pages[at].session.wake(Time::from_micros(self.now), true);
            self.drive(at)?;
        }
        let start = self.now;
        let quiet_from =
            start + (self.config.seat_grace + self.config.ping_interval * 2).as_micros() as u64 + 20_000_000;
        loop {
            self.trace.step += 1;
            let span = self.wait(Duration::from_millis(200)).as_micros() as u64;
            self.advance(span.max(1_000))?;
            for at in 0..self.nodes.len() {
                self.run_node(at)?;
            }
            self.run_timers()?;
            self.read_all()?;
            let now = self.now;
            let (nodes, redis) = (self.nodes.iter_mut(), &self.redis);
            nodes.filter(|node| node.is_idle(redis)).for_each(|node| node.idle_at = now);
            let is_waiting = self.pages.iter().any(|page| page.conn.is_none() || !page.is_quiet());
            let is_waiting = is_waiting || self.nodes.iter().any(|node| !node.asked.is_empty());
            if self.now >= quiet_from && !is_waiting && self.living().all(|node| node.is_idle(&self.redis)) {
                break;
            }
            if self.now > start + CALM {
                return self.not_settled();
            }
        }
        self.check_seats()?;
        self.check_views()?;
        self.books.check()
    }

    /// The nodes that are there, or come back.
    fn living(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.is_gone())
    }

    fn not_settled(&self) -> Result<(), String> {
        let node = self.living().find(|node| node.idle_at + BUSY < self.now);
        let page = self.pages.iter().find(|page| page.conn.is_none() || !page.is_quiet());
        Err(match (node, page) {
            (Some(node), _) => format!("node{} does not come to rest: {:?}", node.number, node.place),
            (None, None) => "an operator is never answered".to_owned(),
            // A page that is refused for ever waits for ever, or has just come again.
            (None, Some(page)) if page.conn.as_ref().is_none_or(|conn| is_asking(conn, self.now)) => return Ok(()),
            (None, page) => format!("the page of {:?} is never answered", page.map(|page| &page.name)),
        })
    }

    /// Every seat has a connection on the node that holds it, and there are no others.
    fn check_seats(&self) -> Result<(), String> {
        if let Some(node) = self.nodes.iter().find(|node| node.is_alone) {
            let stats = node.engine.as_ref().ok_or("the server is not running")?.stats();
            let is_member = |page: &&super::page::Page| page.conn.as_ref().is_some_and(|conn| conn.is_welcome);
            let members = self.pages.iter().filter(is_member).count();
            return if (stats.total_connections, stats.away) == (members, 0) {
                Ok(())
            } else {
                Err(format!("{members} pages are members, and the server says {stats:?}"))
            };
        }
        let living: Vec<Incarnation> = self.living().filter_map(|node| node.place).collect();
        let mut held: BTreeMap<Incarnation, usize> = BTreeMap::new();
        for node in self.living() {
            let engine = node.engine.as_ref().ok_or("a node is not running")?;
            for seat in engine.seats_in_cluster() {
                if !living.contains(&seat.node) {
                    return Err(format!(
                        "the seat {} of {} is held by {}, which has ended",
                        seat.id, seat.user, seat.node
                    ));
                }
                if seat.is_away {
                    return Err(format!("the seat {} of {} is away", seat.id, seat.user));
                }
                if seat.is_here != (Some(seat.node) == node.place) {
                    return Err(format!(
                        "the seat {} of {} is not where node{} has it",
                        seat.id, seat.user, node.number
                    ));
                }
                *held.entry(seat.node).or_insert(0) += usize::from(seat.is_here);
            }
        }
        for node in self.living() {
            let seats = node.place.and_then(|it| held.get(&it)).copied().unwrap_or(0);
            let is_member = |id: u64| {
                let of = |page: &super::page::Page| page.conn.as_ref().is_some_and(|it| it.wire == id && it.is_welcome);
                self.pages.iter().any(of)
            };
            let conns = node.wires().filter(|&(_, wire)| is_member(wire)).count();
            if conns != seats {
                return Err(format!("node{} has {conns} connections of members, and {seats} seats", node.number));
            }
        }
        Ok(())
    }

    /// The session knows the time of its node. How exactly follows from its round trip.
    fn check_clock(&self, page: &super::page::Page) -> Result<(), String> {
        let Some(latency) = page.session.latency() else { return Ok(()) };
        let told = page.session.now(Time::from_micros(self.now)).ok_or("a latency, and no time")?;
        let bound = (CLOCK_SKEW + latency.as_micros() as u64 / 2) / 1000;
        let truth = (UNIX + self.now) / 1000;
        if told.abs_diff(truth) <= bound {
            return Ok(());
        }
        Err(format!("{} says that it is {told} with a latency of {latency:?}, and it is {truth}", page.name))
    }

    /// Every page knows the members of its lobby, and has read everything. Pages in the same lobby know the same of it.
    fn check_views(&self) -> Result<(), String> {
        let mut controls = BTreeMap::new();
        for page in self.pages.iter().filter(|page| page.conn.as_ref().is_some_and(|conn| conn.is_welcome)) {
            let (epoch, position) =
                page.epoch_and_position().ok_or_else(|| format!("{} has no position", page.name))?;
            let session = &page.session;
            let host = session.host().map(|host| host.conn());
            let control = (session.data(), session.settings(), host, session.countdown());
            let (name, other) = *controls.entry(epoch).or_insert((&page.name, control));
            if session.state() != State::Open || control != other {
                return Err(format!(
                    "{} is {:?} and knows {control:?}, and {name} knows {other:?}",
                    page.name,
                    session.state()
                ));
            }
            self.check_clock(page)?;
            for node in self.living() {
                let engine = node.engine.as_ref().ok_or("a node is not running")?;
                let (true_epoch, seq, members) = engine.lobby_state(&epoch.0).ok_or_else(|| {
                    format!("node{} has no lobby {}, in which {} is", node.number, epoch.0, page.name)
                })?;
                let truth: BTreeMap<String, (String, bool)> =
                    members.map(|(user, seat, _, is_away)| (seat.to_string(), (user.to_owned(), is_away))).collect();
                if true_epoch != epoch.1 || (seq != position && !self.books.sends_quietly(page.book)) {
                    return Err(format!("{} is at {position} of {epoch:?}, node{} at {seq}", page.name, node.number));
                }
                if let Some(known) = page.members().filter(|known| *known != truth) {
                    return Err(format!("{} knows {known:?}, and node{} has {truth:?}", page.name, node.number));
                }
            }
        }
        Ok(())
    }
}
