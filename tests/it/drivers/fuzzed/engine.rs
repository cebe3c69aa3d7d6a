//! A whole engine. The bytes choose connections, their input, the behaviour of their sockets, and the time.

use std::io::{self, Write};
use std::time::Duration;

use lobbyd::admission::Rate;
use lobbyd::config::{ByteSize, CheckedConfig, DuplicateLogin, Limit};
use lobbyd::driver::{Flow, Transport};
use lobbyd::journal::{self, ReplayFailure, Summary};
use lobbyd::operator::{KickTarget, OperatorCommand, Payload};
use lobbyd::sending::Pressure;
use lobbyd::sim::wire::{self, Opcode, Reader};
use lobbyd::stats::Stats;
use lobbyd::{
    App, Authorization, CloseReason, Config, ConnId, Context, Engine, Exclude, Frame, LeaveReason, Member, Message,
    Protocol, Reject, Request, Time,
};

use super::{Input, START};

const MAX_STEPS: usize = 400;
const LOBBIES: [&str; 4] = ["a", "b", "c", "no such code"];
const USERS: [&str; 5] = ["ann", "bob", "cid", "\u{1F3B2}\"\\", ""];
const AUTHS: [&str; 6] = ["", "&auth=later", "&auth=unnamed", "&auth=refuse", "&auth=end", "&auth=tier"];
const TEXTS: [&str; 14] = [
    r#"{"type":"broadcast","data":{"x":[1,2,3]},"ref":1}"#,
    r#"{"type":"broadcast","data":"a longer one, of which a few fill any outbox that is small enough to be filled"}"#,
    r#"{"type":"direct","to":"ann","data":1,"ref":"r"}"#,
    r#"{"type":"presence","ref":2}"#,
    r#"{"type":"ping","ref":3}"#,
    r#"{"type":"leave","ref":4}"#,
    r#"{"type":"health_pong","timestamp":1}"#,
    r#"{"type":"health_pong","timestamp":2,"ref":5}"#,
    r#"{"type":"close others"}"#,
    r#"{"type":"latest"}"#,
    r#"{"type":"ask"}"#,
    r#"{"type":"lock"}"#,
    r#"{"type":"reject","ref":6}"#,
    "no JSON",
];

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Ok(config) = config(&mut input).check() else { return };
    if input.below(3) == 0 {
        World::<CommandApp<false>>::new(config).run(&mut input);
    } else {
        World::<CommandApp<true>>::new(config).run(&mut input);
    }
}

/// A recorded run.
pub(super) struct Recorded {
    pub(super) journal: Vec<u8>,
    pub(super) stats: Stats,
    /// Replays a journal with an application of the same type.
    pub(super) replay: fn(&[u8]) -> Result<Summary, ReplayFailure>,
}

/// Runs like [`run`] and records it. Returns `None` if the configuration is invalid.
pub(super) fn record(input: &mut Input<'_>) -> Option<Recorded> {
    fn record_as<A: App + Default>(config: CheckedConfig, input: &mut Input<'_>) -> Recorded {
        let mut world = World::<A> { is_recorded: true, ..World::new(config) };
        journal::record(&mut world.engine, START, Vec::new()).expect("memory can be written to");
        world.run(input);
        let journal = journal::finish(&mut world.engine).expect("it was recorded in memory");
        Recorded { journal, stats: world.engine.stats(), replay: |journal| journal::replay(journal, A::default()) }
    }
    let config = config(input).check().ok()?;
    Some(if input.below(3) == 0 {
        record_as::<CommandApp<false>>(config, input)
    } else {
        record_as::<CommandApp<true>>(config, input)
    })
}

