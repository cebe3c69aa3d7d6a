//! Requests of lobby control, as clients write them: valid ones, ones that are refused, and malformed ones.

use super::asked::{Asked, ControlBook};
use super::link::Link;
use super::payload::write_number;
use super::sent::RequestKind;
use super::sessions::Unconfirmed;
use super::shared_state::SharedState;
use crate::base::random::Random;
use crate::sim::models::lobby_view::Values;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::swarm::pick::pick;

/// Keys of data. The last ones need escaping, or are as long as possible.
const KEYS: &[&str] =
    &["a", "b", "c", "d", "ready", "a\"b\\", "zoë", "0123456789012345678901234567890123456789012345678901234567890123"];

/// Requests that break the protocol.
const MALFORMED: &[&str] = &[
    r#"{"type":"set","data":{}"#,
    r#"{"type":"set","data":{"a":1,"a":2}"#,
    r#"{"type":"set","data":{"a":1},"of":1"#,
    r#"{"type":"state","data":{"a":1}"#,
    r#"{"type":"lobby_state""#,
    r#"{"type":"kick","user":7"#,
    r#"{"type":"host""#,
    r#"{"type":"settings""#,
];

/// A request without its end.
struct Written {
    asked: Asked,
    text: String,
    is_marked: bool,
    /// Whether it needs a `ref`, so that its error can be told from others.
    needs_reference: bool,
}

impl Link {
    /// Whether the client can send requests of lobby control now.
    pub(crate) fn may_change_lobby(&self) -> bool {
        self.may_send() && self.view.answers.session.is_some() && self.player.is_none()
    }

    /// Sends a request of lobby control of the kind `what`. `max` is `max_message_bytes`. Returns whether it was possible.
    pub(crate) fn send_control(
        &mut self,
        what: Behaviour,
        shared: &mut SharedState,
        max: usize,
        random: &mut Random,
    ) -> bool {
        let Some(session) = self.view.answers.session.filter(|_| shared.control.is_some()) else { return false };
        if what == Behaviour::Malformed {
            let text = format!("{}}}", pick(random, MALFORMED));
            self.send_request(RequestKind::Malformed, None, &text, random);
            return true;
        }
        let has_reference = random.percent(70) || shared.may_refuse;
        // The number is used only if the request is sent, so that none is skipped.
        let next = shared.sessions.all[session].peek_reference();
        let Some(reference) = next else { return false };
        let book = shared.control.as_ref().expect("just checked");
        let users = &shared.users;
        let Written { asked, text, is_marked, needs_reference } = match what {
            Behaviour::SetData | Behaviour::Ready => self.write_set(what, reference, book, random),
            Behaviour::HandOver => self.write_host(random),
            Behaviour::Expel => self.write_kick(users, random),
            _ => write_settings(book, random),
        };
        let reference = Some(reference).filter(|_| has_reference || needs_reference);
        let end = reference.map_or(String::new(), |number| format!(",\"ref\":{}", write_number(number.into())));
        let text = format!("{text}{end}}}");
        if text.len() > max {
            return false;
        }
        let asked = shared.control.as_mut().expect("just checked").add(asked);
        let kind = RequestKind::Control { asked, is_marked };
        if let Some(reference) = reference {
            let of_all = &mut shared.sessions.all[session];
            of_all.next_reference(false);
            of_all.sent(Unconfirmed { reference, kind, k: self.messages_sent, text: text.clone() });
        }
        self.send_request(kind, reference, &text, random);
        true
    }

    /// Writes a change of data.
    fn write_set(&self, what: Behaviour, reference: u32, book: &ControlBook, random: &mut Random) -> Written {
        let own = Some(self.view.books.conn.clone()).filter(|conn| !conn.is_empty() && self.view.is_synced());
        let of = match random.below(10) {
            _ if what == Behaviour::Ready => own,
            0..4 => None,
            4..8 => own,
            _ => Some(self.draw_conn(random)),
        };
        let mut data = Values::new();
        if what == Behaviour::Ready && of.is_some() {
            data.insert("ready".into(), pick(random, &["true", "true", "true", "false", "null"]).into());
        } else {
            let most = book.most_bytes(of.is_some()) as u64;
            for _ in 0..=random.below(3) {
                let value = match random.below(8) {
                    0 | 1 => "null".to_owned(),
                    2 => random.below(1000).to_string(),
                    3 => format!("\"{}\"", "x".repeat(random.below(most + 20) as usize)),
                    _ => format!("{{\"l\":{},\"r\":{reference}}}", self.marker),
                };
                data.insert(pick(random, KEYS).into(), value.into());
            }
        }
        let if_seq = random.percent(40).then(|| self.draw_if(of.as_deref(), &data, random));
        let shown: Vec<String> =
            data.iter().map(|(key, value)| format!("{}:{value}", serde_json::Value::from(&**key))).collect();
        let mut text = format!("{{\"type\":\"set\",\"data\":{{{}}}", shown.join(","));
        if let Some(of) = &of {
            text.push_str(&format!(",\"of\":\"{of}\""));
        }
        if let Some(if_seq) = if_seq {
            text.push_str(&format!(",\"if\":{}", write_number(if_seq)));
        }
        let is_marked = data.values().any(|value| value.starts_with('{'));
        // Without its number, the mark is known to no request.
        Written { asked: Asked::Set { of, if_seq, data }, text, is_marked, needs_reference: is_marked }
    }

    /// Draws the `seq` of a condition: mostly one with which it just holds or just does not.
    fn draw_if(&self, of: Option<&str>, data: &Values, random: &mut Random) -> u64 {
        let newest = self.view.books.lobby.as_ref().and_then(|known| known.now.newest(of, data.keys()));
        match (random.below(6), newest) {
            (0..3, Some(newest)) => newest,
            (3, Some(newest)) => newest - 1,
            (4, _) => 0,
            _ => self.view.answers.seq,
        }
    }

