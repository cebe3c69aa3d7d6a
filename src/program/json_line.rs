//! A log line as a JSON object.
//!
//! A message about a connection begins with `conn=… peer=… address=… user="…" lobby=…`, or a part of that. These pairs become members of
//! the object, and the message is the rest. Only the beginning is read: it is written by the server, whereas a client may
//! have chosen what follows.

use std::fmt;

use log::Level;
use serde::Serialize;

/// The fields of one line, in their order.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct JsonLine<'a> {
    ts: &'a str,
    level: &'static str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lobby: Option<&'a str>,
    message: &'a str,
}

impl<'a> JsonLine<'a> {
    pub(crate) fn new(ts: &'a str, level: Level, target: &'a str, message: &'a str) -> JsonLine<'a> {
        let level = match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let (conn, peer, address) = (None, None, None);
        let mut line = JsonLine { ts, level, target, conn, peer, address, user: None, lobby: None, message };
        line.take_pairs();
        line
    }

    /// Moves the pairs at the beginning of the message into their fields.
    fn take_pairs(&mut self) {
        while let Some((key, rest)) = self.message.split_once('=') {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            let field = match key {
                "conn" => &mut self.conn,
                "peer" => &mut self.peer,
                "address" => &mut self.address,
                "lobby" => &mut self.lobby,
                "user" => {
                    let Some((name, after)) = unquote(rest).filter(|_| self.user.is_none()) else { return };
                    self.user = Some(name);
                    self.message = after.strip_prefix(' ').unwrap_or(after);
                    continue;
                }
                _ => return,
            };
            if word.is_empty() || field.is_some() {
                return;
            }
            *field = Some(word);
            self.message = after;
        }
    }
}

/// Reads a string in the form of `{:?}` at the beginning of `text`. Returns its contents, and the text after it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut chars = text.strip_prefix('"')?.chars();
    let mut contents = String::new();
    loop {
        contents.push(match chars.next()? {
            '"' => return Some((contents, chars.as_str())),
            '\\' => match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let (digits, after) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                    chars = after.chars();
                    char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
                }
                other => other,
            },
            other => other,
        });
    }
}

/// The object and a line feed. Invisible characters, which could disguise a line, are escaped.
impl fmt::Display for JsonLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).expect("strings can be written as JSON");
        let is_invisible = |c: char| !c.is_ascii() && c.escape_debug().len() > 1 || c == '\u{7f}';
        let mut rest = json.as_str();
        while let Some(at) = rest.find(is_invisible) {
            f.write_str(&rest[..at])?;
            let invisible = rest[at..].chars().next().expect("it was found");
            for unit in invisible.encode_utf16(&mut [0; 2]) {
                write!(f, "\\u{unit:04x}")?;
            }
            rest = &rest[at + invisible.len_utf8()..];
        }
        writeln!(f, "{rest}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[track_caller]
    fn check(message: &str, expected: &str) {
        let line = JsonLine::new("T", Level::Info, "lobbyd", message).to_string();
        let json = line.strip_prefix(r#"{"ts":"T","level":"info","target":"lobbyd","#).expect("the first fields");
        assert_eq!(json, format!("{expected}}}\n"), "{message}");
    }

    #[test]
    fn the_pairs_at_the_beginning_become_fields() {
        check(r#"conn=7.3 peer=127.0.0.1:4 accepted"#, r#""conn":"7.3","peer":"127.0.0.1:4","message":"accepted""#);
        check(
            r#"conn=7.3 user="ann \"x\" user=" lobby=chess joined, lobby=go"#,
            r#""conn":"7.3","user":"ann \"x\" user=","lobby":"chess","message":"joined, lobby=go""#,
        );
        check(
            r#"conn=7.3 peer=127.0.0.1:4 address=2001:db8::1 user="ann" lobby=go joined"#,
            r#""conn":"7.3","peer":"127.0.0.1:4","address":"2001:db8::1","user":"ann","lobby":"go","message":"joined""#,
        );
        check("joined user=\"ann\"", r#""message":"joined user=\"ann\"""#);
        check("seed=7", r#""message":"seed=7""#);
        check("connections=3 conn=4", r#""message":"connections=3 conn=4""#);
        check("conn=1 conn=2 x", r#""conn":"1","message":"conn=2 x""#);
        check("conn=1", r#""conn":"1","message":"""#);
        check("conn= x", r#""message":"conn= x""#);
        check("user=ann x", r#""message":"user=ann x""#);
        check("user=\"ann", r#""message":"user=\"ann""#);
        check("", r#""message":"""#);
    }

    #[test]
    fn every_name_is_read_back_and_every_character_can_be_written() {
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        for name in [&all, "\u{202e}\"\\\n\u{0}'", "a\u{301}", "\u{e0001}"] {
            let message = format!("user={name:?} said {name}");
            let line = JsonLine::new("T", Level::Warn, "lobbyd", &message).to_string();
            let read: Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!((&read["user"], &read["message"]), (&Value::from(name), &format!("said {name}").into()));
            let hidden = line.trim_end_matches('\n').chars().find(|c| !c.is_ascii() && c.escape_debug().len() > 1);
            assert_eq!(hidden, None);
            assert_eq!(line.lines().count(), 1);
        }
    }
}