/// Low limits, in a combination that the input chooses.
fn config(input: &mut Input<'_>) -> Config {
    let (bits, more) = (input.byte(), input.byte());
    let small = |bit: u8, limit: u32| if bits & (1 << bit) == 0 { Limit::UNLIMITED } else { Limit::at_most(limit) };
    let is = |bit: u8| more & (1 << bit) != 0;
    Config {
        max_connections: if is(0) { Limit::at_most(4) } else { Limit::at_most(500) },
        max_per_lobby: if is(1) { Limit::at_most(2) } else { Limit::at_most(10) },
        max_lobbies: small(0, 2),
        duplicate_login: match more >> 6 {
            0 | 1 => DuplicateLogin::Replace,
            2 => DuplicateLogin::Reject,
            _ => DuplicateLogin::Allow,
        },
        max_per_user: small(1, 2),
        max_per_ip: small(2, 3),
        max_pending: if is(2) { 2 } else { 256 },
        max_closing: if is(3) { 1 } else { 256 },
        attempts_per_minute: small(3, 3),
        attempt_burst: 3,
        max_lifetime: is(4).then_some(Duration::from_secs(60)),
        max_header_bytes: ByteSize(512),
        max_headers: 16,
        max_message_bytes: ByteSize(300),
        max_fragments: 5,
        max_outbound_bytes: ByteSize(6000),
        history_bytes: ByteSize(300),
        direct_bytes: ByteSize(100),
        outbound_high_mark: ByteSize(600),
        outbound_low_mark: ByteSize(200),
        messages_per_second: small(4, 3),
        message_burst: 3,
        user_messages_per_second: small(5, 3).into(),
        user_message_burst: 3.into(),
        bytes_per_second: small(6, 500),
        byte_burst: ByteSize(600),
        user_bytes_per_second: small(7, 400).into(),
        user_byte_burst: ByteSize(580).into(),
        control_per_second: small(4, 2),
        control_burst: 2,
        max_rate_strikes: 2,
        max_remembered_rates: 2,
        max_strikes: 2,
        presence_max: if is(5) { 2 } else { 500 },
        health_interval: is(5).then_some(Duration::from_secs(7)),
        max_health_pings: 2,
        max_linger_bytes: ByteSize(1000),
        drain_batch: 2,
        ..Config::default()
    }
}

/// An application that executes commands from members, most of them disruptive.
#[derive(Default)]
struct CommandApp<const JSON: bool> {
    joined: u64,
    left: u64,
}

impl<const JSON: bool> App for CommandApp<JSON> {
    const PROTOCOL: Protocol = if JSON { Protocol::Json } else { Protocol::Raw };

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        match request.query("auth").as_deref() {
            Some("later") => Authorization::Pending { user: request.token().map(str::to_owned) },
            Some("unnamed") => Authorization::Pending { user: None },
            Some("refuse") => Authorization::Refuse(CloseReason::Banned),
            Some("end") => {
                cx.close(request.conn(), CloseReason::PolicyViolation);
                Authorization::token_is_user(request)
            }
            Some("tier") => match Authorization::token_is_user(request) {
                Authorization::Allow(identity) => {
                    Authorization::Allow(identity.tier(Rate::FREE).expires_at_unix_millis(cx.unix_millis() + 30_000))
                }
                other => other,
            },
            _ => Authorization::token_is_user(request),
        }
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.joined += 1;
        cx.broadcast_to_lobby(member.lobby(), Exclude::User(member.user()), &Frame::text("came"));
    }

    fn on_rejoin(&mut self, cx: &mut Context<'_>, member: &Member) {
        cx.send_to_user(member.user(), &Frame::text("again"));
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let order = match message {
            Message::Json { kind, .. } => kind.as_bytes(),
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        };
        match order.first() {
            Some(b'c') => {
                let others: Vec<String> =
                    cx.lobby_users(from.lobby()).filter(|&user| user != from.user()).map(str::to_owned).collect();
                for user in &others {
                    cx.close_user(user, CloseReason::Kicked);
                }
            }
            Some(b'l') if order.len() > 4 => {
                cx.broadcast_latest(from.lobby(), Exclude::None, 1, &Frame::binary(order));
            }
            Some(b'l') => {
                cx.lock_lobby(from.lobby(), true);
            }
            Some(b'a') => {
                cx.ping_user(from.user(), Duration::from_secs(1));
            }
            Some(b'r') => cx.reject(Reject::NotAllowed, "no"),
            Some(b's') => {
                cx.close_user(from.user(), CloseReason::Hangup);
            }
            Some(b'e') => {
                cx.close_lobby(from.lobby(), CloseReason::LobbyClosed);
            }
            Some(b'd') => cx.update_last_message(from.conn()),
            _ => {
                cx.broadcast_from(from, &Frame::binary(order));
            }
        }
    }

    fn on_leave(&mut self, cx: &mut Context<'_>, member: &Member, why: LeaveReason) {
        self.left += 1;
        assert!(self.left <= self.joined);
        if why == LeaveReason::Slow {
            cx.close_lobby(member.lobby(), CloseReason::LobbyClosed);
        } else {
            cx.broadcast_to_lobby(member.lobby(), Exclude::None, &Frame::text("went"));
        }
    }

    fn on_health(&mut self, cx: &mut Context<'_>, member: &Member, latency: Option<Duration>) {
        if latency.is_none() {
            cx.close(member.conn(), CloseReason::ForcedReconnect);
        }
    }

    fn on_pressure(&mut self, cx: &mut Context<'_>, member: &Member, pressure: Pressure) {
        if let Pressure::High { .. } = pressure {
            cx.send_latest_to_conn(member.conn(), 2, &Frame::text("slower"));
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_>, command: &[u8]) {
        for lobby in LOBBIES {
            cx.broadcast_to_lobby(lobby, Exclude::None, &Frame::binary(command));
        }
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, _: Time) {
        cx.announce("a", "\"closing\"");
    }
}

