//! What must hold among the nodes while they run, and for all nodes and pages when the faults have stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::World;
use crate::cluster::log::Incarnation;

/// Longest time without faults, in microseconds, until everything agrees.
const CALM: u64 = 120_000_000;

impl World {
    /// Compares the state of a node with that of the others as of the same entry.
    pub(super) fn compare(&mut self, at: usize) -> Result<(), String> {
        let node = &self.nodes[at];
        let (Some(index), Some(engine)) = (node.index(), &node.engine) else { return Ok(()) };
        // The node with which the log begins anew has no state of the entries before.
        if index < self.log.founded() {
            return Ok(());
        }
        let state = engine.shared_state();
        match self.states.get(&index) {
            None => drop(self.states.insert(index, (at, state))),
            Some((_, known)) if *known == state => {}
            Some((other, known)) => {
                let differs = known.lines().zip(state.lines()).find(|(one, two)| one != two);
                let (one, two) = differs.unwrap_or((known, &state));
                return Err(format!(
                    "node{other} and node{at} differ after entry {index}:\n  node{other}: {one}\n  node{at}: {two}"
                ));
            }
        }
        if self.states.len() > 500 {
            // A node that is far behind is compared with the others again when it has caught up.
            self.states.pop_first();
        }
        Ok(())
    }

    /// Runs without faults until nothing happens any more, and checks that all agree.
    pub(super) fn converge(&mut self) -> Result<(), String> {
        self.calm();
        let start = self.now;
        let quiet_from =
            start + (self.config.seat_grace + self.config.ping_interval * 2).as_micros() as u64 + 20_000_000;
        loop {
            self.trace.step += 1;
            let span = self.wait(Duration::from_millis(200)).as_micros() as u64;
            self.advance(span.max(1_000));
            for at in 0..self.nodes.len() {
                self.run_node(at)?;
            }
            for at in 0..self.pages.len() {
                if self.pages[at].conn.is_none() && !self.pages[at].is_over && self.pages[at].retry_at <= self.now {
                    self.connect(at)?;
                }
            }
            self.read_all()?;
            let is_waiting = self.pages.iter().any(|page| page.conn.is_none() || !page.is_quiet());
            if self.now >= quiet_from && !is_waiting && self.nodes.iter().all(|node| node.is_idle(&self.log)) {
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

    fn not_settled(&self) -> Result<(), String> {
        let node = self.nodes.iter().find(|node| !node.is_idle(&self.log));
        let page = self.pages.iter().find(|page| page.conn.is_none() || !page.is_quiet());
        Err(match (node, page) {
            (Some(node), _) => format!("node{} does not come to rest: {:?}", node.number, node.place()),
            // A page that is refused for ever waits for ever.
            (None, Some(page)) if page.conn.is_none() => return Ok(()),
            (None, page) => format!("the page of {:?} is never answered", page.map(|page| &page.name)),
        })
    }

    /// Every seat has a connection on the node that holds it, and there are no others.
    fn check_seats(&self) -> Result<(), String> {
        let living: Vec<Incarnation> = self.nodes.iter().filter_map(|node| node.incarnation()).collect();
        let mut held: BTreeMap<Incarnation, usize> = BTreeMap::new();
        for node in &self.nodes {
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
                if seat.is_here != (Some(seat.node) == node.incarnation()) {
                    return Err(format!(
                        "the seat {} of {} is not where node{} has it",
                        seat.id, seat.user, node.number
                    ));
                }
                *held.entry(seat.node).or_insert(0) += usize::from(seat.is_here);
            }
        }
        for node in &self.nodes {
            let seats = node.incarnation().and_then(|it| held.get(&it)).copied().unwrap_or(0);
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

    /// Every page knows the members of its lobby, and has read everything.
    fn check_views(&self) -> Result<(), String> {
        for page in self.pages.iter().filter(|page| page.conn.as_ref().is_some_and(|conn| conn.is_welcome)) {
            let (epoch, position) =
                page.epoch_and_position().ok_or_else(|| format!("{} has no position", page.name))?;
            for node in &self.nodes {
                let engine = node.engine.as_ref().ok_or("a node is not running")?;
                let (true_epoch, seq, members) = engine.lobby_state(&epoch.0).ok_or_else(|| {
                    format!("node{} has no lobby {}, in which {} is", node.number, epoch.0, page.name)
                })?;
                let truth: BTreeMap<String, (String, bool)> =
                    members.map(|(user, seat, _, is_away)| (seat.to_string(), (user.to_owned(), is_away))).collect();
                if true_epoch != epoch.1 || (seq != position && !self.books.sends_quietly(page.book)) {
                    return Err(format!("{} is at {position} of {epoch:?}, node{} at {seq}", page.name, node.number));
                }
                if page.view.as_ref().is_some_and(|view| *view != truth) {
                    let view = &page.view;
                    return Err(format!("{} knows {view:?}, and node{} has {truth:?}", page.name, node.number));
                }
            }
        }
        Ok(())
    }
}
