//! Members of lobbies with the Rust client, for `sessions.py`. Commands are JSON objects on standard input, one a line, and
//! reports are lists on standard output: the user, and then as `session_reports.py` describes.
//!
//! | command | effect |
//! | --- | --- |
//! | `{"do":"open", "user", "url", "reload"}` | begins a session; with `reload` it claims the seat of the one before |
//! | `{"do":"request", "user", "id", "kind", "to", "payload"}` | a request; `id` is in its payload |
//! | `{"do":"send", "user", "kind", "payload"}` | a message without an answer |
//! | `{"do":"leave", "user"}` | gives the seat up |
//! | `{"do":"stop", "user"}` | the process of the member is gone |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lobbyd::client::{Event, Lobby, LobbyOptions, RequestId, State, Traced};
use serde_json::{Value, json};

/// Time between two frames, as of a game.
const FRAME: Duration = Duration::from_millis(8);
/// A member waits as long as it takes, so that every outcome is the server's.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is noted of a member. The client's trace writes to it, too.
#[derive(Default)]
struct Notes {
    user: String,
    reports: Vec<Value>,
    /// By id of a message, the number of its request when it was last sent.
    refs: BTreeMap<String, u64>,
    /// Ids of messages that have arrived, and were not told.
    awaited: VecDeque<String>,
    /// Ids of direct messages. Before the first list the server may send them again: the client tells them once.
    directs: BTreeSet<String>,
}

impl Notes {
    #[expect(clippy::disallowed_methods, reason = "reports have the time of this machine")]
    fn note(&mut self, kind: &str, values: impl IntoIterator<Item = Value>) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_millis() as u64;
        self.reports.push([json!(self.user), json!(at), json!(kind)].into_iter().chain(values).collect());
    }

    fn problem(&mut self, text: String) {
        self.note("problem", [json!(text)]);
    }

    fn trace(&mut self, traced: Traced<'_>) {
        match traced {
            Traced::Received(text) => {
                let message: Value = serde_json::from_str(text).expect("the server sends JSON");
                let kind = message["type"].as_str().unwrap_or_default();
                if ["message", "direct"].contains(&kind) {
                    let id = id_of(&message["data"]);
                    if kind == "message" || self.directs.insert(id.clone()) {
                        self.awaited.push_back(id);
                    }
                }
                self.note("receive", [message, json!(text.len())]);
            }
            Traced::Sent(text) => {
                let message: Value = serde_json::from_str(text).expect("the client sends JSON");
                if let Some(reference) = message["ref"].as_u64() {
                    let id = if message["id"].is_string() { id_of(&message) } else { id_of(&message["data"]) };
                    self.refs.insert(id, reference);
                }
            }
        }
    }

    fn told(&mut self, data: &Value) {
        let (id, awaited) = (id_of(data), self.awaited.pop_front());
        if awaited.as_deref() != Some(&*id) {
            self.problem(format!("{id} is told instead of {awaited:?}"));
        }
    }
}

fn id_of(data: &Value) -> String {
    data["id"].as_str().unwrap_or_default().to_owned()
}

/// One session of a member.
struct Member {
    lobby: Lobby,
    asked: BTreeMap<RequestId, String>,
    notes: Arc<Mutex<Notes>>,
}

impl Member {
    fn open(command: &Value, before: Option<Member>) -> Member {
        let user = command["user"].as_str().expect("a user").to_owned();
        let is_reload = command["reload"].as_bool().unwrap_or_default();
        let mut options = LobbyOptions { token: user.clone().into(), ..LobbyOptions::default() };
        options.session.request_timeout = PATIENCE;
        let mut notes = Notes { user, ..Notes::default() };
        if let Some(mut before) = before {
            options.session.was = is_reload.then(|| before.lobby.name().to_owned());
            before.stop();
            notes.reports = std::mem::take(&mut before.lock().reports);
        }
        notes.note("open", [json!(is_reload)]);
        let notes = Arc::new(Mutex::new(notes));
        let mut lobby = Lobby::connect(command["url"].as_str().expect("an address"), options).expect("a valid address");
        let noted = notes.clone();
        lobby.trace(move |traced| noted.lock().expect(NO_PANIC).trace(traced));
        Member { lobby, asked: BTreeMap::new(), notes }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().expect(NO_PANIC)
    }

