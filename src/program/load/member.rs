//! One member: its connection, its session, and its requests without an answer. Reads and writes its socket; knows neither
//! the schedule nor the other members.
//!
//!     Idle ──connect──► Connecting ──socket is open──► Upgrading ──welcome──► Joined ──leave──► Leaving
//!      ▲                     └────────────┴──────────────────┴─► ended: comes back, or Gone

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

use lobbyd::client::Stream;
use lobbyd::sim::wire::{self, Opcode, Reader, Received};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::books::{Books, Sent};
use super::message::{Said, broadcast};
use super::plan::{MAX_UNANSWERED, Plan};

/// Bytes that one read takes at most.
pub(super) const READ_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It connects when its time comes.
    Idle,
    Connecting,
    /// The request is sent, and `welcome` has not come.
    Upgrading,
    Joined,
    /// It has said leave.
    Leaving,
    /// It does not come back.
    Gone,
}

#[derive(Debug)]
pub(super) struct Member {
    /// Number among all members.
    pub(super) number: usize,
    pub(super) state: State,
    stream: Option<Stream<TcpStream>>,
    reader: Reader,
    out: Vec<u8>,
    /// Bytes of `out` that were written.
    written: usize,
    /// When the connection was begun.
    pub(super) began: u64,
    /// Connections that have ended without an answer that says what to do. Each makes the member try the next server: a node
    /// of a cluster may be gone, and a session comes back to any node.
    pub(super) detours: usize,
    /// Attempts since the last `welcome`.
    pub(super) attempts: u32,
    pub(super) was_joined: bool,
    /// Whether it was a member until the end of the run.
    pub(super) has_stayed: bool,
    pub(super) position: Option<Position>,
    /// Highest `seq` of a message that came as it was sent.
    pub(super) last_seq: Option<u64>,
    next_ref: u64,
    /// By `ref`.
    pub(super) unanswered: BTreeMap<u64, Said>,
    pub(super) sent: Sent,
    pub(super) books: Books,
    pub(super) schedule: Schedule,
    /// Whether a message is due and cannot be sent.
    pub(super) is_held: bool,
    /// When it may send again after a refusal.
    pub(super) paused_until: u64,
    /// What the server has said before it closed the connection: whether to come back, and when.
    pub(super) goodbye: Option<Goodbye>,
}

/// When the messages of a member are due, in microseconds. It does not depend on what the server does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) first: f64,
    pub(super) period: f64,
}

impl Schedule {
    /// Returns when the message with this number is due.
    pub(super) fn due(self, number: u64) -> u64 {
        // Multiplied and not added up, so that nothing drifts.
        (self.first + number as f64 * self.period) as u64
    }

    /// Returns the number of messages that are due before `end`.
    pub(super) fn count_before(self, end: u64) -> u64 {
        let estimate = ((end as f64 - self.first) / self.period).max(0.0) as u64;
        // Rounding may move it by one.
        (estimate.saturating_sub(1)..).find(|&number| self.due(number) >= end).unwrap_or(estimate)
    }
}

/// How far a session was read.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) epoch: String,
    pub(super) seq: u64,
    pub(super) n: u64,
    /// Whether the first `presence_state` has come.
    pub(super) is_known: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Goodbye {
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) reconnect: bool,
    pub(super) retry_after_micros: Option<u64>,
}

impl Member {
    pub(super) fn new(number: usize, lobby_members: usize) -> Member {
        Member {
            number,
            state: State::Idle,
            stream: None,
            reader: Reader::default(),
            out: Vec::new(),
            written: 0,
            began: 0,
            detours: 0,
            attempts: 0,
            was_joined: false,
            has_stayed: false,
            position: None,
            last_seq: None,
            next_ref: 1,
            unanswered: BTreeMap::new(),
            sent: Sent::default(),
            books: Books::new(lobby_members),
            schedule: Schedule { first: 0.0, period: 1.0 },
            is_held: false,
            paused_until: 0,
            goodbye: None,
        }
    }

    /// Begins to connect, and registers the socket under the token.
    pub(super) fn connect(&mut self, now: u64, plan: &Plan, registry: &Registry, token: Token) -> io::Result<()> {
        self.disconnect();
        self.began = now;
        self.attempts += 1;
        self.goodbye = None;
        let (target, address) = plan.target(self.number, self.detours);
        let mut socket = open(*address, plan.source(self.number, address.ip()))?;
        let _ = socket.set_nodelay(true);
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let tls = plan.trust.as_ref().filter(|_| target.is_tls).map(|trust| (trust, &*target.host));
        self.stream = Some(Stream::new(socket, tls)?);
        self.state = State::Connecting;
        Ok(())
    }

