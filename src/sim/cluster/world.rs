//! The state of a run: nodes, log, connections, pages and books.

use std::collections::BTreeMap;
use std::time::Duration;

use super::books::Books;
use super::history::History;
use super::link::Passed;
use super::node::{Node, Turn, Wire, WireId};
use super::page::{Event, Page, Step};
use super::redis::{MAX_SKEW, Redis};
use super::swarm::Swarm;
use super::trace::Trace;
use crate::base::close::CloseReason;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::client::Attempt;
use crate::config::{CheckedConfig, DuplicateLogin};
use crate::sim::transcript::{EventKind, NO_CLIENT, Transcript};

/// Silence after which a page asks whether its connection lives, in microseconds, and the range of what follows it.
const PATIENCE: (u64, u64) = (3_000_000, 5_000_000);
/// Within this time a late attempt reaches its node, in microseconds.
const LATE: u64 = 12_000_000;
/// While more time than this passes, links go on, in microseconds.
const LINK_TURN: u64 = 50_000;
/// Most bytes that move between a node and Redis in a turn without faults.
const ALL: usize = usize::MAX;

pub(super) struct World {
    pub(super) random: Random,
    pub(super) config: CheckedConfig,
    pub(super) swarm: Swarm,
    /// Time of the run, in microseconds.
    pub(super) now: u64,
    pub(super) redis: Redis,
    pub(super) nodes: Vec<Node>,
    pub(super) wires: BTreeMap<WireId, Wire>,
    pub(super) users: Vec<String>,
    pub(super) pages: Vec<Page>,
    pub(super) books: Books,
    pub(super) trace: Trace,
    pub(super) transcript: Transcript,
    pub(super) closes: Vec<CloseReason>,
    /// What the nodes have executed.
    pub(super) history: History,
    pub(super) is_calm: bool,
    pub(super) last_wire: WireId,
    last_message: u64,
    pub(super) bytes: u64,
    pub(super) messages: u64,
}

impl World {
    pub(super) fn new(seed: u64, clients: usize, is_alone: bool, is_traced: bool) -> World {
        let mut random = Random::new(seed);
        let swarm = Swarm::draw(&mut random, clients);
        let swarm = if is_alone { swarm.alone() } else { swarm };
        let config = swarm.config(&mut random).check().unwrap_or_else(|problems| panic!("seed {seed}: {problems}"));
        let users: Vec<String> = (0..swarm.users).map(|user| format!("user{user}")).collect();
        let books = Books::new(&users, &config);
        let mut world = World {
            nodes: (0..swarm.nodes).map(|number| Node::new(number, is_alone)).collect(),
            redis: Redis::new(),
            wires: BTreeMap::new(),
            pages: Vec::new(),
            trace: Trace::new(is_traced),
            transcript: Transcript::new(seed),
            closes: Vec::new(),
            history: History::default(),
            now: 0,
            is_calm: false,
            last_wire: 0,
            last_message: 0,
            bytes: 0,
            messages: 0,
            random,
            config,
            swarm,
            users,
            books,
        };
        for node in &mut world.nodes {
            node.start(0, &world.config, &mut world.random);
        }
        world
    }

    /// Runs one step with faults.
    pub(super) fn step(&mut self) -> Result<(), String> {
        let span = match self.random.below(100) {
            0 => self.random.below(3_000_000),
            1..=10 => self.random.below(150_000),
            _ => self.random.below(4_000),
        };
        self.advance(span)?;
        self.run_timers()?;
        self.pass_late_attempts();
        self.inject();
        for at in 0..self.nodes.len() {
            if self.random.percent(60) {
                self.run_node(at)?;
            }
        }
        for _ in 0..1 + self.random.below(3) {
            self.act()?;
        }
        if self.random.below(1000) < self.swarm.commands {
            self.operate()?;
        }
        self.read_all()
    }

    /// Lets time pass. No node loses its lease by that alone: its link goes on.
    pub(super) fn advance(&mut self, mut span: u64) -> Result<(), String> {
        self.transcript.step = self.trace.step;
        while span > LINK_TURN {
            self.now += LINK_TURN;
            span -= LINK_TURN;
            self.redis.set_time(self.now);
            for at in 0..self.nodes.len() {
                self.pump(at, ALL)?;
            }
        }
        self.now += span;
        self.redis.set_time(self.now);
        self.books.set_time(self.now);
        Ok(())
    }

