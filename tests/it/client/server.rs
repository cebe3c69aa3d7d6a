//! The client and the server, over connections that are cut at any moment.

use std::collections::BTreeMap;
use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::client::{Action, AttemptId, Event, Of, Options, Outgoing, RequestId, Session, State};
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Opcode, Reader, Received};
use lobbyd::{Config, ConnId, Engine, Random, Time};
use serde_json::{Value, json};

use crate::common::scenario::START;

const MASK: [u8; 4] = [1, 2, 3, 4];

struct Connection {
    id: AttemptId,
    conn: ConnId,
    reader: Reader,
}

struct Client {
    user: String,
    session: Session,
    connection: Option<Connection>,
    /// Numbers of the messages that it has received, with how often.
    received: BTreeMap<u64, u32>,
    gaps: u32,
    /// Requests, each with its number.
    requests: BTreeMap<RequestId, u64>,
    acked: Vec<u64>,
    failed: BTreeMap<u64, String>,
}

/// One server and its clients.
struct World {
    engine: Engine<Relay>,
    sockets: MemorySockets,
    now: Time,
    clients: Vec<Client>,
    last_number: u64,
}

impl World {
    fn new(users: &[&str], seed: u64) -> World {
        let config = Config { lobby_control: true, ..Config::default() };
        let mut world = World {
            engine: Engine::new(config.check().expect("a configuration"), START, Relay::default()),
            sockets: MemorySockets::default(),
            now: Time::ZERO,
            clients: Vec::new(),
            last_number: 0,
        };
        for user in users {
            let mut random = Random::new(seed * 10 + world.clients.len() as u64);
            let draw = move || random.next_u64();
            let mut session = Session::new("ws://a/ws/chess", Options::default(), draw).expect("an address");
            session.connect(world.now);
            world.clients.push(Client {
                user: (*user).to_owned(),
                session,
                connection: None,
                received: BTreeMap::new(),
                gaps: 0,
                requests: BTreeMap::new(),
                acked: Vec::new(),
                failed: BTreeMap::new(),
            });
            world.turn();
        }
        world
    }

    /// Brings messages to and fro until nobody has anything to say.
    fn turn(&mut self) {
        loop {
            let said = (0..self.clients.len()).filter(|&at| self.carry(at)).count();
            self.engine.end_turn(self.now, &mut self.sockets).expect("nothing is recorded");
            let writes = self.sockets.take_writes();
            for write in &writes {
                let mut open = self.clients.iter_mut().filter_map(|client| client.connection.as_mut());
                if let Some(connection) = open.find(|connection| connection.conn == write.conn) {
                    connection.reader.push(&write.bytes);
                }
            }
            (0..self.clients.len()).for_each(|at| self.read(at));
            if said == 0 && writes.is_empty() {
                return self.engine.check();
            }
        }
    }

    /// Does what a session asks for. Returns whether it is anything.
    fn carry(&mut self, at: usize) -> bool {
        let (mut has_any, now) = (false, self.now);
        while let Some(action) = self.clients[at].session.poll_action() {
            has_any = true;
            match action {
                Action::Connect(attempt) => {
                    let names = attempt.subprotocols(Some(&self.clients[at].user)).join(", ");
                    let line = format!("Sec-WebSocket-Protocol: {names}");
                    let conn = self.engine.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("room");
                    self.engine.handle_bytes(now, conn, &wire::upgrade_request(&attempt.target(), &[&line]));
                    let connection = Connection { id: attempt.id(), conn, reader: Reader::default() };
                    assert!(self.clients[at].connection.replace(connection).is_none(), "one connection at a time");
                }
                Action::Send(_, Outgoing::Binary(_)) => panic!("nobody sends binary messages"),
                Action::Send(id, Outgoing::Text(text)) => self.write(at, id, &wire::text(&text)),
                Action::Close(id, code) => {
                    let payload = code.map(u16::to_be_bytes);
                    let payload = payload.as_ref().map_or(&[][..], |code| code);
                    self.write(at, id, &wire::frame(Opcode::CLOSE, true, payload, MASK));
                    self.hang_up(at);
                }
            }
        }
        has_any
    }

