//! What pages ask for.

use super::books::Kind;
use super::world::World;
use crate::sim::swarm::pick::pick;
use crate::sim::wire;

impl World {
    /// Draws what a page sends.
    pub(super) fn draw_request(&mut self, at: usize) -> Result<Vec<u8>, String> {
        let id = self.next_message();
        let now = self.now;
        let (kind, text) = match self.random.below(100) {
            0..35 => (Kind::Broadcast, format!(r#"{{"type":"broadcast","data":{id}"#)),
            35..45 => (Kind::Quiet, format!(r#"{{"type":"broadcast","data":{id}}}"#)),
            45..52 => (Kind::Volatile, format!(r#"{{"type":"broadcast","data":{id},"volatile":true}}"#)),
            52..70 => {
                let (to, kind) = self.kind_of_direct();
                (kind, format!(r#"{{"type":"direct","to":"{}","data":{id}"#, self.users[to]))
            }
            70..78 => return Ok(wire::text(r#"{"type":"presence","ref":"list"}"#)),
            78..83 => return Ok(self.pages[at].repeat(&mut self.random).unwrap_or_default()),
            83 => {
                self.pages[at].is_disturbed = true;
                return Ok(wire::text(r#"{"type":"leave"}"#));
            }
            84..86 => return Ok(wire::text(r#"{"type":"ping"}"#)),
            _ if self.swarm.has_control() => (Kind::Control, self.draw_control(at, id)),
            _ => return Ok(Vec::new()),
        };
        if matches!(kind, Kind::Quiet | Kind::Volatile) {
            self.books.sent(self.pages[at].book, id, kind, now);
            return Ok(wire::text(&text));
        }
        Ok(self.pages[at].request(now, id, kind, &text, &mut self.books))
    }

    fn draw_control(&mut self, at: usize, id: u64) -> String {
        let seat = self.pages[at].seat.clone().unwrap_or_default();
        let user = self.random.below(self.users.len() as u64) as usize;
        match self.random.below(20) {
            0..6 => format!(r#"{{"type":"set","data":{{"a{}":{id}}}"#, id % 3),
            6..12 => format!(r#"{{"type":"set","of":"{seat}","data":{{"ready":{}}}"#, id.is_multiple_of(2)),
            12..15 => format!(r#"{{"type":"host","conn":"s{}""#, 1 + self.random.below(1 + id)),
            15 => {
                let named = self.pages.iter_mut().filter(|page| page.user == user);
                named.for_each(|page| page.is_disturbed = true);
                format!(r#"{{"type":"kick","user":"{}""#, self.users[user])
            }
            _ => {
                let settings = [
                    r#"{"locked":true}"#,
                    r#"{"locked":false}"#,
                    r#"{"max":3}"#,
                    r#"{"max":null,"write":"all"}"#,
                    r#"{"start":{"min":2,"countdown_ms":700}}"#,
                    r#"{"listed":true,"name":"chess"}"#,
                    r#"{"password":"tulip"}"#,
                    r#"{"password":null}"#,
                ];
                format!(r#"{{"type":"settings","settings":{}"#, pick(&mut self.random, &settings))
            }
        }
    }
}
