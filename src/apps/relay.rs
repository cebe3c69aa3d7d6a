use std::time::Duration;

use log::info;

use crate::{App, Authorization, Context, Frame, Member, Message, Request, Speech};

/// A lobby as most want it: the JSON protocol, whose `broadcast` and `direct` the engine serves, and everything else
/// passed on to the other members.
///
/// The token is the user's id. A message of a type that the protocol does not know reaches the others as a `message`
/// with the whole object as its `data`; a binary message reaches them unchanged.
#[derive(Debug, Default)]
pub struct Relay;

impl App for Relay {
    const SPEECH: Speech = Speech::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
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
                "conn={} user={} healthy latency_ms={:.3}",
                who.conn(),
                who.user(),
                latency.as_secs_f64() * 1000.0
            ),
            None => info!("conn={} user={} unhealthy", who.conn(), who.user()),
        }
    }
}