    /// A turn of a node, and what its link does before and afterwards.
    pub(super) fn run_node(&mut self, at: usize) -> Result<(), String> {
        let now = self.now;
        let node = &mut self.nodes[at];
        if node.engine.is_none() && node.restart_at <= now {
            node.start(now, &self.config, &mut self.random);
            self.trace.note(now, || format!("node{at} starts"));
        }
        let chunk = self.draw_chunk();
        self.pump(at, chunk)?;
        let mut run = Turn {
            wires: &mut self.wires,
            random: &mut self.random,
            trace: &mut self.trace,
            closes: &mut self.closes,
            is_calm: self.is_calm,
        };
        self.nodes[at].turn(now, &mut run);
        if self.nodes[at].is_running(now) {
            self.read_reports(at)?;
        }
        if self.is_calm || self.random.percent(70) {
            self.pump(at, ALL)?;
        }
        if self.nodes[at].is_running(now) {
            self.nodes[at].engine.as_ref().expect("it runs").check();
        }
        Ok(())
    }

    fn draw_chunk(&mut self) -> usize {
        if self.is_calm || self.random.percent(70) { ALL } else { 1 + self.random.below(400) as usize }
    }

    /// Moves bytes between a node and Redis, and passes on what arrives. The states of all nodes are compared after each entry.
    fn pump(&mut self, at: usize, chunk: usize) -> Result<(), String> {
        let now = self.now;
        self.nodes[at].pump(now, &mut self.redis, chunk);
        while let Some(passed) = self.nodes[at].pass_input(now, &mut self.trace)? {
            match passed {
                Passed::Attached { is_first: true, index } => self.note_founded(at, index)?,
                Passed::Detached => self.note_detached(at)?,
                Passed::Entry(index, Some(hash)) => self.compare(at, index, hash)?,
                Passed::Attached { .. } | Passed::Entry(_, None) | Passed::Other => {}
            }
        }
        Ok(())
    }

    // ---- pages ----

    fn act(&mut self) -> Result<(), String> {
        let user = self.random.below(self.users.len() as u64) as usize;
        let pages: Vec<usize> = (0..self.pages.len()).filter(|&at| self.pages[at].user == user).collect();
        let is_second = !pages.is_empty() && self.random.percent(self.swarm.second_pages);
        if pages.is_empty() || is_second {
            return if self.random.percent(50) { self.open_page(user) } else { Ok(()) };
        }
        let at = pages[self.random.below(pages.len() as u64) as usize];
        match &self.pages[at].conn {
            Some(_) => self.use_connection(at),
            // Requests wait for the connection.
            None if self.random.percent(5) && self.pages[at].may_request() => self.ask(at),
            None => Ok(()),
        }
    }

    fn open_page(&mut self, user: usize) -> Result<(), String> {
        let book = self.books.open(user);
        let of_user = |page: &&Page| page.user == user && !page.is_over();
        let was = self.pages.iter().find(of_user).map(|page| page.session.name().to_owned());
        let was = was.filter(|_| self.random.percent(30));
        let place = self.swarm.place(&mut self.random);
        let mut page = Page::new((user, &self.users[user]), &place, was, book, &mut self.random);
        page.session.connect(Time::from_micros(self.now));
        self.pages.push(page);
        self.drive(self.pages.len() - 1)
    }

    /// Other pages of a user may lose their session from now on.
    fn disturb(&mut self, user: usize, except: usize) {
        let others = self.pages.iter_mut().enumerate().filter(|(at, page)| *at != except && page.user == user);
        others.for_each(|(_, page)| page.is_disturbed = true);
    }

    /// Runs the timers of all pages.
    pub(super) fn run_timers(&mut self) -> Result<(), String> {
        for at in 0..self.pages.len() {
            self.pages[at].run_timers(self.now);
            self.drive(at)?;
        }
        Ok(())
    }

    /// Does what the session of a page asks for.
    pub(super) fn drive(&mut self, at: usize) -> Result<(), String> {
        while let Some(step) = self.pages[at].next_step(&mut self.books)? {
            match step {
                Step::Connect(attempt) => self.connect(at, &attempt)?,
                Step::Send(message) => self.send(at, &message),
                Step::Close(message) => {
                    self.send(at, &message);
                    self.lose(at, "its session closes it");
                }
            }
        }
        self.pages[at].poll_events(self.now, &mut self.books)
    }

