//! One connection: from its socket to messages.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use mio::net::TcpStream;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::frames::{Frames, Incoming, Input, Output, Violation};
use super::stream::Stream;
use super::upgrade::{Answer, Upgrade};
use crate::client::action::{AttemptId, Outgoing};

/// Bytes of one read.
const READ: usize = 16 << 10;
/// While more bytes wait to be written, nothing is read: a server that sends pings and does not read gets no more pongs.
const MAX_UNWRITTEN: usize = 256 << 10;

/// How a connection has ended, in the words of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Before the request was written, for this reason.
    Failed(&'static str),
    /// With an HTTP status.
    Refused(u16, Option<Duration>),
    /// With a code and a reason.
    Closed(u16, String),
}

impl Ended {
    /// There was no close frame.
    fn lost() -> Ended {
        Ended::Closed(1006, String::new())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// With TLS.
    Encrypting,
    /// The request is written, and its answer read.
    Upgrading,
    Open,
    /// Our close frame was sent. What arrives is dropped.
    Closing,
}

pub(super) struct Connection {
    pub(super) id: AttemptId,
    stream: Stream<TcpStream>,
    stage: Stage,
    upgrade: Upgrade,
    input: Input,
    frames: Frames,
    output: Output,
    /// The socket may have something to read: it was not empty when it was last read, or an event has come since.
    is_readable: bool,
    /// A write has failed. The next read finds out why.
    is_broken: bool,
}

impl Connection {
    /// A connection whose socket begins to connect. The request is written when it is.
    pub(super) fn new(
        id: AttemptId,
        stream: Stream<TcpStream>,
        (upgrade, request): (Upgrade, Vec<u8>),
        max_bytes: usize,
    ) -> Connection {
        let mut output = Output::default();
        output.push(&request);
        Connection {
            id,
            stream,
            stage: Stage::Connecting,
            upgrade,
            input: Input::default(),
            frames: Frames::new(max_bytes),
            output,
            is_readable: true,
            is_broken: false,
        }
    }

    /// Whether another address may be tried.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting | Stage::Encrypting)
    }

    /// The socket may be ready.
    pub(super) fn handle_event(&mut self) {
        self.is_readable = true;
    }

    pub(super) fn unwritten(&self) -> usize {
        self.output.unwritten().len()
    }

    /// Whether [`receive`](Self::receive) may find something without an event.
    pub(super) fn may_receive(&self) -> bool {
        self.is_readable && self.unwritten() <= MAX_UNWRITTEN
    }

    // ---- receiving ----

    /// Goes on with the connection, and returns the next message or control frame. `None`: there is none yet, or `budget`
    /// bytes were read.
    pub(super) fn receive(&mut self, budget: &mut usize) -> Result<Option<Incoming>, Ended> {
        loop {
            match self.stage {
                Stage::Connecting | Stage::Encrypting => {
                    if !self.establish().map_err(|_| Ended::Failed(self.why_failed()))? {
                        self.is_readable = false;
                        return Ok(None);
                    }
                    self.flush();
                    continue;
                }
                Stage::Upgrading => {
                    if self.read_answer()? {
                        self.stage = Stage::Open;
                        continue;
                    }
                }
                Stage::Open => {
                    if let Some(incoming) = self.frames.next(&mut self.input).map_err(|why| self.violated(why))? {
                        return Ok(Some(incoming));
                    }
                }
                Stage::Closing => self.input.clear(),
            }
            if *budget == 0 || !self.may_receive() || !self.fill(budget)? {
                return Ok(None);
            }
        }
    }

    /// Returns whether the request can be written.
    fn establish(&mut self) -> io::Result<bool> {
        if self.stage == Stage::Connecting {
            if !is_connected(self.stream.socket())? {
                return Ok(false);
            }
            self.stage = Stage::Encrypting;
        }
        let is_encrypted = self.stream.encrypt()?;
        if is_encrypted {
            self.stage = Stage::Upgrading;
        }
        Ok(is_encrypted)
    }

    /// Returns whether the server has let the client in.
    fn read_answer(&mut self) -> Result<bool, Ended> {
        match self.upgrade.answer(self.input.unread()) {
            None => Ok(false),
            Some(Answer::Accepted(length)) => {
                self.input.consume(length);
                Ok(true)
            }
            Some(Answer::Refused(status, retry_after)) => Err(Ended::Refused(status, retry_after)),
            Some(Answer::Invalid) => Err(Ended::lost()),
        }
    }

    /// Reads once. Returns whether there was something.
    fn fill(&mut self, budget: &mut usize) -> Result<bool, Ended> {
        let mut buffer = [0; READ];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(count @ 1..) => {
                    self.input.push(&buffer[..count]);
                    *budget = budget.saturating_sub(count);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return Err(self.ended()),
            }
        }
    }

    fn why_failed(&self) -> &'static str {
        if self.stage == Stage::Encrypting { "tls" } else { "no_connection" }
    }

    /// The server has ended the connection, or it is broken.
    fn ended(&self) -> Ended {
        let has_asked = self.stage != Stage::Upgrading || self.output.has_begun();
        if has_asked { Ended::lost() } else { Ended::Failed(self.why_failed()) }
    }

    /// A browser reports 1006 when a server breaks the protocol, too. A message that is too large would come again.
    fn violated(&mut self, why: Violation) -> Ended {
        self.close(Some(why.code()));
        match why {
            Violation::TooLarge => Ended::Closed(why.code(), "too_large".to_owned()),
            Violation::Protocol | Violation::NotUtf8 => Ended::lost(),
        }
    }

    // ---- sending ----

    /// Sends a message. `mask` is a random number, as below.
    pub(super) fn send(&mut self, message: &Outgoing, mask: u64) {
        let (kind, payload) = match message {
            Outgoing::Text(text) => (Data::Text, text.as_bytes()),
            Outgoing::Binary(bytes) => (Data::Binary, &**bytes),
        };
        self.push(OpCode::Data(kind), payload, mask);
    }

    pub(super) fn pong(&mut self, payload: &[u8], mask: u64) {
        self.push(OpCode::Control(Control::Pong), payload, mask);
    }

    /// Sends a close frame, if the connection is open, and drops what arrives from now on. The frame is too short for a mask
    /// to matter.
    pub(super) fn close(&mut self, code: Option<u16>) {
        let payload = code.map(u16::to_be_bytes);
        self.push(OpCode::Control(Control::Close), payload.as_ref().map_or(&[], |code| code), 0);
        if self.stage == Stage::Open {
            self.stage = Stage::Closing;
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.stage == Stage::Closing
    }

    fn push(&mut self, opcode: OpCode, payload: &[u8], mask: u64) {
        if self.stage == Stage::Open && !self.is_broken {
            self.output.push_frame(opcode, payload, mask);
        }
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) {
        if self.is_connecting() || self.is_broken {
            return;
        }
        if self.write().is_err() {
            self.output.clear();
            self.is_broken = true;
            self.is_readable = true;
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.unwritten().is_empty() {
            match self.stream.write(self.output.unwritten()) {
                Ok(count) => self.output.consume(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.stream.flush()
    }
}

/// Returns whether the socket is connected; an error if it never will be.
fn is_connected(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => {
            // Fails if the server has gone again, which the next read detects.
            let _ = socket.set_nodelay(true);
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}
