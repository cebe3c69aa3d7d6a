use crate::admission::Route;
use crate::{App, Authorization, Context, Member, Message, Protocol, Request};

/// Sends every message back to its sender. Accepts any path, and needs no token. For developing clients and for
/// conformance tests.
///
/// Every connection gets its own lobby and its own user id.
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
        cx.send_to_conn(from.conn(), message);
    }

    /// Returns an empty snapshot: the application has no state.
    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

/// Returns a name for the lobby and the user. It is unique for the life of the process, like the connection's id.
fn name(request: &Request<'_>) -> String {
    format!("echo-{}", request.conn()).replace('.', "-")
}
