//! Model clients: the path of their bytes, what they send, and the view that each builds from what it receives.
//!
//! A client checks the server against RFC 6455 and the lobby protocol. It knows nothing of the engine: what the engine
//! must agree with is compared elsewhere.

pub(crate) mod address;
pub(crate) mod answers;
pub(crate) mod asked;
pub(crate) mod books;
mod changing;
pub(crate) mod clients;
mod events;
mod in_session;
mod known_lobby;
pub(crate) mod link;
pub(crate) mod lobby;
pub(crate) mod payload;
pub(crate) mod pipe;
pub(crate) mod player;
pub(crate) mod posting;
mod receive;
pub(crate) mod request;
mod resume;
pub(crate) mod retry;
mod send;
pub(crate) mod sent;
mod server_text;
pub(crate) mod sessions;
pub(crate) mod shared_state;
pub(crate) mod view;
