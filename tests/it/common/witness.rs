//! An application that logs its callbacks and reacts to them as a test requires.

use std::time::Duration;

use lobbyd::admission::Rate;
use lobbyd::control::LobbyControl;
use lobbyd::sending::{Pressure, RelayRequest};
use lobbyd::{
    App, Authorization, CloseReason, Context, Identity, LeaveReason, Member, Message, Protocol, Request, Time,
};

/// With `JSON` the engine speaks the protocol. Without it, the engine sends no messages of its own.
///
/// The token is the user. The query can give the identity a `tier`, a single lobby (`only`), an expiry time (`expires`, in
/// milliseconds since the Unix epoch) and `data`. The query parameter `auth` changes the decision: `later` leaves it pending and
/// reserves the user's seat, `unnamed` leaves it pending without naming the user, `nameless` allows the empty user id, and
/// the word of a close reason refuses with that reason.
pub struct Witness<const JSON: bool> {
    pub log: Vec<String>,
    pub react: React,
}

/// Reaction to an event. Receives the context, the member the event is about, and the event as it is logged.
pub type React = fn(&mut Context<'_>, Option<&Member>, &str);

impl<const JSON: bool> Default for Witness<JSON> {
    fn default() -> Self {
        Witness { log: Vec::new(), react: |_, _, _| {} }
    }
}

impl<const JSON: bool> Witness<JSON> {
    pub fn reacting(react: React) -> Self {
        Witness { log: Vec::new(), react }
    }

    /// Takes the events logged since the last call.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    fn handle(&mut self, cx: &mut Context<'_>, member: Option<&Member>, event: String) {
        (self.react)(cx, member, &event);
        self.log.push(event);
    }
}

impl<const JSON: bool> App for Witness<JSON> {
    const PROTOCOL: Protocol = if JSON { Protocol::Json } else { Protocol::Raw };
    const LOBBY_CONTROL: LobbyControl = LobbyControl::ByConfig;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        match request.query("auth").as_deref() {
            None => match Authorization::token_is_user(request) {
                Authorization::Allow(identity) => Authorization::Allow(narrowed(identity, request)),
                other => other,
            },
            Some("later") => Authorization::Pending { user: request.token().map(str::to_owned) },
            Some("unnamed") => Authorization::Pending { user: None },
            Some("nameless") => Authorization::allow(""),
            Some(word) => Authorization::Refuse(
                *CloseReason::ALL.iter().find(|reason| reason.word() == word).expect("the word of a reason"),
            ),
        }
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.handle(cx, Some(member), format!("join {}", member.user()));
    }

    fn on_rejoin(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.handle(cx, Some(member), format!("rejoin {}", member.user()));
    }

    fn on_away(&mut self, cx: &mut Context<'_>, member: &Member, why: LeaveReason) {
        assert!(member.is_away());
        self.handle(cx, Some(member), format!("away {} {}", member.user(), why.word()));
    }

    fn on_back(&mut self, cx: &mut Context<'_>, member: &Member) {
        assert!(!member.is_away());
        self.handle(cx, Some(member), format!("back {}", member.user()));
    }

    fn allows(&mut self, cx: &mut Context<'_>, from: &Member, what: RelayRequest<'_>) -> bool {
        let (text, allowed) = match what {
            RelayRequest::Broadcast { data } => {
                (format!("may {} broadcast {data}", from.user()), data != "\"forbidden\"")
            }
            RelayRequest::Direct { to, data } => {
                (format!("may {} tell {to} {data}", from.user()), data != "\"forbidden\"")
            }
            other => (format!("may {} {other:?}", from.user()), true),
        };
        self.handle(cx, Some(from), text);
        allowed
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let text = match message {
            Message::Text(text) => format!("text {} {text}", from.user()),
            Message::Json { kind, text } => format!("json {} {kind} {text}", from.user()),
            Message::Binary(bytes) => format!("binary {} {bytes:?}", from.user()),
        };
        self.handle(cx, Some(from), text);
    }

    fn on_leave(&mut self, cx: &mut Context<'_>, member: &Member, why: LeaveReason) {
        self.handle(cx, Some(member), format!("leave {} {}", member.user(), why.word()));
    }

    fn on_health(&mut self, cx: &mut Context<'_>, member: &Member, latency: Option<Duration>) {
        let answer = latency.map_or("unhealthy".into(), |latency| format!("{}us", latency.as_micros()));
        self.handle(cx, Some(member), format!("health {} {answer}", member.user()));
    }

    fn on_pressure(&mut self, cx: &mut Context<'_>, member: &Member, pressure: Pressure) {
        let text = match pressure {
            Pressure::High { queued_bytes } => format!("pressure {} high {queued_bytes}", member.user()),
            Pressure::Low { queued_bytes } => format!("pressure {} low {queued_bytes}", member.user()),
        };
        self.handle(cx, Some(member), text);
    }

    fn on_reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        self.handle(cx, None, format!("reload {}", String::from_utf8_lossy(contents)));
    }

    fn on_command(&mut self, cx: &mut Context<'_>, command: &[u8]) {
        self.handle(cx, None, format!("command {}", String::from_utf8_lossy(command)));
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, deadline: Time) {
        self.handle(cx, None, format!("drain until {deadline}"));
    }
}

/// The identity, narrowed by the parameters of the query.
fn narrowed(mut identity: Identity, request: &Request<'_>) -> Identity {
    identity.tier = request.query("tier").map(|tier| match &*tier {
        "free" => Rate::FREE,
        "pro" => Rate::PRO,
        "enterprise" => Rate::ENTERPRISE,
        other => panic!("no such tier: {other}"),
    });
    identity.data = request.query("data").map(|data| data.as_bytes().into());
    identity.lobby = request.query("only").map(Into::into);
    identity.expires = request.query("expires").map(|millis| millis.parse().expect("milliseconds"));
    identity
}
