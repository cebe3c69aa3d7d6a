//! What is known about a request before the application is asked, and what a valid one asks for.

use std::net::IpAddr;
use std::ops::Range;

use bytes::Bytes;

use super::deflate::Deflate;
use super::post::PostHead;
use crate::base::entry::{BadEntry, Entry};
use crate::base::list_query::ListQuery;
use crate::base::session::{BadClaim, Claim, SessionHash};
use crate::http::file::FileResponse;
use crate::http::probe::Probe;
use crate::http::{Cors, DateLine, PlainResponse};

/// Facts about a request that are determined before the application authorizes it. They are recorded, and a replay
/// starts from them.
///
/// A token may occur anywhere in a request. Therefore the facts contain no text of the client except the subprotocol in
/// the upgrade, of which recorders keep only the length: see [`Upgrade::echo`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Set when the path is that of a health check.
    pub(crate) probe: Option<Probe>,
    /// Whether it is a HEAD request: it is answered as a GET, without the body.
    pub(crate) is_head_request: bool,
    pub(crate) address: IpAddr,
    /// Whether `allowed_origin` permits the request.
    pub(crate) is_origin_allowed: bool,
    /// The session of the client. `Err`: the request has one that is not valid.
    pub(crate) claim: Result<Option<Claim>, BadClaim>,
    /// How the client enters its lobby. `Err`: a parameter for it is not valid.
    pub(crate) entry: Result<Entry, BadEntry>,
    /// What the page of a request for events may read of the answer.
    pub(crate) cors: Option<Cors>,
    pub(crate) form: Result<Acceptance, PlainResponse>,
    /// The response to a request for a file of the program.
    pub(crate) file: Option<Box<FileResponse>>,
    /// The part of the list of lobbies that it asks for. `Err`: the answer to another request for the same path.
    pub(crate) list: Option<Box<Result<ListQuery, PlainResponse>>>,
}

/// What a valid request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Acceptance {
    WebSocket(Upgrade),
    /// Server-sent events.
    Events,
    /// To read the messages in its body.
    Post(PostHead),
}

impl Acceptance {
    /// A request for an event stream, or a POST of messages for one.
    pub(super) fn for_events(post: Option<PostHead>) -> Acceptance {
        post.map_or(Acceptance::Events, Acceptance::Post)
    }
}

/// The sender of a request for events, or of messages for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// What it may read of the answer.
    pub(crate) cors: Option<Cors>,
    pub(crate) session: Option<SessionHash>,
}

impl Facts {
    /// Whether it is an attempt to connect, and not the message of a client that is connected or what a browser asks before
    /// it.
    pub(crate) fn is_attempt(&self) -> bool {
        match &self.form {
            Ok(form) => !matches!(form, Acceptance::Post(_)),
            Err(response) => response.status() != 204,
        }
    }

    /// Whether it is an attempt to connect from which a client may learn whether a lobby exists, or what its password is not.
    pub(crate) fn is_guess(&self) -> bool {
        self.is_attempt() && self.entry.is_ok_and(|entry| entry.is_guess())
    }

    pub(crate) fn is_upgrade(&self) -> bool {
        matches!(self.form, Ok(Acceptance::WebSocket(_)))
    }
}

/// Contents of the response to a valid upgrade request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub(crate) accept_key: String,
    pub(crate) subprotocol: Option<String>,
    /// The accepted offer of compression.
    pub(crate) deflate: Option<Deflate>,
}

impl Upgrade {
    /// Returns the byte range of the subprotocol in the response. The client wrote it, and with [`Subprotocols::Any`]
    /// it can be any text.
    pub(crate) fn echo(&self, date: DateLine) -> Option<Range<u64>> {
        let name = self.subprotocol.as_ref()?.len() as u64;
        // Only CR LF and the empty line follow it.
        let end = self.response(date).len() as u64 - 4;
        Some(end - name..end)
    }

    /// Encodes the 101 response (RFC 6455 section 4.2.2). RFC 9110 section 6.6.1 allows `Date` in it.
    pub(crate) fn response(&self, date: DateLine) -> Bytes {
        let mut response = Vec::with_capacity(256);
        response.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        response.extend_from_slice(date.as_bytes());
        response.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ");
        response.extend_from_slice(self.accept_key.as_bytes());
        if let Some(deflate) = self.deflate {
            response.extend_from_slice(b"\r\n");
            deflate.append_line(&mut response);
        }
        if let Some(name) = &self.subprotocol {
            response.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
            response.extend_from_slice(name.as_bytes());
        }
        response.extend_from_slice(b"\r\n\r\n");
        Bytes::from(response)
    }
}