    fn connect(&mut self, at: usize, attempt: &Attempt) -> Result<(), String> {
        // Without faults a balancer knows which nodes are gone.
        let is_known = |at: &usize| !self.is_calm || !self.nodes[*at].is_gone();
        let known: Vec<usize> = (0..self.nodes.len()).filter(is_known).collect();
        let node = known[self.random.below(known.len() as u64) as usize];
        if self.nodes[node].engine.is_none() {
            self.pages[at].session.handle_failed(Time::from_micros(self.now), attempt.id(), "no_connection");
            return Ok(());
        }
        self.last_wire += 1;
        let id = self.last_wire;
        let request = self.pages[at].connect(self.now, (id, node), attempt)?;
        self.trace.note(self.now, || {
            let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
            format!("wire {id} to node{node}: {line}")
        });
        let is_late = !self.is_calm && self.random.below(1000) < self.swarm.faults.late;
        let late = is_late.then(|| (node, self.now + self.random.below(LATE)));
        self.wires.insert(id, Wire { to_server: request, late, ..Wire::default() });
        if late.is_none() {
            self.nodes[node].open(id);
        }
        self.disturb(self.pages[at].user, at);
        Ok(())
    }

    /// Lets the attempts reach their nodes that were on their way for long. Their clients may have been let in meanwhile.
    fn pass_late_attempts(&mut self) {
        for (&id, wire) in &mut self.wires {
            let Some((node, _)) = wire.late.take_if(|(_, at)| *at <= self.now) else { continue };
            if self.nodes[node].engine.is_none() {
                wire.is_ended = true;
                continue;
            }
            self.nodes[node].open(id);
            if wire.is_dropped {
                self.books.count("late attempts");
                self.trace.note(self.now, || format!("wire {id} reaches node{node} late"));
            }
        }
    }

    fn use_connection(&mut self, at: usize) -> Result<(), String> {
        let conn = self.pages[at].conn.as_ref().expect("the page has a connection");
        let (wire, silence) = (conn.wire, self.now.saturating_sub(conn.heard_at));
        let is_ended = self.wires.get(&wire).is_none_or(|it| it.is_ended && it.to_client.is_empty());
        if is_ended {
            self.lose(at, "it has ended");
            return self.drive(at);
        }
        if self.wires.get(&wire).is_some_and(|it| it.late.is_some()) && self.random.percent(10) {
            self.lose(at, "its network does not answer");
            return self.drive(at);
        }
        if silence > PATIENCE.0 && self.random.below(PATIENCE.1) < 500_000 {
            // Its user comes to the front, and sees nothing happen.
            self.pages[at].session.wake(Time::from_micros(self.now), false);
            self.drive(at)?;
        }
        let faults = &self.swarm.faults;
        let (drops, vanishes, stalls) = (faults.drop, faults.vanish, faults.stall);
        if !self.is_calm {
            if self.random.below(1000) < drops {
                self.lose(at, "its network fails");
                return self.drive(at);
            }
            if self.random.below(1000) < vanishes {
                self.wires.get_mut(&wire).expect("it is open").is_vanished = true;
                self.lose(at, "it vanishes");
                return self.drive(at);
            }
            if self.random.below(1000) < stalls {
                let until = self.now + self.random.below(3_000_000);
                self.wires.get_mut(&wire).expect("it is open").stalled_until = until;
            }
        }
        if self.pages[at].is_ready() && self.pages[at].may_request() { self.ask(at) } else { Ok(()) }
    }

    /// Ends a connection from the page's side.
    pub(super) fn lose(&mut self, at: usize, why: &str) {
        let page = &mut self.pages[at];
        let Some(conn) = &page.conn else { return };
        let wire = conn.wire;
        self.trace.note(self.now, || format!("wire {wire} of {} is closed: {why}", page.name));
        self.drop_wire(wire);
        self.pages[at].disconnected(self.now);
    }

    fn drop_wire(&mut self, wire: WireId) {
        if let Some(wire) = self.wires.get_mut(&wire) {
            wire.is_dropped = true;
            wire.to_client.clear();
        }
    }

    pub(super) fn send(&mut self, at: usize, message: &[u8]) {
        let Some(conn) = &self.pages[at].conn else { return };
        self.send_on(conn.wire, message);
    }

    fn send_on(&mut self, wire: WireId, message: &[u8]) {
        if let Some(wire) = self.wires.get_mut(&wire)
            && !wire.is_ended
        {
            self.bytes += message.len() as u64;
            wire.to_server.extend(message);
        }
    }

