//! The faults of a run: of nodes, of their links to Redis, and of Redis.

use super::node::NEVER;
use super::world::World;

impl World {
    /// Draws what fails in this step.
    pub(super) fn inject(&mut self) {
        for at in usize::from(self.swarm.has_anchor)..self.nodes.len() {
            if self.nodes[at].engine.is_some() {
                self.disturb_node(at);
            }
        }
        self.disturb_redis();
    }

    fn disturb_node(&mut self, at: usize) {
        let faults = self.swarm.faults.clone();
        let now = self.now;
        let mut draw = self.random.below(10_000);
        let mut happens = |rate: u64| {
            let does = draw < rate;
            draw = if does { u64::MAX } else { draw - rate };
            does
        };
        if happens(faults.kill) {
            // The others end a node that does not come back when its lease has expired.
            let is_gone = at != 0 && self.random.percent(15);
            let until = if is_gone { NEVER } else { now + self.random.below(8_000_000) };
            self.trace.note(now, || format!("node{at} is killed until {until}"));
            self.nodes[at].kill(now, &mut self.redis, &mut self.wires, until);
            self.books.count("nodes killed");
            if self.nodes[at].is_alone {
                self.history.founded_at = now;
                self.books.all_broken(now);
            }
        } else if happens(faults.pause) {
            let until = now + self.random.below(13_000_000);
            self.trace.note(now, || format!("node{at} is paused until {until}"));
            let node = &mut self.nodes[at];
            node.paused_until = node.paused_until.max(until);
            node.note_fault(now, until);
            self.books.count("nodes paused");
        } else if happens(faults.cut) {
            let until = now + self.random.below(9_000_000);
            let is_silent = self.random.percent(40);
            self.trace.note(now, || format!("the link of node{at} is cut until {until}, silent: {is_silent}"));
            let node = &mut self.nodes[at];
            node.note_fault(now, until);
            if is_silent {
                node.silent_until = node.silent_until.max(until);
            } else {
                node.cut_until = node.cut_until.max(until);
                node.drop_connection(now, &mut self.redis);
            }
            self.books.count("links cut");
        } else if happens(faults.reset) {
            self.trace.note(now, || format!("the connection of node{at} to Redis is reset"));
            self.nodes[at].note_fault(now, now);
            self.nodes[at].drop_connection(now, &mut self.redis);
            self.books.count("links reset");
        }
    }

    fn disturb_redis(&mut self) {
        let faults = self.swarm.faults.clone();
        let now = self.now;
        if self.random.below(100) < 3 {
            self.redis.note_copy(now);
        }
        let draw = self.random.below(10_000);
        if self.redis.is_out(now) {
            return;
        }
        if draw < faults.stop {
            let until = now + self.random.below(12_000_000);
            self.trace.note(now, || format!("Redis is stopped until {until}"));
            self.redis.stop(until);
            self.nodes.iter_mut().for_each(|node| node.note_fault(now, until));
            self.books.count("Redis stopped");
        } else if draw < faults.stop + faults.fail_over {
            self.fail_over();
        } else if draw < faults.stop + faults.fail_over + faults.disturb {
            let what = self.redis.disturb(&mut self.random);
            self.trace.note(now, || what.to_owned());
            self.books.count(what);
            self.nodes.iter_mut().for_each(|node| node.note_fault(now, now));
        }
    }

    /// Another Redis takes over, which may lack the last entries. If a node has no faults, then only if it can give them back.
    fn fail_over(&mut self) {
        let now = self.now;
        let copy = self.redis.draw_copy(&mut self.random);
        let anchor = &self.nodes[0];
        if self.swarm.has_anchor && !(anchor.knows_all(&self.redis) && anchor.could_restore(copy.last())) {
            return;
        }
        let until = now + self.random.below(3_000_000);
        let (had, has) = (self.redis.last().0, copy.last().0);
        self.trace.note(now, || format!("another Redis takes over at {until}, with {has} of {had} entries"));
        self.redis.fail_over(until, copy, &mut self.random);
        self.nodes.iter_mut().for_each(|node| node.note_fault(now, until));
        self.books.count(match has {
            0 => "Redis emptied",
            _ if has < had => "failovers with a loss",
            _ => "failovers",
        });
    }

    /// Ends all faults.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        self.redis.calm();
        let now = self.now;
        for node in &mut self.nodes {
            (node.paused_until, node.cut_until, node.silent_until) = (0, 0, 0);
            node.restart_at = if node.is_gone() { NEVER } else { 0 };
            node.well_since = node.well_since.min(now);
        }
        for wire in self.wires.values_mut() {
            wire.stalled_until = wire.stalled_until.min(now);
            wire.is_ended |= wire.late.take().is_some();
        }
    }
}
