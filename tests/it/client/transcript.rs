//! Runs a conformance vector. `tests/vectors/README.md` describes the steps.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use lobbyd::Time;
use lobbyd::client::{
    Action, Attempt, AttemptId, Event, Filters, LobbyError, Of, Options, Outgoing, RequestId, Session, State,
    find_address, read_found,
};
use serde_json::{Value, json};

use super::told::{failure, knows, told};

type Outcome = Result<(), String>;

/// Runs a transcript. The error names the step and says what is wrong.
pub fn run(steps: &[Value]) -> Outcome {
    let mut run = Run::default();
    for (index, step) in steps.iter().enumerate() {
        run.step(step).map_err(|why| format!("step {} {step}: {why}", index + 1))?;
    }
    run.nothing_else(&json!({}))
}

fn equal(got: impl Into<Value>, wanted: &Value, what: &str) -> Outcome {
    let got = got.into();
    if got == *wanted { Ok(()) } else { Err(format!("{what}: {got} instead of {wanted}")) }
}

#[derive(Default)]
struct Run {
    now: Time,
    session: Option<Session>,
    /// Every random number; while a session is created, numbers of its own.
    random: Random,
    url: String,
    tokens: u32,
    /// For so many attempts there is no token.
    tokenless: u32,
    /// Connections that no step has named, each with its token.
    opened: VecDeque<(Attempt, String)>,
    socket: Option<Socket>,
    former: Option<AttemptId>,
    said: VecDeque<Value>,
    pings: Vec<String>,
    heard: Vec<Value>,
    ready: Option<String>,
    /// By id, `None` while it is not settled.
    outcomes: BTreeMap<String, Option<Value>>,
    requests: BTreeMap<RequestId, String>,
    /// The application leaves when it hears that a member has left.
    leaves: bool,
    /// What the next GET must ask, and its answer.
    answer: Option<Value>,
    /// Names of sessions by the names of the steps.
    bound: BTreeMap<String, String>,
}

struct Socket {
    attempt: Attempt,
    is_open: bool,
    /// `Some` once the client has closed it.
    closed_with: Option<Option<u16>>,
}

#[derive(Clone)]
struct Random {
    fixed: Arc<AtomicU64>,
    drawn: Arc<AtomicU64>,
}

impl Default for Random {
    fn default() -> Random {
        Random { fixed: Arc::new(AtomicU64::new(1 << 63)), drawn: Arc::default() }
    }
}

impl Random {
    /// Returns a source for a new session: the first two numbers, its name, are its own.
    fn source(&self) -> impl FnMut() -> u64 + Send + Sync + 'static {
        let (random, mut first) = (self.clone(), 2);
        move || {
            if first == 0 {
                return random.fixed.load(Ordering::Relaxed);
            }
            first -= 1;
            random.drawn.fetch_add(1, Ordering::Relaxed)
        }
    }
}

impl Run {
    fn step(&mut self, step: &Value) -> Outcome {
        self.nothing_else(step)?;
        let fields = step.as_object().expect("a step is an object");
        // The other fields are arguments.
        let names = [
            "do", "opens", "answers", "network", "server", "raw", "client", "silent", "pings", "closes", "clock",
            "random", "sleep", "event", "state", "hears", "settled", "pending", "members", "knows", "ready", "latency",
        ];
        let name = names.into_iter().find(|name| fields.contains_key(*name)).ok_or("there is no such step")?;
        let value = &step[name];
        match name {
            "do" => self.act(value.as_str().expect("an action"), step)?,
            "opens" => self.opens(value, step["accepts"] != false)?,
            "answers" => self.answer = Some(value.clone()),
            "network" => self.network(value.as_str().expect("an event"), step)?,
            "server" => self.server(value),
            "raw" => self.receive(value.as_str().expect("a text")),
            "client" => self.client(value)?,
            "silent" => self.pings.clear(),
            "pings" => equal(self.pings.len(), value, "the number of pings")?,
            "closes" => {
                let closed = self.socket.as_ref().and_then(|socket| socket.closed_with);
                let closed = closed.ok_or("the client has not closed the connection")?;
                equal(closed, &value["code"], "the code of the client's close")?;
            }
            "clock" => self.advance(Duration::from_millis(value.as_u64().expect("a time"))),
            "random" => {
                let fixed = (value.as_f64().expect("a number") * 2_f64.powi(64)) as u64;
                self.random.fixed.store(fixed, Ordering::Relaxed);
            }
            "sleep" => {
                self.now = self.now + Duration::from_millis(value.as_u64().expect("a time"));
                self.advance(Duration::ZERO);
                for message in step["arrived"].as_array().into_iter().flatten() {
                    self.server(message);
                }
            }
            "event" => {
                let now = self.now;
                self.session().wake(now, value == "online");
            }
            "ready" => equal(self.ready.clone(), value, "ready")?,
            _ => self.sees(name, value)?,
        }
        self.drain();
        Ok(())
    }