    /// Draws the name of a seat: mostly one of a member.
    fn draw_conn(&self, random: &mut Random) -> Box<str> {
        let members = self.view.books.members.as_deref().unwrap_or_default();
        match members.get(random.below(members.len().max(1) as u64) as usize) {
            Some(member) if random.percent(85) => member.conn.clone(),
            _ => "s999999".into(),
        }
    }

    fn write_host(&self, random: &mut Random) -> Written {
        let conn = self.draw_conn(random);
        let text = format!("{{\"type\":\"host\",\"conn\":\"{conn}\"");
        Written { asked: Asked::Host { conn }, text, is_marked: false, needs_reference: false }
    }

    /// Writes a kick, a ban, or the end of a ban.
    fn write_kick(&self, users: &[String], random: &mut Random) -> Written {
        let members = self.view.books.members.as_deref().unwrap_or_default();
        let user: Box<str> = match members.get(random.below(members.len().max(1) as u64) as usize) {
            Some(member) if random.percent(50) => member.user.clone(),
            _ => users[random.below(users.len() as u64) as usize].as_str().into(),
        };
        let shown = serde_json::Value::from(&*user);
        if random.percent(40) {
            let text = format!("{{\"type\":\"unban\",\"user\":{shown}");
            return Written { asked: Asked::Unban, text, is_marked: false, needs_reference: false };
        }
        let is_banned = random.percent(40);
        let ban = match is_banned {
            true => ",\"ban\":true",
            false => pick(random, &["", ",\"ban\":false", ",\"ban\":null"]),
        };
        let text = format!("{{\"type\":\"kick\",\"user\":{shown}{ban}");
        Written { asked: Asked::Kick { user, is_banned }, text, is_marked: false, needs_reference: false }
    }
}

/// Writes a change of settings.
fn write_settings(book: &ControlBook, random: &mut Random) -> Written {
    let (mut given, mut expected, mut is_valid) = (Values::new(), Values::new(), true);
    for _ in 0..=random.below(2) {
        let (key, value, shown) = draw_setting(book, random);
        let name = if key == "password" { "has_password" } else { key };
        given.insert(key.into(), value.into());
        expected.insert(name.into(), shown.unwrap_or_default().into());
    }
    if random.percent(15) {
        let (key, value) = draw_wrong_setting(book, random);
        given.insert(key.into(), value.into());
        is_valid = false;
    }
    let shown: Vec<String> = given.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    let text = format!("{{\"type\":\"settings\",\"settings\":{{{}}}", shown.join(","));
    Written { asked: Asked::Settings { expected, is_valid }, text, is_marked: false, needs_reference: !is_valid }
}

/// Draws a setting with its value, and how the members are shown it.
fn draw_setting(book: &ControlBook, random: &mut Random) -> (&'static str, String, Option<String>) {
    let same = |key, value: String| (key, value.clone(), Some(value));
    let switch = |is_on: bool| is_on.to_string();
    let null = || "null".to_owned();
    match random.below(14) {
        0 | 1 => {
            let most = book.max_members.unwrap_or(u32::MAX).min(6);
            same("max", (1 + random.below(most.into())).to_string())
        }
        2 => ("max", null(), Some(book.max_members.map_or_else(null, |max| max.to_string()))),
        3 => same("locked", switch(random.percent(40))),
        4 => same("listed", switch(random.percent(50))),
        5 => same("name", pick(random, &["null", "\"A lobby\"", "\"\u{1f3b2} \\\"x\\\"\""]).to_owned()),
        6 => same("tags", pick(random, &["{}", r#"{"game":"chess"}"#, r#"{"a":"1","b":"2"}"#]).to_owned()),
        7 => match random.percent(40) {
            true => ("password", "\"tulip\"".to_owned(), Some(switch(true))),
            false => ("password", null(), Some(switch(false))),
        },
        8 => same("write", pick(random, &["\"all\"", "\"all\"", "\"host\""]).to_owned()),
        9 => same("watchers", random.below(u64::from(book.max_watchers) + 1).to_string()),
        10 | 11 => {
            let most = book.max_members.unwrap_or(u32::MAX).min(3);
            let (min, ready) = (1 + random.below(most.into()), random.percent(60));
            let countdown = pick(random, &[0, 1, 100, 1000, 1000, 5000, 20_000]);
            same("start", format!(r#"{{"min":{min},"ready":{ready},"countdown_ms":{countdown}}}"#))
        }
        12 => same("start", null()),
        _ => same("empty_ttl_ms", random.below(book.max_empty_ttl_ms + 1).to_string()),
    }
}

/// Draws a setting with a value that breaks a rule.
fn draw_wrong_setting(book: &ControlBook, random: &mut Random) -> (&'static str, String) {
    match random.below(7) {
        0 => ("max", "0".to_owned()),
        1 => match book.max_members {
            Some(max) => ("max", (u64::from(max) + 1).to_string()),
            None => ("max", "1.5".to_owned()),
        },
        2 => ("colour", "1".to_owned()),
        3 => ("name", "\"\"".to_owned()),
        4 => ("start", r#"{"min":0}"#.to_owned()),
        5 => ("empty_ttl_ms", (book.max_empty_ttl_ms + 1).to_string()),
        _ => ("password", "\"\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::models::lobby_view::read_values;

    #[test]
    fn malformed_requests_are_json_objects() {
        for text in MALFORMED {
            assert!(read_values(&format!("{text}}}")).is_ok(), "{text}");
        }
    }
}
