//! An engine with many members, for the benches without sockets.

use std::hint::black_box;
use std::io::{self, Sink};
use std::time::Duration;

use lobbyd::config::{ByteSize, Limit};
use lobbyd::driver::{Flow, Start, Transport};
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{App, CloseReason, Config, ConnId, Engine, Time};

/// An engine and the connections of all its members, lobby by lobby.
pub(crate) struct Crowd<A> {
    pub(crate) engine: Engine<A>,
    pub(crate) conns: Vec<ConnId>,
    pub(crate) now: Time,
}

/// Sockets that take and discard all bytes.
pub(crate) struct Discard;

impl Transport for Discard {
    type Socket<'a> = Sink;

    #[inline]
    fn socket(&mut self, _: ConnId) -> Option<Sink> {
        Some(io::sink())
    }

    #[inline]
    fn wrote(&mut self, _: ConnId, _: &io::Result<Flow>) {}

    #[inline]
    fn closed(&mut self, _: ConnId, _: CloseReason) {}
}

/// The same, with a list of the connections that were written to.
#[derive(Default)]
pub(crate) struct ListWritten(pub(crate) Vec<ConnId>);

impl Transport for ListWritten {
    type Socket<'a> = Sink;

    #[inline]
    fn socket(&mut self, _: ConnId) -> Option<Sink> {
        Some(io::sink())
    }

    #[inline]
    fn wrote(&mut self, conn: ConnId, _: &io::Result<Flow>) {
        self.0.push(conn);
    }

    #[inline]
    fn closed(&mut self, _: ConnId, _: CloseReason) {}
}

/// Start values of every engine in the benches.
pub(crate) const START: Start = Start { unix_micros: 0, seed: 1 };

#[allow(dead_code, reason = "each bench uses some of them")]
impl<A: App> Crowd<A> {
    /// `lobbies` lobbies, `l0` and on, of `size` members each.
    ///
    /// They connect evenly over one `ping_interval`, so that their timers are spread as in a long-running server.
    pub(crate) fn new(app: A, lobbies: usize, size: usize) -> Crowd<A> {
        Crowd::with(app, lobbies, size, |_| {}, |_| {})
    }

    /// The same with a changed configuration, and with `prepare` called on the engine before the first connection.
    pub(crate) fn with(
        app: A,
        lobbies: usize,
        size: usize,
        configure: impl FnOnce(&mut Config),
        prepare: impl FnOnce(&mut Engine<A>),
    ) -> Crowd<A> {
        Crowd::with_query(app, lobbies, size, configure, prepare, |_| String::new())
    }

    /// The same with an addition to the query of each user's request.
    pub(crate) fn with_query(
        app: A,
        lobbies: usize,
        size: usize,
        configure: impl FnOnce(&mut Config),
        prepare: impl FnOnce(&mut Engine<A>),
        query: impl Fn(usize) -> String,
    ) -> Crowd<A> {
        let mut config = Config {
            max_connections: Limit::UNLIMITED,
            max_per_lobby: Limit::UNLIMITED,
            max_lobbies: Limit::UNLIMITED,
            // Rates are on, but so high that no message is refused.
            messages_per_second: Limit::at_most(1_000_000_000),
            message_burst: 1_000_000_000,
            bytes_per_second: Limit::at_most(1_000_000_000),
            byte_burst: ByteSize(1_000_000_000),
            ..Config::default()
        };
        configure(&mut config);
        let pause = config.ping_interval / (lobbies * size) as u32;
        let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, app);
        prepare(&mut engine);
        let mut crowd = Crowd { engine, conns: Vec::new(), now: Time::ZERO };
        for lobby in 0..lobbies {
            for user in 0..size {
                let target = format!("/ws/l{lobby}?token=u{lobby}-{user}{}", query(user));
                let conn = crowd.connect(&wire::upgrade_request(&target, &[]));
                crowd.conns.push(conn);
                crowd.now = crowd.now + pause;
            }
            crowd.flush();
        }
        assert_eq!(crowd.engine.stats().total_connections, lobbies * size, "every member has joined");
        crowd
    }

    /// Brings the crowd into the state of a server that has run for a while: every connection has answered a ping, and
    /// every lobby of `size` members has had a message.
    pub(crate) fn settle(&mut self, size: usize) {
        let connections = self.conns.len();
        let step = self.ping_step();
        let (mut written, mut pings) = (ListWritten::default(), 0);
        while pings < connections as u64 {
            pings += self.answer_pings(step, &mut written);
        }
        let message = wire::text("first");
        (0..connections).step_by(size).for_each(|sender| self.send(sender, &message));
    }

    /// A time in which some 50 connections become due for a ping, whatever their number.
    pub(crate) fn ping_step(&self) -> Duration {
        self.engine.config().ping_interval * 50 / self.conns.len() as u32
    }

    pub(crate) fn connect(&mut self, request: &[u8]) -> ConnId {
        let conn = self.engine.handle_accept(self.now, ([127, 0, 0, 1], 4000).into()).expect("unlimited");
        self.engine.handle_bytes(self.now, conn, request);
        conn
    }

    /// Ends a turn as a driver does, and discards the output. The next turn is a microsecond later, so that rates are charged
    /// as in a running server.
    pub(crate) fn end_turn(&mut self) {
        self.engine.end_turn(self.now, &mut Discard).expect("the journal is discarded");
        self.now = self.now + Duration::from_micros(1);
    }

    /// The same without the timers.
    pub(crate) fn flush(&mut self) {
        self.engine.flush(&mut Discard).expect("the journal is discarded");
        self.now = self.now + Duration::from_micros(1);
    }

    /// A turn that takes no time.
    pub(crate) fn end_turn_at_once(&mut self) {
        self.engine.end_turn(black_box(self.now), &mut Discard).expect("the journal is discarded");
    }

    /// One turn in which `sender`, the index of a connection, sends `message`.
    pub(crate) fn send(&mut self, sender: usize, message: &[u8]) {
        self.engine.handle_bytes(self.now, self.conns[sender], black_box(message));
        self.flush();
    }

    /// Two turns: a connection joins, and hangs up.
    pub(crate) fn join_and_leave(&mut self, request: &[u8]) {
        let conn = self.connect(black_box(request));
        self.flush();
        self.engine.handle_hangup(self.now, conn);
        self.flush();
    }

    /// One turn after `step`. All connections that were pinged answer. Returns their number.
    pub(crate) fn answer_pings(&mut self, step: Duration, written: &mut ListWritten) -> u64 {
        let pong = wire::frame(Opcode::PONG, true, b"", [1, 2, 3, 4]);
        self.now = self.now + step;
        self.engine.end_turn(self.now, written).expect("the journal is discarded");
        for &conn in &written.0 {
            self.engine.handle_bytes(self.now, conn, black_box(&pong));
        }
        written.0.drain(..).len() as u64
    }
}