    fn write(&mut self, at: usize, id: AttemptId, bytes: &[u8]) {
        let connection = self.clients[at].connection.as_ref().filter(|connection| connection.id == id);
        let connection = connection.expect("it sends on its connection");
        self.engine.handle_bytes(self.now, connection.conn, bytes);
    }

    fn hang_up(&mut self, at: usize) -> Option<AttemptId> {
        let Connection { id, conn, .. } = self.clients[at].connection.take()?;
        self.engine.handle_hangup(self.now, conn);
        Some(id)
    }

    fn read(&mut self, at: usize) {
        let now = self.now;
        while let Some(connection) = &mut self.clients[at].connection
            && let Some(received) = connection.reader.next().expect("a server that keeps the protocol")
        {
            let (id, conn) = (connection.id, connection.conn);
            match received {
                Received::Text(text) => self.clients[at].session.handle_text(now, id, &text),
                Received::Ping(payload) => {
                    self.engine.handle_bytes(now, conn, &wire::frame(Opcode::PONG, true, &payload, MASK));
                }
                Received::Close(code, reason) => {
                    self.hang_up(at);
                    self.clients[at].session.handle_closed(now, id, code, &reason);
                }
                Received::Answer(101, _) => {}
                other => panic!("{other:?}"),
            }
        }
        while let Some(event) = self.clients[at].session.poll_event() {
            self.clients[at].hear(event);
        }
    }

    /// The connection of a client fails. What the client has said last may be lost.
    fn cut(&mut self, at: usize, is_heard: bool) {
        if is_heard {
            self.carry(at);
            self.engine.end_turn(self.now, &mut self.sockets).expect("nothing is recorded");
        } else {
            while self.clients[at].session.poll_action().is_some() {}
        }
        if let Some(id) = self.hang_up(at) {
            self.clients[at].session.handle_closed(self.now, id, 1006, "");
        }
        self.turn();
    }

    fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.turn();
            let due = self.clients.iter().filter_map(|client| client.session.poll_timeout());
            let next = due.chain(self.engine.poll_timeout()).min().unwrap_or(until).max(self.now);
            if next >= until {
                self.now = until;
                break;
            }
            self.now = next;
            let now = self.now;
            self.clients.iter_mut().for_each(|client| client.session.handle_timeout(now));
        }
        let now = self.now;
        self.clients.iter_mut().for_each(|client| client.session.handle_timeout(now));
        self.turn();
    }

    fn request(&mut self, at: usize) {
        self.last_number += 1;
        let (now, number) = (self.now, self.last_number);
        let client = &mut self.clients[at];
        if let Ok(id) = client.session.request(now, "say", json!({"number": number})) {
            client.requests.insert(id, number);
        }
    }
}

impl Client {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Message(message) => {
                let data: Value = message.data().expect("JSON");
                *self.received.entry(data["number"].as_u64().expect("a number")).or_default() += 1;
            }
            Event::Gap => self.gaps += 1,
            Event::Settled { id, result } => {
                // Data of the lobby are not counted.
                let Some(number) = self.requests.remove(&id) else { return };
                match result {
                    Ok(_) => self.acked.push(number),
                    Err(error) => drop(self.failed.insert(number, error.code().to_owned())),
                }
            }
            _ => {}
        }
    }
}

