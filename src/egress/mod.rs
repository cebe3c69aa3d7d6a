//! Outgoing frames: the broadcast logs of lobbies and the queues of connections.

pub(crate) mod broadcast_log;
pub(crate) mod outbox;
