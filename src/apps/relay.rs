use std::time::Duration;

use log::info;

use super::auth::Auth;
use crate::control::LobbyControl;
use crate::{App, Authorization, ConnId, Context, Member, Message, Protocol, Request};

/// The default application: the JSON protocol, with all other messages relayed to the other members of the lobby.
///
/// The engine itself serves `broadcast` and `direct`. A JSON message of any other type is sent to the other members as
/// a `message` with the whole object as its `data`. A binary message is sent to them unchanged, or with its sender if
/// [`binary_sender`](crate::Config::binary_sender) is on. Users are authenticated by [`Auth`].
///
/// ```
/// use lobbyd::Config;
/// use lobbyd::apps::Relay;
/// use lobbyd::net::Server;
///
/// let config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
/// let server = Server::bind(config, Relay::default())?;
/// assert!(server.local_addr().unwrap().port() > 0);
/// # Ok::<(), lobbyd::net::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Relay {
    auth: Auth,
}

impl Relay {
    /// Creates a relay with this authentication. `Relay::default()` uses [`Auth::Open`].
    pub fn new(auth: Auth) -> Relay {
        Relay { auth }
    }
}

impl App for Relay {
    const PROTOCOL: Protocol = Protocol::Json;
    const LOBBY_CONTROL: LobbyControl = LobbyControl::ByConfig;
    const IS_STATELESS: bool = true;

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
        match message {
            Message::Json { text, .. } | Message::Text(text) => {
                cx.broadcast_message(from, text);
            }
            Message::Binary(bytes) => {
                cx.broadcast_binary(from, bytes);
            }
        }
    }

    fn on_health(&mut self, _: &mut Context<'_>, member: &Member, latency: Option<Duration>) {
        match latency {
            Some(latency) => info!(
                "conn={} user={:?} healthy latency_ms={:.3}",
                member.conn(),
                member.user(),
                latency.as_secs_f64() * 1000.0
            ),
            None => info!("conn={} user={:?} unhealthy", member.conn(), member.user()),
        }
    }

    /// Returns an empty snapshot: no state is kept after the connections have closed.
    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}
