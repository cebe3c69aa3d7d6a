//! What pages ask for.

use serde_json::{Value, json};

use super::books::Kind;
use super::world::World;
use crate::base::time::Time;
use crate::client::{LobbyError, Of, RequestId};

impl World {
    /// Lets the application of a page ask for something.
    pub(super) fn ask(&mut self, at: usize) -> Result<(), String> {
        let id = self.next_message();
        let now = Time::from_micros(self.now);
        match self.random.below(100) {
            0..35 => self.request(at, (id, Kind::Broadcast), "broadcast", json!({"data": id})),
            35..45 => self.say(at, (id, Kind::Quiet), json!({"data": id})),
            45..52 => self.say(at, (id, Kind::Volatile), json!({"data": id, "volatile": true})),
            52..70 => {
                let to = self.random.below(self.users.len() as u64) as usize;
                let payload = json!({"to": self.users[to], "data": id});
                self.request(at, (id, Kind::Direct(to)), "direct", payload);
            }
            70..78 => drop(self.pages[at].session.send(now, "presence", ())),
            78..83 => {
                let repeated = self.pages[at].repeat(&mut self.random);
                self.send(at, &repeated.unwrap_or_default());
            }
            83 => {
                self.pages[at].is_disturbed = true;
                self.pages[at].session.leave();
            }
            84..86 => self.pages[at].session.wake(now, false),
            _ if self.swarm.has_control() => self.ask_for_control(at, id),
            _ => {}
        }
        self.drive(at)
    }

    fn request(&mut self, at: usize, what: (u64, Kind), kind: &str, payload: Value) {
        let request = self.pages[at].session.request(Time::from_micros(self.now), kind, payload);
        self.requested(at, what, request);
    }

    fn requested(&mut self, at: usize, what: (u64, Kind), request: Result<RequestId, LobbyError>) {
        self.pages[at].requested(self.now, what, request, &mut self.books);
    }

    /// Sends a message without a number, if there is a connection.
    fn say(&mut self, at: usize, (id, kind): (u64, Kind), payload: Value) {
        let now = Time::from_micros(self.now);
        if self.pages[at].session.send(now, "broadcast", payload) == Ok(true) {
            self.books.sent(self.pages[at].book, id, kind, self.now);
        }
    }

    fn ask_for_control(&mut self, at: usize, id: u64) {
        let now = Time::from_micros(self.now);
        let user = self.random.below(self.users.len() as u64) as usize;
        let draw = self.random.below(20);
        let session = &mut self.pages[at].session;
        let request = match draw {
            0..3 => session.set(now, Of::Lobby, json!({format!("a{}", id % 3): id})),
            3..6 => session.set_if(now, Of::Lobby, json!({format!("a{}", id % 3): id}), session.seq()),
            6..12 => session.set(now, Of::Me, json!({"ready": id.is_multiple_of(2)})),
            12..15 => {
                let seat = format!("s{}", 1 + self.random.below(1 + id));
                session.hand_over(now, &seat)
            }
            15 => {
                let named = self.pages.iter_mut().filter(|page| page.user == user);
                named.for_each(|page| page.is_disturbed = true);
                self.pages[at].session.kick(now, &self.users[user], false)
            }
            _ => {
                let settings = [
                    json!({"locked": true}),
                    json!({"locked": false}),
                    json!({"max": 3}),
                    json!({"max": null, "write": "all"}),
                    json!({"start": {"min": 2, "countdown_ms": 700}}),
                    json!({"listed": true, "name": "chess"}),
                    json!({"password": "tulip"}),
                    json!({"password": null}),
                ];
                let drawn = self.random.below(settings.len() as u64) as usize;
                session.configure(now, &settings[drawn])
            }
        };
        self.requested(at, (id, Kind::Control), request);
    }
}
