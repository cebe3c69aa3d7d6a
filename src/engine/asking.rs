//! Questions about clients that the application leaves to the driver. Their answers are inputs like all others, so a replay
//! asks nobody.

use log::warn;

use super::Engine;
use super::app::App;
use super::context::Context;
use super::member::Authorization;
use super::state::conn::ConnState;
use super::state::questions::{ConnectQuestion, Question, QuestionKind, TokenText};
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::ws::handshake::Request;

impl Context<'_> {
    /// Asks the backend at [`hook`](crate::Config::hook) whether the client may connect, and returns the answer for
    /// [`App::authorize`]: the authorization is pending until the backend has answered.
    ///
    /// The answer is recorded in the journal, so a replay needs no backend. Without `hook` the client is refused with 1011
    /// `internal_error`.
    ///
    /// ```
    /// use lobbyd::{App, Authorization, Context, Member, Message, Protocol, Request};
    ///
    /// /// Admits guests by itself, and asks the backend about all others.
    /// struct Mixed;
    ///
    /// impl App for Mixed {
    ///     const PROTOCOL: Protocol = Protocol::Json;
    ///
    ///     fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
    ///         match request.token() {
    ///             None => Authorization::allow(format!("guest-{}", request.conn())),
    ///             Some(_) => cx.ask_hook(request),
    ///         }
    ///     }
    ///
    ///     fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
    /// }
    /// ```
    pub fn ask_hook(&mut self, request: &Request<'_>) -> Authorization {
        let value = |name: &str| {
            let is_cookie = name.eq_ignore_ascii_case("cookie");
            if is_cookie { request.cookies() } else { request.header(name).map(str::to_owned) }
        };
        let header = |name: &String| value(name).map(|value| (name.clone(), value));
        let path = request.path();
        let lobby = path.strip_prefix("/ws/").or_else(|| path.strip_prefix("/sse/"));
        let question = ConnectQuestion {
            lobby: lobby.map(str::to_owned),
            path: path.to_owned(),
            token: request.token().map(str::to_owned),
            user: request.query("user").map(|user| user.into_owned()),
            origin: request.header("origin").map(str::to_owned),
            headers: self.core.config.hook_headers.listed.iter().filter_map(header).collect(),
        };
        self.ask(request.conn(), QuestionKind::Connect(Box::new(question)))
    }

    /// Lets the client wait until the keys at [`jwt_jwks_url`](crate::Config::jwt_jwks_url) were fetched again, and returns the
    /// answer for [`App::authorize`]. Then [`App::authorize_again`] is called with this token.
    ///
    /// No example of its own: `apps::Jwt` calls it for a token whose key is not known.
    pub fn await_keys(&mut self, conn: ConnId, token: &str) -> Authorization {
        self.ask(conn, QuestionKind::Key(TokenText(token.into())))
    }

    /// Reports that the contents given to [`App::on_reload`] are invalid, and that the old ones stay in force.
    ///
    /// If they are keys that were fetched, the fetch counts as failed: it is tried again soon, and clients that wait for it are
    /// asked to come back.
    ///
    /// ```
    /// use lobbyd::{App, Authorization, Context, Member, Message, Protocol, Request};
    ///
    /// /// Admits the users in a list of names, which can be reloaded.
    /// struct Listed(Vec<String>);
    ///
    /// impl App for Listed {
    ///     const PROTOCOL: Protocol = Protocol::Json;
    ///
    ///     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
    ///         match Authorization::token_is_user(request) {
    ///             Authorization::Allow(identity) if self.0.iter().any(|name| *name == *identity.user) => {
    ///                 Authorization::Allow(identity)
    ///             }
    ///             _ => Authorization::Refuse(lobbyd::CloseReason::Unauthorized),
    ///         }
    ///     }
    ///
    ///     fn on_reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
    ///         match str::from_utf8(contents) {
    ///             Ok(names) => self.0 = names.lines().map(str::to_owned).collect(),
    ///             Err(_) => cx.refuse_reload(),
    ///         }
    ///     }
    ///
    ///     fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
    /// }
    /// ```
    pub fn refuse_reload(&mut self) {
        self.core.questions.refuse_reload();
    }

    fn ask(&mut self, conn: ConnId, of: QuestionKind) -> Authorization {
        // An application may name a connection that has gone.
        if self.core.conns.open(conn).is_none() {
            return Authorization::Refuse(CloseReason::InternalError);
        }
        let address = self.core.conns.address(conn.key());
        if self.core.questions.push(Question { conn, address, of }) {
            return Authorization::Pending { user: None };
        }
        warn!("conn={conn} refused: the application asks the hook, and none is configured");
        Authorization::Refuse(CloseReason::InternalError)
    }
}

impl<A: App> Engine<A> {
    /// Accepts questions of the application from now on.
    pub(crate) fn answer_questions(&mut self, connect: bool, keys: bool) {
        self.core.questions.start(connect, keys);
    }

    /// Takes the questions since the last call.
    pub(crate) fn take_questions(&mut self) -> impl Iterator<Item = Question> + use<A> {
        self.core.questions.take()
    }

    /// Returns whether a connection still waits for the answer to its question.
    pub(crate) fn awaits_answer(&self, conn: ConnId) -> bool {
        let slot = self.core.conns.open(conn).filter(|slot| slot.close_kind.is_none() && slot.wire.is_deciding());
        // One that waits for the cluster was answered before.
        slot.is_some_and(|slot| matches!(slot.state, ConnState::Pending(Some(_)))) && !self.core.waits_for_cluster(conn)
    }

    /// Passes keys that were fetched to [`App::on_reload`]. Returns whether the application has taken them.
    pub(crate) fn reload_keys(&mut self, now: Time, contents: &[u8]) -> bool {
        self.core.questions.take_reload_refusal();
        self.handle_reload(now, contents);
        !self.core.questions.take_reload_refusal()
    }

    /// Lets the application decide again about a client that waited for keys, and handles its answer.
    pub(crate) fn authorize_again(&mut self, now: Time, conn: ConnId, token: &str) {
        // The call is not recorded, only its answer. So it must not change what the application draws later.
        let random = self.core.random.state();
        let answer = self.app.authorize_again(&mut Context { core: &mut self.core }, conn, token);
        self.core.random.set_state(random);
        let answer = match answer {
            Authorization::Pending { .. } => Authorization::Refuse(CloseReason::Unauthorized),
            answer => answer,
        };
        self.handle_authorized(now, conn, answer);
    }
}
