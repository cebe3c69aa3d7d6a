//! The messages of a member that reads an event stream: one POST at a time, on a connection that is kept.
//!
//!     flush ──► nothing waits, or a POST is under way
//!       └─► (connect) ──► request ──202──► the next one
//!                            ├─another status──► the event stream is given up
//!                            └─end of a connection that had answered before──► the same request on a new one

use std::collections::VecDeque;
use std::io;

use mio::Registry;

use super::ended::Ended;
use super::plan::Plan;
use super::response::{Piece, Responses, header};
use super::route::Route;
use super::socket::{Part, Socket};

/// Bytes of a body of several messages at most, as in `lobby.js`.
const MAX_TOGETHER: usize = 4096;

#[derive(Debug)]
pub(super) struct Posts {
    route: Route,
    socket: Option<Socket>,
    responses: Responses,
    /// Messages that wait, and their bytes.
    lines: VecDeque<String>,
    line_bytes: usize,
    /// Body of the request without an answer.
    under_way: Option<String>,
    /// Whether a request was answered on this connection.
    has_answered: bool,
    /// Answers with status 202 that nobody has counted.
    pub(super) accepted: u64,
}

impl Posts {
    pub(super) fn new(route: Route) -> Posts {
        Posts {
            route,
            socket: None,
            responses: Responses::default(),
            lines: VecDeque::new(),
            line_bytes: 0,
            under_way: None,
            has_answered: false,
            accepted: 0,
        }
    }

    pub(super) fn push(&mut self, line: String) {
        self.line_bytes += line.len();
        self.lines.push_back(line);
    }

    /// Returns the number of bytes that wait to be sent or for an answer.
    pub(super) fn unsent(&self) -> usize {
        self.line_bytes + self.under_way.as_ref().map_or(0, String::len)
    }

    /// Begins the next request if none is under way, and writes as much as the socket takes.
    pub(super) fn flush(&mut self, plan: &Plan, registry: &Registry) -> io::Result<()> {
        if self.under_way.is_none()
            && self.responses.is_between()
            && let Some(body) = self.next_body()
        {
            let socket = match &mut self.socket {
                Some(socket) => socket,
                none => none.insert(self.route.open(Part::Posts, plan, registry)?),
            };
            socket.push(self.route.post(plan, &body).as_bytes());
            self.under_way = Some(body);
        }
        self.write(Socket::flush)
    }

    pub(super) fn handle_writable(&mut self) -> io::Result<()> {
        self.write(Socket::handle_writable)
    }

    fn write(&mut self, write: fn(&mut Socket) -> io::Result<()>) -> io::Result<()> {
        match self.socket.as_mut().map_or(Ok(()), write) {
            // The next read finds out that the connection has ended.
            Err(error) if self.may_repeat() && is_end(&error) => Ok(()),
            result => result,
        }
    }

    /// Takes a few small messages or one large one.
    fn next_body(&mut self) -> Option<String> {
        let mut body = self.pop()?;
        while self.lines.front().is_some_and(|line| body.len() + line.len() < MAX_TOGETHER)
            && let Some(line) = self.pop()
        {
            body.push('\n');
            body.push_str(&line);
        }
        Some(body)
    }

    fn pop(&mut self) -> Option<String> {
        let line = self.lines.pop_front()?;
        self.line_bytes -= line.len();
        Some(line)
    }

    /// Reads once. Returns whether there may be more to read.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<bool, Ended> {
        let Some(socket) = &mut self.socket else { return Ok(false) };
        match socket.read(buffer) {
            Ok(None) => return Ok(false),
            Ok(Some(0)) => self.lost(&"end of the stream")?,
            Ok(Some(count)) => {
                self.responses.push(&buffer[..count]);
                self.answer()?;
            }
            Err(error) if is_end(&error) => self.lost(&error)?,
            Err(error) => return Err(failed(&error)),
        }
        Ok(self.socket.is_some())
    }

    fn answer(&mut self) -> Result<(), Ended> {
        while let Some(piece) = self.responses.next().map_err(|what| failed(&what))? {
            let Piece::Head(status, head) = piece else { continue };
            if self.under_way.take().is_none() {
                // The server says why it ends a connection without a request.
                self.disconnect();
                break;
            }
            if status != 202 {
                return Err(Ended::post_refused(status, &head));
            }
            self.accepted += 1;
            self.has_answered = true;
            let is_kept = header(&head, "connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
            if !is_kept {
                self.disconnect();
                break;
            }
        }
        Ok(())
    }

    /// Whether a request is sent again if the connection ends: the server may have ended it, because it was idle, before it
    /// has seen the request. Browsers do the same. The numbers of the messages keep them from being executed twice.
    fn may_repeat(&self) -> bool {
        self.has_answered && self.responses.is_between()
    }

    /// The connection has ended.
    fn lost(&mut self, why: &dyn std::fmt::Display) -> Result<(), Ended> {
        if let Some(body) = self.under_way.take() {
            if !self.may_repeat() {
                return Err(failed(why));
            }
            self.line_bytes += body.len();
            self.lines.push_front(body);
        }
        self.disconnect();
        Ok(())
    }

    /// The next request has a connection of its own.
    fn disconnect(&mut self) {
        self.socket = None;
        self.responses = Responses::default();
        self.has_answered = false;
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};

    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn failed(why: &dyn std::fmt::Display) -> Ended {
    Ended::Failed(format!("POST: {why}"))
}
