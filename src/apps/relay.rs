use std::time::Duration;

use log::info;

use super::auth::Auth;
use crate::{App, Authorization, Context, Frame, Member, Message, Protocol, Request};

/// A lobby as most want it: the JSON protocol, whose `broadcast` and `direct` the engine serves, and everything else
/// passed on to the other members.
///
/// Users are known as [`Auth`] says. A message of a type that the protocol does not know reaches the others as a `message`
/// with the whole object as its `data`; a binary message reaches them unchanged.
#[derive(Debug, Default)]
pub struct Relay {
    auth: Auth,
}

impl Relay {
    /// With users known in this way; `Relay::default()` takes the token for the user.
    pub fn new(auth: Auth) -> Relay {
        Relay { auth }
    }
}

impl App for Relay {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        self.auth.authorize(request)
    }

    fn on_reload(&mut self, _: &mut Context<'_>, contents: &[u8]) {
        self.auth.reload(contents);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        match message {
            Message::Json { text, .. } | Message::Text(text) => {
                cx.broadcast_message(from, text);
            }
            Message::Binary(bytes) => {
                cx.broadcast_from(from, &Frame::binary(bytes));
            }
        }
    }

    fn on_health(&mut self, _: &mut Context<'_>, who: &Member, latency: Option<Duration>) {
        match latency {
            Some(latency) => info!(
                "conn={} user={:?} healthy latency_ms={:.3}",
                who.conn(),
                who.user(),
                latency.as_secs_f64() * 1000.0
            ),
            None => info!("conn={} user={:?} unhealthy", who.conn(), who.user()),
        }
    }

    /// Nothing is kept of those who have gone.
    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}
