//! Where a member connects to: its server, lobby, session and credentials, as requests name them.

use std::io;

use mio::Registry;

use super::plan::Plan;
use super::position::Position;
use super::socket::{Part, Socket, connect};

/// The way of one connection of a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// Number of the member among all, and its index in its thread.
    pub(super) number: usize,
    pub(super) at: usize,
    /// How many places its server is behind the first one of the member.
    pub(super) detours: usize,
}

impl Route {
    /// Begins to connect.
    pub(super) fn open(self, part: Part, plan: &Plan, registry: &Registry) -> io::Result<Socket> {
        let (target, address) = plan.target(self.number, self.detours);
        let socket = connect(*address, plan.source(self.number, address.ip()))?;
        let tls = plan.trust.as_ref().filter(|_| target.is_tls).map(|trust| (trust, &*target.host));
        Socket::new(socket, tls, registry, part.token(self.at))
    }

    /// Returns the request for a WebSocket.
    pub(super) fn upgrade(self, plan: &Plan, position: Option<&Position>) -> String {
        let key = data_encoding::BASE64.encode(&(u128::from(plan.run) << 64 | self.number as u128).to_be_bytes());
        let lines = format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Protocol: lobby.v1.json\r\n"
        );
        self.head(plan, "GET", "ws", position, &lines)
    }

    /// Returns the request for an event stream.
    pub(super) fn event_stream(self, plan: &Plan, position: Option<&Position>) -> String {
        self.head(plan, "GET", "sse", position, "Accept: text/event-stream\r\n")
    }

    /// Returns the request that brings messages for the event stream.
    pub(super) fn post(self, plan: &Plan, body: &str) -> String {
        let lines = format!("Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {}\r\n", body.len());
        self.head(plan, "POST", "sse", None, &lines) + body
    }

    fn head(self, plan: &Plan, method: &str, kind: &str, position: Option<&Position>, lines: &str) -> String {
        let (target, _) = plan.target(self.number, self.detours);
        format!(
            "{method} {}/{kind}/{}?session={}{} HTTP/1.1\r\nHost: {}\r\n{lines}Authorization: Bearer {}\r\n\
             User-Agent: lobbyd-load\r\n\r\n",
            target.prefix,
            plan.lobby_code(self.number),
            plan.session(self.number),
            position.map(Position::parameters).unwrap_or_default(),
            target.authority,
            plan.token(self.number),
        )
    }
}
