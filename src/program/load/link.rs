//! How a member is connected: by a WebSocket, or by an event stream and POSTs. Bytes in, messages out, and back.

use std::io;

use lobbyd::sim::wire::{self, Opcode, Reader, Received};
use mio::Registry;

use super::ended::Ended;
use super::event_stream::EventStream;
use super::plan::Plan;
use super::position::Position;
use super::posts::Posts;
use super::route::Route;
use super::socket::{Part, Socket};

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
}

#[derive(Debug)]
enum Kind {
    WebSocket(Reader),
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
            (route.upgrade(plan, position), Kind::WebSocket(Reader::default()))
        };
        socket.push(request.as_bytes());
        Ok(Link { socket, kind })
    }

    pub(super) fn handle_writable(&mut self, part: Part) -> io::Result<()> {
        match (part, &mut self.kind) {
            (Part::Main, _) => self.socket.handle_writable(),
            (Part::Posts, Kind::Events(events)) => events.1.handle_writable(),
            (Part::Posts, Kind::WebSocket(_)) => Ok(()),
        }
    }

    pub(super) fn push(&mut self, text: String) {
        match &mut self.kind {
            Kind::WebSocket(_) => self.socket.push(&wire::text(&text)),
            Kind::Events(events) => events.1.push(text),
        }
    }

    /// Writes as much as the sockets take.
    pub(super) fn flush(&mut self, plan: &Plan, registry: &Registry) -> io::Result<()> {
        self.socket.flush()?;
        match &mut self.kind {
            Kind::WebSocket(_) => Ok(()),
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
                    Kind::WebSocket(reader) => reader.push(&buffer[..count]),
                    Kind::Events(events) => events.0.push(&buffer[..count]),
                }
                Ok(true)
            }
            Err(error) => Err(Ended::Failed(error.to_string())),
        }
    }

    /// Reads the answers to POSTs. Returns how many were accepted.
    pub(super) fn read_posts(&mut self, buffer: &mut [u8]) -> Result<u64, Ended> {
        match &mut self.kind {
            Kind::WebSocket(_) => Ok(0),
            Kind::Events(events) => {
                let posts = &mut events.1;
                posts.receive(buffer)?;
                Ok(std::mem::take(&mut posts.accepted))
            }
        }
    }

    /// Returns the next message that has arrived whole. Answers pings.
    pub(super) fn next(&mut self) -> Result<Option<Item>, Ended> {
        let reader = match &mut self.kind {
            Kind::Events(events) => return Ok(events.0.next()?.map(Item::Text)),
            Kind::WebSocket(reader) => reader,
        };
        loop {
            match reader.next().map_err(|violation| Ended::Failed(violation.to_string()))? {
                None => return Ok(None),
                Some(Received::Text(text)) => return Ok(Some(Item::Text(text))),
                Some(Received::Binary(_)) => return Ok(Some(Item::Binary)),
                Some(Received::Ping(payload)) => {
                    self.socket.push(&wire::frame(Opcode::PONG, true, &payload, [1, 2, 3, 4]));
                }
                Some(Received::Answer(101, _) | Received::Body(_) | Received::Pong(_)) => {}
                Some(Received::Answer(status, head)) => return Err(Ended::refused(status, &head)),
                Some(Received::Close(code, reason)) => return Err(Ended::Closed(code, reason)),
            }
        }
    }
}
