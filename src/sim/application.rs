//! The application of a client session: what the session reports must be what the server has sent.
//!
//! Knows neither the connections of the session nor the books of a run. Each frame with something to report is announced
//! before the session reads it. The events are polled at once:
//!
//! - Every message is reported once, unchanged and in order, and no other one. Before the first list messages wait.
//! - [`Event::Gap`] follows a welcome that said that frames are missing, and nothing else.
//! - Members, data, host and settings, kept by the events alone, are those of the session.
//! - A request has one outcome. The state of the session changes as documented.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value};

use crate::client::{Ack, Event, LobbyError, LobbyMember, LobbyMessage, RequestId, Session, State};

/// The outcome of a request.
pub(super) type Outcome = Result<Ack, LobbyError>;

#[derive(Debug)]
pub(super) struct Application {
    state: State,
    /// Messages that were sent and not reported.
    unreported: VecDeque<Value>,
    expects_gap: bool,
    /// `None` before the first list.
    lobby: Option<Lobby>,
    /// Until the next list, changes may concern members that are not known.
    is_forked: bool,
    requests: BTreeSet<RequestId>,
    /// Number of messages that were reported.
    pub(super) messages: u64,
    pub(super) gaps: u64,
}

/// A lobby as the events describe it.
#[derive(Debug)]
struct Lobby {
    /// By seat.
    members: BTreeMap<String, Member>,
    data: Map<String, Value>,
    settings: Map<String, Value>,
    /// Its seat. Until another one is reported, the host may have left.
    host: Option<String>,
    countdown: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    user: String,
    is_away: bool,
    data: Map<String, Value>,
}

impl Member {
    fn of(member: &LobbyMember) -> Member {
        Member { user: member.user().to_owned(), is_away: member.is_away(), data: member.data().clone() }
    }
}

impl Lobby {
    /// The lobby as the session knows it.
    fn of(session: &Session) -> Lobby {
        Lobby {
            members: session.members().map(|member| (member.conn().to_owned(), Member::of(member))).collect(),
            data: session.data().clone(),
            settings: without_nulls(session.settings()),
            host: session.host().map(|host| host.conn().to_owned()),
            countdown: session.countdown(),
        }
    }

    fn values(&self) -> (&Map<String, Value>, &Map<String, Value>, Option<u64>) {
        (&self.data, &self.settings, self.countdown)
    }

