//! How a member is connected: by a WebSocket, or by an event stream and POSTs. Bytes in, messages out, and back.

use std::io;

use lobbyd::sim::wire::{self, Opcode, Reader, Received};
use mio::Registry;

use super::ended::Ended;
use super::event_stream::EventStream;
use super::input::MAX_MESSAGE;
use super::plan::{MAX_UNANSWERED, Plan};
use super::position::Position;
use super::posts::Posts;
use super::response::{ENDLESS_HEAD, MAX_HEAD};
use super::route::Route;
use super::socket::{Part, Socket};

/// Pings are not answered while more bytes than this wait to be written besides messages of the member: a server may ask and not read.
const MAX_UNSENT_FOR_ANSWERS: usize = 64 << 10;

/// What a member has received.
#[derive(Debug)]
pub(super) enum Item {
    Text(String),
    Binary,
}

#[derive(Debug)]
pub(super) struct Link {
    /// On which messages are received.
    socket: Socket,
    kind: Kind,
    max_unsent_for_answers: usize,
}

#[derive(Debug)]
enum Kind {
    WebSocket { reader: Reader, is_upgraded: bool },
    Events(Box<(EventStream, Posts)>),
}

impl Link {
    /// Begins to connect. The request is written when the socket is connected.
    pub(super) fn open(
        route: Route,
        position: Option<&Position>,
        plan: &Plan,
        registry: &Registry,
    ) -> io::Result<Link> {
        let mut socket = route.open(Part::Main, plan, registry)?;
        let (request, kind) = if plan.reads_events(route.number) {
            let kind = Kind::Events(Box::new((EventStream::default(), Posts::new(route))));
            (route.event_stream(plan, position), kind)
        } else {
            (route.upgrade(plan, position), Kind::WebSocket { reader: Reader::default(), is_upgraded: false })
        };
        socket.push(request.as_bytes());
        let max_unsent_for_answers = MAX_UNSENT_FOR_ANSWERS + MAX_UNANSWERED * plan.bytes;
        Ok(Link { socket, kind, max_unsent_for_answers })
    }

    pub(super) fn handle_writable(&mut self, part: Part) -> io::Result<()> {
        match (part, &mut self.kind) {
            (Part::Main, _) => self.socket.handle_writable(),
            (Part::Posts, Kind::Events(events)) => events.1.handle_writable(),
            (Part::Posts, Kind::WebSocket { .. }) => Ok(()),
        }
    }

    pub(super) fn push(&mut self, text: String) {
        match &mut self.kind {
            Kind::WebSocket { .. } => self.socket.push(&wire::text(&text)),
            Kind::Events(events) => events.1.push(text),
        }
    }

    /// Sends the answer to a ping, unless too much waits already.
    pub(super) fn answer(&mut self, text: String) {
        if self.unsent() <= self.max_unsent_for_answers {
            self.push(text);
        }
    }

    /// Returns the number of bytes that wait to be sent, or for the answer to a POST.
    pub(super) fn unsent(&self) -> usize {
        match &self.kind {
            Kind::WebSocket { .. } => self.socket.unwritten(),
            Kind::Events(events) => events.1.unsent(),
        }
    }

    /// Writes as much as the sockets take.
    pub(super) fn flush(&mut self, plan: &Plan, registry: &Registry) -> io::Result<()> {
        self.socket.flush()?;
        match &mut self.kind {
            Kind::WebSocket { .. } => Ok(()),
            Kind::Events(events) => events.1.flush(plan, registry),
        }
    }

    /// Reads once. Returns whether there may be more to read.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<bool, Ended> {
        match self.socket.read(buffer) {
            Ok(None) => Ok(false),
            Ok(Some(0)) => Err(Ended::EndOfStream),
            Ok(Some(count)) => {
                match &mut self.kind {
                    Kind::WebSocket { reader, .. } => reader.push(&buffer[..count]),
                    Kind::Events(events) => events.0.push(&buffer[..count]),
                }
                Ok(true)
            }
            Err(error) => Err(Ended::Failed(error.to_string())),
        }
    }

    /// Reads the answers to POSTs once. Returns whether there may be more to read.
    pub(super) fn read_posts(&mut self, buffer: &mut [u8]) -> Result<bool, Ended> {
        match &mut self.kind {
            Kind::WebSocket { .. } => Ok(false),
            Kind::Events(events) => events.1.read(buffer),
        }
    }

    /// Returns how many POSTs were accepted since the last call.
    pub(super) fn take_accepted(&mut self) -> u64 {
        match &mut self.kind {
            Kind::WebSocket { .. } => 0,
            Kind::Events(events) => std::mem::take(&mut events.1.accepted),
        }
    }

    /// Returns the next message that has arrived whole. Answers pings.
    pub(super) fn next(&mut self) -> Result<Option<Item>, Ended> {
        let (reader, is_upgraded) = match &mut self.kind {
            Kind::Events(events) => return Ok(events.0.next()?.map(Item::Text)),
            Kind::WebSocket { reader, is_upgraded } => (reader, is_upgraded),
        };
        let broken = |what: &str| Err(Ended::Failed(format!("the server broke the protocol: {what}")));
        loop {
            match reader.next().map_err(|violation| Ended::Failed(violation.to_string()))? {
                None if !*is_upgraded && reader.unread() > MAX_HEAD => return broken(ENDLESS_HEAD),
                None if reader.unread() > MAX_MESSAGE => return broken("a message of more than 16 MiB"),
                None => return Ok(None),
                Some(Received::Text(text)) => return Ok(Some(Item::Text(text))),
                Some(Received::Binary(_)) => return Ok(Some(Item::Binary)),
                Some(Received::Ping(payload)) => {
                    if self.socket.unwritten() <= self.max_unsent_for_answers {
                        self.socket.push(&wire::frame(Opcode::PONG, true, &payload, [1, 2, 3, 4]));
                    }
                }
                Some(Received::Answer(101, _)) if reader.has_deflate() => {
                    return broken("compression that was not asked for");
                }
                Some(Received::Answer(101, _)) => *is_upgraded = true,
                Some(Received::Body(_) | Received::Pong(_)) => {}
                Some(Received::Answer(status, head)) => return Err(Ended::refused(status, &head)),
                Some(Received::Close(code, reason)) => return Err(Ended::Closed(code, reason)),
            }
        }
    }
}