    /// Sends the request once the socket is connected.
    pub(super) fn handle_writable(&mut self, plan: &Plan) -> io::Result<()> {
        if self.state == State::Connecting
            && let Some(stream) = &self.stream
        {
            if let Some(error) = stream.socket().take_error()? {
                return Err(error);
            }
            if stream.socket().peer_addr().is_err() {
                return Ok(());
            }
            self.state = State::Upgrading;
            self.out.extend(self.request(plan));
        }
        self.flush()
    }

    fn request(&self, plan: &Plan) -> Vec<u8> {
        let (target, _) = plan.target(self.number, self.detours);
        let mut query = format!("session={}", plan.session(self.number));
        if let Some(Position { epoch, seq, n, is_known: true }) = &self.position {
            query.push_str(&format!("&epoch={epoch}&seq={seq}&n={n}"));
        }
        let token = plan.token(self.number);
        let key = data_encoding::BASE64.encode(&(u128::from(plan.run) << 64 | self.number as u128).to_be_bytes());
        format!(
            "GET {}/ws/{}?{query} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: lobby.v1.json\r\n\
             Authorization: Bearer {token}\r\nUser-Agent: lobbyd-load\r\n\r\n",
            target.prefix,
            plan.lobby_code(self.number),
            target.authority,
        )
        .into_bytes()
    }

    /// Whether a message could be sent now.
    pub(super) fn can_send(&self, now: u64) -> bool {
        self.state == State::Joined && self.unanswered.len() < MAX_UNANSWERED && self.paused_until <= now
    }

    /// Returns when the next message is due.
    pub(super) fn due(&self) -> u64 {
        self.schedule.due(self.sent.count)
    }

    /// Sends the message that is due.
    pub(super) fn say(&mut self, plan: &Plan, due: u64) -> io::Result<()> {
        let said = Said { run: plan.run, member: self.number, number: self.sent.count, due };
        let reference = self.next_ref;
        self.next_ref += 1;
        self.sent.count += 1;
        self.unanswered.insert(reference, said);
        self.push_text(&broadcast(reference, said, plan.bytes));
        self.flush()
    }

    /// Sends the requests again that have no answer, in their order and with their numbers.
    pub(super) fn say_again(&mut self, plan: &Plan) {
        let texts: Vec<String> =
            self.unanswered.iter().map(|(&reference, &said)| broadcast(reference, said, plan.bytes)).collect();
        texts.iter().for_each(|text| self.push_text(text));
    }

    pub(super) fn push_text(&mut self, text: &str) {
        self.out.extend(wire::text(text));
    }

    pub(super) fn push_pong(&mut self, payload: &[u8]) {
        self.out.extend(wire::frame(Opcode::PONG, true, payload, [1, 2, 3, 4]));
    }

    /// Whether nothing waits to be written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.written < self.out.len() && self.state != State::Connecting {
            match stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        stream.flush()
    }

    /// Reads once. Returns the number of bytes, 0 at the end of the stream; `None` if there is nothing to read.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        loop {
            match stream.read(buffer) {
                Ok(count) => {
                    self.reader.push(&buffer[..count]);
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the next item that has arrived whole.
    pub(super) fn next(&mut self) -> Result<Option<Received>, wire::Violation> {
        self.reader.next()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Drops the socket, and what was read or not written.
    pub(super) fn disconnect(&mut self) {
        self.stream = None;
        self.reader = Reader::default();
        self.out.clear();
        self.written = 0;
    }

    /// Forgets the requests without an answer: nobody knows whether they were executed. Returns their number.
    pub(super) fn give_up_unanswered(&mut self) -> u64 {
        let requests = std::mem::take(&mut self.unanswered);
        self.sent.optional.extend(requests.values().map(|said| said.number));
        requests.len() as u64
    }
}

/// Begins a connection, from the address `source` if there is one.
fn open(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(address) };
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    match socket.connect(&address.into()) {
        Err(error) if !is_in_progress(&error) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    #[cfg(unix)]
    let is_unix = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::INPROGRESS);
    #[cfg(not(unix))]
    let is_unix = false;
    is_unix || error.kind() == io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_has_as_many_messages_as_fit() {
        let count = |first, period, end| {
            let schedule = Schedule { first, period };
            let count = schedule.count_before(end);
            assert!(schedule.due(count) >= end && (count == 0 || schedule.due(count - 1) < end));
            count
        };
        assert_eq!(count(0.0, 100_000.0, 1_000_000), 10);
        assert_eq!(count(50_000.0, 100_000.0, 1_000_000), 10);
        assert_eq!(count(1_000_000.0, 100_000.0, 1_000_000), 0);
        assert_eq!(count(7.0, 1e6 / 3.0, 60_000_007), 180);
        assert_eq!(count(0.0, 1e9, 1_000_000), 1);
    }
}
