//! The simulator accepts what an application announces to its lobbies, and still checks it.

use std::cell::Cell;
use std::rc::Rc;

use lobbyd::apps::Relay;
use lobbyd::sim::{Plan, Player, Simulator};
use lobbyd::{App, Authorization, Config, Context, Member, Message, Protocol, Random, Request};
use serde_json::Value;

/// Relays, and announces the number of each message under this name.
struct Announcer(&'static str, u64);

impl App for Announcer {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        Relay::default().on_message(cx, from, message);
        self.1 += 1;
        cx.announce(from.lobby(), &format!(r#"{{"{}":{}}}"#, self.0, self.1));
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(self.1.to_le_bytes().to_vec())
    }

    fn restore(&mut self, snapshot: &[u8]) {
        self.1 = u64::from_le_bytes(snapshot.try_into().expect("eight bytes"));
    }
}

/// Checks the order of the announcements, and counts them.
struct Listener {
    name: &'static str,
    last: u64,
    heard: Rc<Cell<u64>>,
}

impl Player for Listener {
    fn act(&mut self, _: &mut Random) -> Option<String> {
        Some(r#"{"type":"play"}"#.to_owned())
    }

    fn heard(&mut self, text: &str) -> Result<(), String> {
        let message: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if message["type"] == "message" && message["from"].is_null() {
            let number = message["data"][self.name].as_u64().ok_or("not what was announced")?;
            if number <= self.last {
                return Err(format!("{number} after {}", self.last));
            }
            self.last = number;
            self.heard.set(self.heard.get() + 1);
        }
        Ok(())
    }
}

#[test]
fn an_application_may_announce() {
    // With `op` it looks like the message of an operator. There is no operator here.
    for name in ["played", "op"] {
        let heard = Rc::new(Cell::new(0));
        for plan in Plan::seeds(0..40, 150, None) {
            let heard = heard.clone();
            Simulator::new(plan.seed, Config::default(), Announcer(name, 0))
                .players(move |_, _| Box::new(Listener { name, last: 0, heard: heard.clone() }))
                .replayed_with(move || Announcer(name, 0))
                .run(plan.steps)
                .unwrap_or_else(|failure| panic!("{failure}"));
        }
        assert!(heard.get() > 1000, "{}", heard.get());
    }
}

/// Without players, clients send what the built-in applications relay.
#[test]
fn an_application_without_players_may_announce() {
    for plan in Plan::seeds(0..40, 150, None) {
        let run = Simulator::swarm(plan.seed, Announcer("played", 0)).replayed_with(|| Announcer("played", 0));
        run.run(plan.steps).unwrap_or_else(|failure| panic!("{failure}"));
    }
}
