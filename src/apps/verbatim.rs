use super::auth::Auth;
use crate::{App, Authorization, Context, Member, Message, Protocol, Request};

/// Passes every message on to the rest of the lobby, unchanged and unread. Says nothing of its own.
///
/// For payloads that are nobody's business but the members'. Users are known as [`Auth`] says.
#[derive(Debug, Default)]
pub struct Verbatim {
    auth: Auth,
}

impl Verbatim {
    /// With users known in this way; `Verbatim::default()` takes the token for the user.
    pub fn new(auth: Auth) -> Verbatim {
        Verbatim { auth }
    }
}

impl App for Verbatim {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        self.auth.authorize(request)
    }

    fn on_reload(&mut self, _: &mut Context<'_>, contents: &[u8]) {
        self.auth.reload(contents);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        cx.relay(from, message);
    }

    /// Nothing is kept of those who have gone.
    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}