    /// Nothing may happen that no step names.
    fn nothing_else(&self, step: &Value) -> Outcome {
        if let Some(said) = self.said.front().filter(|_| step.get("client").is_none()) {
            return Err(format!("the client said {said}"));
        }
        let may_open = step.get("opens").is_some() || step.get("network").is_some();
        match self.opened.front().filter(|_| !may_open) {
            Some((attempt, _)) => Err(format!("the client opened {}", attempt.url())),
            None => Ok(()),
        }
    }

    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("the client was created")
    }

    /// Does what the session asks for, and reads its events.
    fn drain(&mut self) {
        let Some(session) = &mut self.session else { return };
        while let Some(action) = session.poll_action() {
            match action {
                Action::Connect(attempt) => {
                    self.tokens += 1;
                    if self.tokens <= self.tokenless {
                        session.handle_failed(self.now, attempt.id(), "no_token");
                        continue;
                    }
                    self.opened.push_back((attempt, format!("token {}", self.tokens)));
                }
                Action::Send(id, message) => {
                    let socket = self.socket.as_ref().expect("a connection");
                    assert!(socket.is_open && socket.attempt.id() == id, "it sends on its connection");
                    let Outgoing::Text(text) = message else { panic!("no vector has binary messages") };
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    match message["ref"].as_str().filter(|_| message["type"] == "ping") {
                        Some(reference) => self.pings.push(reference.to_owned()),
                        None => self.said.push_back(message),
                    }
                }
                Action::Close(id, code) => {
                    let socket = self.socket.as_mut().filter(|socket| socket.attempt.id() == id);
                    let socket = socket.expect("it closes its connection");
                    (socket.is_open, socket.closed_with) = (false, Some(code));
                }
            }
        }
        while let Some(event) = session.poll_event() {
            match event {
                Event::Settled { id, result } => {
                    let outcome = match result {
                        Ok(ack) => json!({"ack": ack.fields()}),
                        Err(error) => failure(&error),
                    };
                    self.outcomes.insert(self.requests[&id].clone(), Some(outcome));
                }
                Event::Connection { state: State::Open, .. } => {
                    self.ready.get_or_insert_with(|| "resolved".to_owned());
                }
                Event::Connection { state: State::Closed, why: Some(why) } => {
                    self.ready.get_or_insert(if why.reason.is_empty() { why.code.to_string() } else { why.reason });
                }
                event => {
                    let has_left = matches!(event, Event::Leave { .. });
                    self.heard.extend(told(event, session));
                    if has_left && self.leaves {
                        session.leave();
                        return self.drain();
                    }
                }
            }
        }
    }

    // ---- what the application does ----

    fn act(&mut self, action: &str, step: &Value) -> Outcome {
        match action {
            "join" => {
                self.url = step["url"].as_str().unwrap_or("ws://lobby.example/ws/chess").to_owned();
                self.leaves = step["listener"] == "leaves";
                self.tokenless = step["tokenless"].as_u64().unwrap_or(0) as u32;
                self.join(None);
            }
            "reload" => {
                let was = self.session().name().to_owned();
                self.opened.clear();
                self.join(Some(was));
            }
            "list" => self.list(step),
            "find" => self.find(step)?,
            "leave" => self.session().leave(),
            "send" => {
                let now = self.now;
                let sent = self.session().send(now, text(step, "type"), &step["payload"]);
                equal(sent.map_err(|error| error.to_string())?, &step["sent"], "send()")?;
            }
            _ => {
                let id = text(step, "id").to_owned();
                let outcome = match self.request(action, step)? {
                    Ok(request) => {
                        self.requests.insert(request, id.clone());
                        None
                    }
                    Err(error) => Some(failure(&error)),
                };
                self.outcomes.insert(id, outcome);
            }
        }
        Ok(())
    }

    fn join(&mut self, was: Option<String>) {
        let options = Options { was, ..Options::default() };
        match Session::new(&self.url, options, self.random.source()) {
            Ok(session) => self.begin(session),
            Err(error) => self.ready = Some(error.code().to_owned()),
        }
    }

    fn list(&mut self, step: &Value) {
        let url = step["url"].as_str().unwrap_or("ws://lobby.example/ws/~lobbies");
        let filters = filters(&step["filters"]);
        let session = Session::list(url, &filters, Options::default(), self.random.source()).expect("an address");
        self.begin(session);
    }

    fn begin(&mut self, session: Session) {
        (self.tokens, self.ready, self.requests) = (0, None, BTreeMap::new());
        self.session = Some(session);
        let now = self.now;
        self.session().connect(now);
    }

    fn find(&mut self, step: &Value) -> Outcome {
        let answer = self.answer.take().ok_or("no step has an answer")?;
        let address = find_address(text(step, "url"), &filters(&step["filters"]), step["filters"]["after"].as_str());
        equal(address.map_err(|error| error.to_string())?, &answer["url"], "the address")?;
        let status = answer["status"].as_u64().unwrap_or(200) as u16;
        let outcome = match read_found(status, &answer["body"].to_string()) {
            Ok(found) => json!({"ack": found}),
            Err(error) => failure(&error),
        };
        self.outcomes.insert(text(step, "id").to_owned(), Some(outcome));
        Ok(())
    }

    /// Returns the seat of the member in a text like `@bob`, and its user; other texts stand for themselves.
    fn member(&mut self, name: &str) -> (String, String) {
        let Some(user) = name.strip_prefix('@') else { return (name.to_owned(), name.to_owned()) };
        let member = self.session().members().find(|member| member.user() == user).expect("a known member");
        (member.conn().to_owned(), user.to_owned())
    }

    fn request(&mut self, action: &str, step: &Value) -> Result<Result<RequestId, LobbyError>, String> {
        let now = self.now;
        let first = step["with"][0].as_str().unwrap_or_default();
        Ok(match action {
            "request" => {
                let session = self.session();
                let timeout = step["timeout"].as_u64().map_or(Duration::from_secs(10), Duration::from_millis);
                session.set_request_timeout(timeout);
                session.request(now, text(step, "type"), &step["payload"])
            }
            "set" => {
                let conn = step["of"].as_str().map(|of| self.member(of).0);
                let me = self.session().me().map(|me| me.conn().to_owned());
                let of = match conn.as_deref() {
                    None => Of::Lobby,
                    Some(conn) if step["by"] == "member" && me.as_deref() == Some(conn) => Of::Me,
                    Some(conn) => Of::Member(conn),
                };
                match step["if"].as_u64() {
                    Some(seq) => self.session().set_if(now, of, &step["data"], seq),
                    None => self.session().set(now, of, &step["data"]),
                }
            }
            "configure" => self.session().configure(now, &step["with"][0]),
            "kick" => {
                let user = self.member(first).1;
                self.session().kick(now, &user, step["with"][1]["ban"] == true)
            }
            "unban" => self.session().unban(now, first),
            "handOver" => {
                let conn = self.member(first).0;
                self.session().hand_over(now, &conn)
            }
            _ => return Err("nobody can do that".to_owned()),
        })
    }

    // ---- the network ----

    fn opens(&mut self, wanted: &Value, is_accepted: bool) -> Outcome {
        let (attempt, token) = self.opened.pop_front().ok_or("the client opened no connection")?;
        self.former = self.socket.take().map(|socket| socket.attempt.id());
        let target = attempt.target();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        equal(path, &wanted.get("path").cloned().unwrap_or("/ws/chess".into()), "the path")?;
        let origin = wanted["origin"].as_str().unwrap_or("ws://lobby.example");
        let scheme = if attempt.is_secure() { "wss" } else { "ws" };
        equal(format!("{scheme}://{}", attempt.authority()), &origin.into(), "the origin")?;
        let query: BTreeMap<String, String> =
            query.split('&').filter_map(|pair| pair.split_once('=')).map(owned).collect();
        for (name, value) in wanted["query"].as_object().into_iter().flatten() {
            let value = self.value(value, query.get("session"))?;
            equal(query.get(name).cloned(), &value, &format!("?{name}"))?;
        }
        for name in wanted["without"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            equal(query.get(name).cloned(), &Value::Null, &format!("?{name}"))?;
        }
        if let Some(wanted) = wanted.get("token") {
            let names = attempt.subprotocols(Some(&token));
            let [first, bearer] = &names[..] else { return Err(format!("the subprotocols are {names:?}")) };
            equal(&**first, &"lobby.v1.json".into(), "the first subprotocol")?;
            let sent = bearer.strip_prefix("base64url.bearer.lobby.").ok_or("no token")?;
            let sent = BASE64URL_NOPAD.decode(sent.as_bytes()).map_err(|error| error.to_string())?;
            equal(String::from_utf8_lossy(&sent), wanted, "the token")?;
        }
        self.socket = Some(Socket { attempt, is_open: is_accepted, closed_with: None });
        Ok(())
    }

    /// Binds a name at its first use: to the name of a session that no other name has.
    fn value(&mut self, wanted: &Value, session: Option<&String>) -> Result<Value, String> {
        let Some(name) = wanted.as_str().filter(|name| name.starts_with('$')) else {
            return Ok(wanted.as_u64().map_or_else(|| wanted.clone(), |number| number.to_string().into()));
        };
        if !self.bound.contains_key(name) {
            let session = session.ok_or("there is no ?session")?;
            let is_name = (16..=64).contains(&session.len())
                && session.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c));
            if !is_name || self.bound.values().any(|other| other == session) {
                return Err(format!("?session is {session}"));
            }
            self.bound.insert(name.to_owned(), session.clone());
        }
        Ok(self.bound[name].as_str().into())
    }

    fn network(&mut self, event: &str, step: &Value) -> Outcome {
        let now = self.now;
        let (code, reason) = (step["code"].as_u64().unwrap_or(1006) as u16, step["reason"].as_str().unwrap_or(""));
        let socket = self.socket.as_mut();
        match event {
            "drops" => {
                let socket = socket.ok_or("there is no connection")?;
                socket.is_open = false;
                let id = socket.attempt.id();
                self.session().handle_closed(now, id, code, reason);
            }
            "fails" => {
                let opened = self.opened.pop_front().map(|(attempt, _)| attempt.id());
                let id = opened.or(socket.map(|socket| socket.attempt.id())).ok_or("there is no connection")?;
                self.session().handle_closed(now, id, 1006, "");
            }
            "former ends" => {
                let former = self.former.ok_or("there was no connection")?;
                self.session().handle_text(now, former, r#"{"type":"message","from":"bob","seq":99,"data":"late"}"#);
                self.session().handle_closed(now, former, code, reason);
            }
            _ => return Err("the network has no such event".to_owned()),
        }
        Ok(())
    }

    fn server(&mut self, message: &Value) {
        let text = message.to_string();
        let ping = self.pings.last().map_or("", |ping| ping);
        let text = text.replace("$ping", ping);
        if self.socket.as_ref().is_some_and(|socket| socket.is_open) {
            self.receive(&text);
        }
    }

    fn receive(&mut self, text: &str) {
        let (now, id) = (self.now, self.socket.as_ref().expect("a connection").attempt.id());
        self.session().handle_text(now, id, text);
        self.drain();
    }

    fn client(&mut self, wanted: &Value) -> Outcome {
        if wanted["type"] == "ping" && wanted["ref"].is_null() {
            return if self.pings.is_empty() { Err("the client sent no ping".to_owned()) } else { Ok(()) };
        }
        equal(self.said.pop_front(), wanted, "the client's message")
    }

    fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.session.as_ref().and_then(Session::poll_timeout).filter(|&due| due <= until) {
            self.now = self.now.max(due);
            let now = self.now;
            self.session().handle_timeout(now);
            self.drain();
        }
        self.now = until;
    }

    // ---- what the application sees ----

    fn sees(&mut self, name: &str, wanted: &Value) -> Outcome {
        let Some(session) = &self.session else { return self.settled(name, wanted) };
        match name {
            "state" => equal(format!("{:?}", session.state()).to_lowercase(), wanted, "the state"),
            "hears" => equal(std::mem::take(&mut self.heard), wanted, "the events"),
            "members" => {
                let away = |is_away| if is_away { " (away)" } else { "" };
                let members = session.members().map(|who| format!("{}{}", who.user(), away(who.is_away())));
                equal(members.collect::<Vec<_>>(), wanted, "the members")
            }
            "latency" => equal(session.latency().map(|latency| latency.as_millis() as u64), wanted, "the latency"),
            "knows" => wanted
                .as_object()
                .into_iter()
                .flatten()
                .try_for_each(|(name, wanted)| equal(knows(session, name), wanted, name)),
            _ => self.settled(name, wanted),
        }
    }

    fn settled(&self, name: &str, wanted: &Value) -> Outcome {
        if name == "pending" {
            let mut ids = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
            return match ids.find(|id| self.outcomes.get(*id) != Some(&None)) {
                Some(id) => Err(format!("the request {id} is settled")),
                None => Ok(()),
            };
        }
        let mut wanted = wanted.clone();
        let id = wanted.as_object_mut().and_then(|wanted| wanted.remove("id")).ok_or("no id")?;
        let got = id.as_str().and_then(|id| self.outcomes.get(id)).cloned().flatten();
        equal(got, &wanted, &format!("the request {id}"))
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn text<'a>(step: &'a Value, name: &str) -> &'a str {
    step[name].as_str().expect("a text")
}

fn filters(filters: &Value) -> Filters {
    let tags = filters["tags"].as_object().into_iter().flatten();
    let tags = tags.map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned()));
    Filters { pool: filters["pool"].as_str().map(str::to_owned), tags: tags.collect() }
}