    fn apply(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Join(member) => {
                let before = self.members.insert(member.conn().to_owned(), Member::of(&member));
                before.map_or(Ok(()), |_| Err(format!("{} joins twice", member.conn())))
            }
            Event::Leave { who, .. } => {
                let gone = self.members.remove(who.conn());
                gone.map(drop).ok_or_else(|| format!("{} leaves and is not there", who.conn()))
            }
            Event::Away(who) => self.turn(&who, true),
            Event::Back(who) => self.turn(&who, false),
            Event::Data { changes, who: None, .. } => {
                apply(&mut self.data, changes);
                Ok(())
            }
            Event::Data { changes, who: Some(who), .. } => {
                let member = self.members.get_mut(who.conn()).ok_or("data of a member that is not there")?;
                apply(&mut member.data, changes);
                Ok(())
            }
            Event::Settings { changes, .. } => {
                apply(&mut self.settings, changes);
                Ok(())
            }
            Event::Host(host) => {
                self.host = host.map(|host| host.conn().to_owned());
                Ok(())
            }
            Event::Countdown(at) => {
                self.countdown = at;
                Ok(())
            }
            Event::Start(_) => {
                self.countdown = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn turn(&mut self, who: &LobbyMember, is_away: bool) -> Result<(), String> {
        let member = self.members.get_mut(who.conn()).filter(|member| member.is_away != is_away);
        let member = member.ok_or_else(|| format!("{} is away or back, and cannot be", who.conn()))?;
        member.is_away = is_away;
        Ok(())
    }
}

/// Returns the settings that have a value: a change does not tell `null` from no value.
fn without_nulls(settings: &Map<String, Value>) -> Map<String, Value> {
    settings.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Applies changes, of which `null` deletes a key.
fn apply(values: &mut Map<String, Value>, changes: Map<String, Value>) {
    values.extend(changes);
    values.retain(|_, value| !value.is_null());
}

/// A message as it is reported: what is no part of the data, and the data without a `ref`.
fn reported(from: Option<&str>, seq: Option<u64>, is_direct: bool, mut data: Value) -> Value {
    if let Value::Object(fields) = &mut data
        && fields.get("type").is_some_and(Value::is_string)
    {
        fields.remove("ref");
    }
    serde_json::json!({"from": from, "seq": seq, "is_direct": is_direct, "data": data})
}

impl Default for Application {
    fn default() -> Application {
        Application {
            state: State::Idle,
            unreported: VecDeque::new(),
            expects_gap: false,
            lobby: None,
            is_forked: false,
            requests: BTreeSet::new(),
            messages: 0,
            gaps: 0,
        }
    }
}

impl Application {
    /// The session is about to read this `message` or `direct`, which it must report.
    pub(super) fn expect_message(&mut self, message: &Value) {
        let (from, seq) = (message["from"].as_str(), message["seq"].as_u64());
        self.unreported.push_back(reported(from, seq, message["type"] == "direct", message["data"].clone()));
    }

    /// The session is about to read that frames are missing.
    pub(super) fn expect_gap(&mut self) {
        self.expects_gap = true;
    }

    /// What the session knows may be lost. Its next list says what is.
    pub(super) fn expect_fork(&mut self) {
        self.is_forked = true;
    }

    /// The session has accepted a request.
    pub(super) fn requested(&mut self, id: RequestId) {
        self.requests.insert(id);
    }

    /// Whether the session was reported to be closed.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Polls all events. Returns the outcomes of requests.
    pub(super) fn poll(&mut self, session: &mut Session) -> Result<Vec<(RequestId, Outcome)>, String> {
        let mut outcomes = Vec::new();
        while let Some(event) = session.poll_event() {
            if let Event::Settled { id, result } = event {
                if !self.requests.remove(&id) {
                    return Err(format!("{id:?} is settled twice, now with {result:?}"));
                }
                outcomes.push((id, result));
            } else {
                self.read(event, session)?;
            }
        }
        if session.state() != self.state {
            return Err(format!("the session is {:?}, and has reported {:?}", session.state(), self.state));
        }
        if matches!(self.state, State::Connecting | State::Waiting) && session.poll_timeout().is_none() {
            return Err(format!("the session is {:?}, and waits for nothing", self.state));
        }
        if self.state == State::Closed && !self.requests.is_empty() {
            return Err("the session is closed, and a request has no outcome".to_owned());
        }
        if self.is_forked && self.state == State::Open {
            self.is_forked = false;
            self.lobby = Some(Lobby::of(session));
        }
        if let Some(lobby) = self.lobby.as_ref().filter(|_| !self.is_forked) {
            let known = Lobby::of(session);
            let is_host_there = lobby.host.as_ref().is_some_and(|host| lobby.members.contains_key(host));
            let is_host_known = lobby.host.as_ref().filter(|_| is_host_there) == known.host.as_ref();
            if lobby.members != known.members || lobby.values() != known.values() || !is_host_known {
                return Err(format!("the events lead to {lobby:?}, and the session knows {known:?}"));
            }
            if let Some(message) = self.unreported.front() {
                return Err(format!("a message is not reported: {message}"));
            }
        }
        if self.state == State::Open && self.expects_gap {
            return Err("frames are missing, and no gap was reported".to_owned());
        }
        Ok(outcomes)
    }

    fn read(&mut self, event: Event, session: &Session) -> Result<(), String> {
        match event {
            Event::Connection { state, .. } => {
                let may_follow = match self.state {
                    State::Idle => matches!(state, State::Connecting | State::Closed),
                    State::Connecting => matches!(state, State::Open | State::Waiting | State::Closed),
                    State::Open => matches!(state, State::Waiting | State::Closed),
                    State::Waiting => matches!(state, State::Connecting | State::Closed),
                    State::Closed => false,
                };
                if !may_follow {
                    return Err(format!("{state:?} follows {:?}", self.state));
                }
                self.state = state;
                if state == State::Open && self.lobby.is_none() {
                    self.lobby = Some(Lobby::of(session));
                }
                Ok(())
            }
            Event::Message(message) => self.reported(&message),
            Event::Gap => {
                self.gaps += 1;
                if std::mem::take(&mut self.expects_gap) { Ok(()) } else { Err("a gap without a reason".to_owned()) }
            }
            event => match &mut self.lobby {
                // What differs is not known.
                Some(_) if self.is_forked => Ok(()),
                Some(lobby) => lobby.apply(event),
                None if matches!(event, Event::Members | Event::Error(_)) => Ok(()),
                None => Err(format!("before the first list: {event:?}")),
            },
        }
    }

    fn reported(&mut self, message: &LobbyMessage) -> Result<(), String> {
        self.messages += 1;
        let data = message.data().map_err(|error| error.to_string())?;
        let read = reported(message.from.as_deref(), message.seq, message.is_direct, data);
        match self.unreported.pop_front() {
            Some(sent) if sent == read => Ok(()),
            sent => Err(format!("{read} is reported, and the next message is {sent:?}")),
        }
    }
}
