use super::auth::Auth;
use crate::{App, Authorization, ConnId, Context, Member, Message, Protocol, Request};

/// Relays every message unchanged to the other members of the lobby, without reading it. Sends no messages of its own.
///
/// For payloads in the members' own format. Users are authenticated by [`Auth`].
///
/// ```
/// use lobbyd::Config;
/// use lobbyd::apps::Verbatim;
/// use lobbyd::net::Server;
///
/// let config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
/// let server = Server::bind(config, Verbatim::default())?;
/// assert!(server.local_addr().unwrap().port() > 0);
/// # Ok::<(), lobbyd::net::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Verbatim {
    auth: Auth,
}

impl Verbatim {
    /// Creates the application with this authentication. `Verbatim::default()` uses [`Auth::Open`].
    pub fn new(auth: Auth) -> Verbatim {
        Verbatim { auth }
    }
}

impl App for Verbatim {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        self.auth.authorize(cx, request)
    }

    fn authorize_again(&mut self, cx: &mut Context<'_>, conn: ConnId, token: &str) -> Authorization {
        self.auth.authorize_again(cx, conn, token)
    }

    fn on_reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        self.auth.reload(cx, contents);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        cx.broadcast_from(from, message);
    }

    /// Returns an empty snapshot: no state is kept after the connections have closed.
    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}
