use crate::{App, Authorization, Context, Member, Message, Protocol, Request, Route};

/// Sends every message back to where it came from, on any path and for anybody. For trying a client out, and for
/// conformance tests.
///
/// Every connection is alone in a lobby of its own, as a user of its own.
#[derive(Debug, Default)]
pub struct Echo;

impl App for Echo {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn route(&self, request: &Request<'_>) -> Route {
        Route::Lobby(name(request))
    }

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::allow(name(request))
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        cx.relay_to_conn(from.conn(), message);
    }

    /// Nothing is kept of those who have gone.
    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

/// A connection's id is unique for the life of the process.
fn name(request: &Request<'_>) -> String {
    format!("echo-{}", request.conn()).replace('.', "-")
}