    fn request(&mut self, command: &Value) {
        let id = id_of(command);
        self.lock().note("asked", [json!(id), command["kind"].clone(), command["to"].clone()]);
        match self.lobby.request(command["kind"].as_str().expect("a kind"), &command["payload"]) {
            Ok(request) => drop(self.asked.insert(request, id)),
            Err(_) => self.lock().note("settled", [json!(id), Value::Null, json!("refused")]),
        }
    }

    fn send(&mut self, command: &Value) {
        let kind = command["kind"].as_str().expect("a kind");
        if let Err(error) = self.lobby.send(kind, &command["payload"]) {
            self.lock().problem(error.to_string());
        }
    }

    /// One frame.
    fn turn(&mut self) {
        self.lobby.turn(Duration::ZERO);
        while let Some(event) = self.lobby.poll_event() {
            match event {
                Event::Message(message) => {
                    let data = message.data().expect("data is JSON");
                    self.lock().told(&data);
                }
                Event::Gap => self.lock().note("gap", []),
                Event::Error(error) => self.lock().problem(error.to_string()),
                Event::Settled { id, result } => {
                    let outcome = match &result {
                        Ok(_) => "acked",
                        Err(error) if ["unknown", "closed", "timeout"].contains(&error.code()) => "unknown",
                        Err(_) => "refused",
                    };
                    self.settle(id, outcome);
                }
                Event::Connection { state, why } => {
                    let state = match state {
                        State::Idle => "idle",
                        State::Connecting => "connecting",
                        State::Open => "open",
                        State::Waiting => "waiting",
                        State::Closed => "closed",
                    };
                    let why = why.map(|why| (why.code, why.reason)).unwrap_or_default();
                    self.lock().note("state", [json!(state), json!(why.0), json!(why.1)]);
                }
                _ => {}
            }
        }
    }

    fn settle(&mut self, request: RequestId, outcome: &str) {
        let Some(id) = self.asked.remove(&request) else {
            return self.lock().problem(format!("{request:?} is settled twice"));
        };
        let mut notes = self.lock();
        let reference = notes.refs.remove(&id);
        notes.note("settled", [json!(id), json!(reference), json!(outcome)]);
    }

    /// The process of the member is gone, and with it its requests.
    fn stop(&mut self) {
        while let Some((&request, _)) = self.asked.first_key_value() {
            self.settle(request, "unknown");
        }
    }
}

const NO_PANIC: &str = "nothing panics while it holds the lock";

fn main() {
    let (sender, commands) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let command: Value = serde_json::from_str(&line.expect("UTF-8")).expect("a command is JSON");
            if sender.send(command).is_err() {
                return;
            }
        }
    });
    let mut members: BTreeMap<String, Member> = BTreeMap::new();
    let mut out = std::io::stdout().lock();
    loop {
        let mut next = commands.recv_timeout(FRAME);
        while let Ok(command) = next {
            obey(&mut members, &command, &mut out);
            next = commands.try_recv().map_err(|_| RecvTimeoutError::Timeout);
        }
        // Standard input has ended.
        if next == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        for member in members.values_mut() {
            member.turn();
            print(member, &mut out);
        }
        out.flush().expect("the reports are read");
    }
}

fn obey(members: &mut BTreeMap<String, Member>, command: &Value, out: &mut impl Write) {
    let user = command["user"].as_str().expect("a command names a user");
    if command["do"] == "open" {
        let before = members.remove(user);
        members.insert(user.to_owned(), Member::open(command, before));
        return;
    }
    let Some(member) = members.get_mut(user) else { return };
    match command["do"].as_str() {
        Some("request") => member.request(command),
        Some("send") => member.send(command),
        Some("leave") => member.lobby.leave(),
        Some("stop") => {
            member.stop();
            print(member, out);
            members.remove(user);
        }
        other => panic!("there is no command {other:?}"),
    }
}

fn print(member: &Member, out: &mut impl Write) {
    for report in member.lock().reports.drain(..) {
        writeln!(out, "{report}").expect("the reports are read");
    }
}