    pub(super) fn next_message(&mut self) -> u64 {
        self.last_message += 1;
        self.last_message
    }

    /// Lets the pages read what has arrived.
    pub(super) fn read_all(&mut self) -> Result<(), String> {
        for at in 0..self.pages.len() {
            if self.is_calm || self.random.percent(80) {
                self.read(at)?;
            }
        }
        // A page that is over is of no further use.
        self.pages.retain(|page| !(page.is_over() && page.conn.is_none()));
        let (pages, nodes) = (&self.pages, &self.nodes);
        self.wires.retain(|id, wire| {
            wire.late.is_some()
                || pages.iter().any(|page| page.conn.as_ref().is_some_and(|conn| conn.wire == *id))
                || nodes.iter().any(|node| node.wires().any(|(_, wire)| wire == *id) || node.accepts(*id))
        });
        Ok(())
    }

    fn read(&mut self, at: usize) -> Result<(), String> {
        let Some(conn) = &self.pages[at].conn else { return Ok(()) };
        let (id, node) = (conn.wire, conn.node);
        let Some(wire) = self.wires.get_mut(&id) else {
            self.lose(at, "its node is gone");
            return self.drive(at);
        };
        if wire.stalled_until > self.now {
            return Ok(());
        }
        let bytes = std::mem::take(&mut wire.to_client);
        if !bytes.is_empty() {
            self.bytes += bytes.len() as u64;
            self.messages += 1;
            let link = u32::try_from(id).unwrap_or(NO_CLIENT);
            self.transcript.note(Time::from_micros(self.now), link, EventKind::Wrote, node as u64, &bytes);
            self.note_texts(at, id, &bytes);
            let (lost_at, is_disturbed) = (self.pages[at].lost_at, self.pages[at].is_disturbed);
            let page = &mut self.pages[at];
            let (answer, event) = page.receive(self.now, &bytes, &mut self.books)?;
            if event == Event::Forgotten {
                self.judge_forgotten(at, lost_at, is_disturbed)?;
            }
            self.send_on(id, &answer);
            if self.pages[at].conn.is_none() {
                self.drop_wire(id);
            }
            self.drive(at)?;
        }
        if self.wires.get(&id).is_none_or(|wire| wire.is_ended) {
            self.lose(at, "the server has closed it");
            self.drive(at)?;
        }
        Ok(())
    }

    fn note_texts(&mut self, at: usize, id: WireId, bytes: &[u8]) {
        let page = &self.pages[at];
        self.trace.note(self.now, || {
            let text = String::from_utf8_lossy(bytes);
            let text: String = text.chars().filter(|c| !c.is_control()).take(700).collect();
            format!("wire {id}, {} < {text}", page.name)
        });
    }

    /// A page has come back, and the server does not know its session any more. There must be a reason.
    fn judge_forgotten(&mut self, at: usize, lost_at: Option<u64>, is_disturbed: bool) -> Result<(), String> {
        let page = &self.pages[at];
        let grace = self.config.seat_grace.as_micros() as u64;
        // A server may lose a connection some time before its client knows.
        let slack = 1_000_000 + 2 * MAX_SKEW + PATIENCE.0 + PATIENCE.1;
        let is_late = lost_at.is_none_or(|lost_at| self.now + slack > lost_at + grace);
        let is_founded = lost_at.is_none_or(|lost_at| self.history.lost_at() + slack > lost_at);
        // A request of another page may be on its way for long.
        let pages = self.books.sessions.iter().filter(|session| session.user == page.user).count();
        let is_disturbed = is_disturbed || page.disturbed_until > self.now;
        if is_late || is_disturbed || pages > 1 || is_founded || self.config.duplicate_login == DuplicateLogin::Allow {
            self.books.count("sessions forgotten");
            return Ok(());
        }
        Err(format!("{} has lost its session without a reason", page.name))
    }

    /// How long the engines and the pages may wait, at most `most`.
    pub(super) fn wait(&self, most: Duration) -> Duration {
        let pages = self.pages.iter().filter_map(Page::next_timeout);
        let pages = pages.map(|due| Duration::from_micros(due.saturating_sub(self.now)));
        self.nodes.iter().filter_map(|node| node.wait(self.now)).chain(pages).fold(most, Duration::min)
    }
}