struct World<A> {
    engine: Engine<A>,
    is_recorded: bool,
    now: Time,
    /// All connections ever opened. The driver may name a closed one, which must have no effect.
    links: Links,
}

struct Links(Vec<Link>);

impl Transport for Links {
    type Socket<'a> = &'a mut Link;

    fn socket(&mut self, conn: ConnId) -> Option<&mut Link> {
        let link = self.open(conn);
        assert!(!link.finished || link.reader.unread() == 0, "nothing follows the end");
        Some(link)
    }

    fn wrote(&mut self, conn: ConnId, outcome: &io::Result<Flow>) {
        let link = self.open(conn);
        link.finished |= matches!(outcome, Ok(Flow::Finished | Flow::Closed));
        while link.reader.next().expect("the server keeps to the protocol").is_some() {}
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason) {
        self.open(conn).closed = true;
    }
}

impl Links {
    fn open(&mut self, conn: ConnId) -> &mut Link {
        self.0.iter_mut().find(|link| link.conn == conn && !link.closed).expect("a connection of this test")
    }
}

struct Link {
    conn: ConnId,
    reader: Reader,
    /// Input received and not yet consumed by the engine.
    backlog: Vec<u8>,
    /// Bytes the socket takes before it blocks.
    window: usize,
    breaks: bool,
    finished: bool,
    closed: bool,
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.breaks {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let n = bytes.len().min(self.window);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.window -= n;
        self.reader.push(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<A: App + Default> World<A> {
    fn new(config: CheckedConfig) -> World<A> {
        let engine = Engine::new(config, START, A::default());
        World { engine, is_recorded: false, now: Time::ZERO, links: Links(Vec::new()) }
    }

    fn run(&mut self, input: &mut Input<'_>) {
        for _ in 0..MAX_STEPS {
            if input.0.is_empty() {
                break;
            }
            self.step(input);
            self.engine.check();
        }
        self.finish();
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (now, kind) = (self.now, input.below(16));
        match kind {
            0 => self.accept(input.byte()),
            8 => {
                self.now = now + Duration::from_micros(1 << input.below(32));
                return self.end_turn(self.now);
            }
            9 => {
                self.now = self.engine.poll_timeout().map_or(now, |next| next.max(now));
                return self.end_turn(self.now);
            }
            10 => return self.flush(),
            11 => return self.command(input),
            _ => {}
        }
        if self.links.0.is_empty() {
            return;
        }
        let index = input.below(self.links.0.len());
        let conn = self.links.0[index].conn;
        match kind {
            1 | 2 => {
                let (user, lobby) = (USERS[input.below(USERS.len())], LOBBIES[input.below(LOBBIES.len())]);
                let auth = AUTHS[input.below(AUTHS.len())];
                // A replay does not call `authorize`, so it cannot repeat a close from inside it.
                let auth = if self.is_recorded && auth == "&auth=end" { "" } else { auth };
                let user: String = user.bytes().map(|byte| format!("%{byte:02x}")).collect();
                let lobby = lobby.replace(' ', "%20");
                let target = format!("/ws/{lobby}?token={user}{auth}");
                self.arrive(index, &wire::upgrade_request(&target, &[]), input);
            }
            3 => {
                let n = input.below(256);
                let bytes = input.take(n);
                self.arrive(index, bytes, input);
            }
            4 | 5 => {
                // Several messages at once, as a fast client sends them.
                let mut bytes = Vec::new();
                for _ in 0..=input.below(4) {
                    bytes.extend(wire::text(TEXTS[input.below(TEXTS.len())]));
                }
                self.arrive(index, &bytes, input);
            }
            6 => {
                let (head, n) = (input.byte(), input.below(256));
                let frame = wire::frame(Opcode(head & 0x0f), head & 0x10 == 0, input.take(n), [1, 2, 3, 4]);
                let end = if head & 0x20 == 0 { frame.len() } else { frame.len() / 2 };
                self.arrive(index, &frame[..end], input);
            }
            7 => self.engine.handle_hangup(now, conn),
            12 => {
                let link = &mut self.links.0[index];
                link.window = 1 << input.below(14);
                self.engine.handle_writable(now, conn);
            }
            13 => self.links.0[index].window = input.below(64),
            14 => {
                let answer = match input.below(4) {
                    0 => Authorization::Refuse(CloseReason::Unauthorized),
                    1 => Authorization::Pending { user: None },
                    n => Authorization::allow(USERS[n]),
                };
                self.engine.handle_authorized(now, conn, answer);
            }
            15 => match input.below(5) {
                0 => self.links.0[index].breaks = true,
                3 => self.engine.handle_unread(now, &[conn]),
                4 => self.engine.handle_wall_time(now, 1 << input.below(64)),
                // A clock that goes back.
                1 => self.end_turn(Time::ZERO),
                _ => self.engine.handle_bytes(Time::ZERO, conn, &wire::text(TEXTS[0])),
            },
            _ => {}
        }
    }

    /// Delivers bytes to the engine, which may consume only a part of them.
    fn arrive(&mut self, index: usize, bytes: &[u8], input: &mut Input<'_>) {
        let max_work = [usize::MAX, 0, 1000][input.below(3)];
        let link = &mut self.links.0[index];
        link.backlog.extend_from_slice(bytes);
        let consumed = self.engine.handle_bytes_up_to(self.now, link.conn, &link.backlog, max_work);
        link.backlog.drain(..consumed.bytes);
    }

    fn command(&mut self, input: &mut Input<'_>) {
        let (user, lobby) =
            (USERS[input.below(USERS.len())].to_owned(), LOBBIES[input.below(LOBBIES.len())].to_owned());
        let payload = Payload::Json("1".into());
        let command = match input.below(10) {
            0 => return self.engine.handle_command(self.now, b"command"),
            1 => OperatorCommand::Drain,
            2 => {
                let exclude = [vec![], vec![user]][input.below(2)].clone();
                let idempotency_key = [None, Some("k"), Some("l")][input.below(3)].map(str::to_owned);
                OperatorCommand::Publish { lobby, payload, exclude, idempotency_key }
            }
            3 => OperatorCommand::Send { user, payload },
            4 => OperatorCommand::Ping { user, timeout: Duration::from_secs(1) },
            5 => OperatorCommand::Kick { target: KickTarget::User(user), reconnect: true },
            6 => OperatorCommand::Kick { target: KickTarget::Lobby(lobby), reconnect: false },
            7 => OperatorCommand::Kick { target: KickTarget::All, reconnect: true },
            8 => OperatorCommand::Lock { lobby, locked: input.below(2) == 0 },
            _ => OperatorCommand::Close { lobby },
        };
        let _ = self.engine.handle_operator(self.now, command);
        while self.engine.poll_operator().is_some() {}
    }

    fn accept(&mut self, byte: u8) {
        if self.links.0.len() == 64 {
            return;
        }
        if let Ok(conn) = self.engine.handle_accept(self.now, ([10, 0, 0, byte % 4], 4000).into()) {
            let window = if byte & 0x80 == 0 { usize::MAX } else { usize::from(byte & 0x7f) * 8 };
            let reader = Reader::default();
            let backlog = Vec::new();
            self.links.0.push(Link { conn, reader, backlog, window, breaks: false, finished: false, closed: false });
        }
    }

    fn end_turn(&mut self, now: Time) {
        self.engine.end_turn(now, &mut self.links).expect("memory can be written to");
    }

    fn flush(&mut self) {
        self.engine.flush(&mut self.links).expect("memory can be written to");
    }

    /// Drains the engine and checks that nothing is left.
    fn finish(&mut self) {
        self.engine.handle_unread(self.now, &[]);
        self.engine.handle_drain(self.now);
        for _ in 0..10_000 {
            self.end_turn(self.now);
            self.engine.check();
            // The drain does not wait for connections accepted during it, but they close too.
            if self.links.0.iter().all(|link| link.closed) {
                break;
            }
            let next = self.engine.poll_timeout().expect("every open connection has a deadline");
            self.now = self.now.max(next);
        }
        assert!(self.engine.is_drained(), "all connections are closed");
        let stats = self.engine.stats();
        assert_eq!((stats.total_connections, stats.active_lobbies, stats.pending, stats.closing), (0, 0, 0, 0));
        assert!(self.links.0.iter().all(|link| link.closed));
    }
}
