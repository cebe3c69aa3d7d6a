//! Actions for the driver of a session.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;

use super::address::Address;

/// Names an attempt to connect, and the connection that it leads to. The driver names it with everything that it reports.
/// The [module](crate::client) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub(super) u64);

/// An action for the driver of a session. Actions are executed in order. The [module](crate::client) has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection.
    Connect(Attempt),
    /// Send a message on a connection.
    Send(AttemptId, Outgoing),
    /// Close a connection, or give up an attempt: with this code, or with a close frame without one. With a code the seat is
    /// freed, without one it is kept. Nothing needs to be reported of it any more.
    Close(AttemptId, Option<u16>),
}

/// A message to send. The [module](crate::client) has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
}

impl Outgoing {
    pub(super) fn len(&self) -> usize {
        match self {
            Outgoing::Text(text) => text.len(),
            Outgoing::Binary(bytes) => bytes.len(),
        }
    }
}

/// An attempt to connect. The [module](crate::client) has an example.
///
/// The driver gets a token, which may take time, and opens a WebSocket to [`host`](Self::host) and [`port`](Self::port) with
/// [`target`](Self::target) and [`subprotocols`](Self::subprotocols).
#[derive(Clone, PartialEq, Eq)]
pub struct Attempt {
    pub(super) id: AttemptId,
    pub(super) address: Address,
}

impl Attempt {
    /// Returns the name of the attempt.
    pub fn id(&self) -> AttemptId {
        self.id
    }

    /// Returns whether the connection has TLS.
    pub fn is_secure(&self) -> bool {
        self.address.origin.is_secure
    }

    /// Returns the host: a name, or an address without brackets.
    pub fn host(&self) -> &str {
        self.address.origin.host()
    }

    /// Returns the port, 80 or 443 if the address names none.
    pub fn port(&self) -> u16 {
        self.address.origin.port()
    }

    /// Returns the value of the header `Host`.
    pub fn authority(&self) -> &str {
        &self.address.origin.authority
    }

    /// Returns the path with the query: the target of the upgrade request. It contains the name of the session, which is a
    /// secret.
    pub fn target(&self) -> String {
        self.address.target()
    }

    /// Returns the whole address, for libraries that open connections by it.
    pub fn url(&self) -> String {
        let scheme = if self.is_secure() { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.authority(), self.target())
    }

    /// Returns the values of `Sec-WebSocket-Protocol`, which carry the token.
    pub fn subprotocols(&self, token: Option<&str>) -> Vec<String> {
        let bearer = token.map(|token| format!("base64url.bearer.lobby.{}", BASE64URL_NOPAD.encode(token.as_bytes())));
        ["lobby.v1.json".to_owned()].into_iter().chain(bearer).collect()
    }
}

/// Without the query, which contains the name of the session.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt({}, {})", self.id.0, self.authority())
    }
}
