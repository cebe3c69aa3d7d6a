use crate::admission::Route;
use crate::{App, Authorization, Context, Member, Message, Protocol, Request};

/// Sends every message back to its sender. Accepts any path, and needs no token. For developing clients and for
/// conformance tests.
///
/// With [`Config::deflate`](crate::Config::deflate), it also compresses what it sends back, unlike other applications: the
/// message contains only what its receiver has sent.
///
/// Every connection gets its own lobby and its own user id.
///
/// ```
/// use lobbyd::Config;
/// use lobbyd::apps::Echo;
/// use lobbyd::net::Server;
///
/// let config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
/// let server = Server::bind(config, Echo)?;
/// assert!(server.local_addr().unwrap().port() > 0);
/// # Ok::<(), lobbyd::net::Error>(())
/// ```
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
        cx.send_back(from.conn(), message);
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