/// A run of a seed. Returns the numbers of acknowledged and unknown requests, of cut connections and of gaps.
fn run(seed: u64) -> [usize; 4] {
    let mut world = World::new(&["ann", "bob", "cy"], seed);
    let mut random = Random::new(seed);
    let mut cuts = 0;
    for _ in 0..300 {
        let at = random.below(3) as usize;
        match random.below(10) {
            0 if world.clients[at].connection.is_some() => {
                cuts += 1;
                world.cut(at, random.percent(50));
            }
            1 | 2 => world.advance(Duration::from_millis(random.below(3000))),
            3 => {
                let (now, round) = (world.now, random.below(9));
                drop(world.clients[at].session.set(now, Of::Me, json!({"round": round})));
            }
            4 => world.turn(),
            _ => world.request(at),
        }
    }
    // Nobody is kept from coming back, and each request has time for its outcome.
    world.advance(Duration::from_secs(90));
    let count = |number: u64, client: &Client| client.received.get(&number).copied().unwrap_or(0);
    for sender in &world.clients {
        assert_eq!((sender.session.state(), sender.requests.len()), (State::Open, 0), "seed {seed}: {}", sender.user);
        for other in world.clients.iter().filter(|other| other.user != sender.user) {
            let lost = sender.acked.iter().filter(|&&number| count(number, other) != 1);
            let lost: Vec<_> = lost.filter(|&&number| other.gaps == 0 || count(number, other) > 1).collect();
            assert!(lost.is_empty(), "seed {seed}: {} has received {lost:?} of {} not once", other.user, sender.user);
            let doubled: Vec<_> = sender.failed.keys().filter(|&&number| count(number, other) > 1).collect();
            assert!(doubled.is_empty(), "seed {seed}: {} has received {doubled:?} twice", other.user);
        }
    }
    let members = |client: &Client| client.session.members().cloned().collect::<Vec<_>>();
    for client in &world.clients[1..] {
        assert_eq!(members(client).len(), 3, "seed {seed}");
        for member in members(client) {
            assert_eq!(world.clients[0].session.member(member.conn()), Some(&member), "seed {seed}");
        }
    }
    let sum = |of: fn(&Client) -> usize| world.clients.iter().map(of).sum();
    let unknown = |client: &Client| client.failed.values().filter(|code| *code == "unknown").count();
    [sum(|client| client.acked.len()), sum(unknown), cuts, sum(|client| client.gaps as usize)]
}

#[test]
fn requests_are_executed_exactly_once_over_connections_that_are_cut() {
    let runs: Vec<[usize; 4]> = (0..30).map(run).collect();
    let [acked, unknown, cuts, gaps] = [0, 1, 2, 3].map(|at| runs.iter().map(|run| run[at]).sum::<usize>());
    assert!(acked > 3000 && cuts > 300, "{acked} acknowledged, {cuts} connections cut");
    assert_eq!((unknown, gaps), (0, 0), "nobody is away for longer than its seat is kept");
}

/// Lets one client play for half a minute: `act` is called in each millisecond. Returns the number of acknowledged requests.
#[track_caller]
fn play(mut act: impl FnMut(&mut World, u64)) -> usize {
    let mut world = World::new(&["ann"], 1);
    for millis in 0..30_000 {
        act(&mut world, millis);
        world.advance(Duration::from_millis(1));
        let session = &world.clients[0].session;
        assert_eq!(session.state(), State::Open, "after {millis} ms: {:?}", session.why());
    }
    world.clients[0].acked.len()
}

/// The server accepts 60 messages a second, and 120 at once.
#[test]
fn clients_that_always_have_requests_get_the_rate_of_the_server() {
    for waiting in [1, 2, 32] {
        let acked = play(|world, _| {
            while world.clients[0].requests.len() < waiting {
                world.request(0);
            }
        });
        assert!((1200..=1920).contains(&acked), "{acked} with {waiting} at a time");
    }
}

#[test]
fn a_game_that_sends_in_each_frame_of_a_fast_display_is_not_closed() {
    let mut sent = 0;
    play(|world, millis| {
        if millis % 7 == 0 {
            let now = world.now;
            let is_sent = world.clients[0].session.send(now, "say", json!({"number": 0}));
            sent += usize::from(is_sent.expect("it is small"));
        }
    });
    assert!((1200..=1920).contains(&sent), "{sent}");
}
