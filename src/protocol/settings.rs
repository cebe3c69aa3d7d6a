//! Settings of a lobby as JSON.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use smol_str::SmolStr;

use super::object::Object;
use super::writer::push_string;
use crate::base::entry::{MAX_PASSWORD_BYTES, PasswordHash};
use crate::base::number::integer;
use crate::lobby::control::settings::{Settings, SettingsBounds, SettingsChange, StartRule, Writers};

/// Reads the object `settings` of a request. `null` resets a setting. Values are checked later.
///
/// # Errors
///
/// A sentence with the setting and the rule that its value breaks.
pub(crate) fn read_settings(text: &str) -> Result<SettingsChange, String> {
    let object = Object::read(text).ok_or("settings must be an object")?;
    if let Some(key) = object.repeated_key() {
        return Err(format!("settings has {key:?} twice"));
    }
    if object.0.is_empty() {
        return Err("settings must have at least one field".to_owned());
    }
    let mut change = SettingsChange::default();
    for (key, value) in &object.0 {
        let value = Some(*value).filter(|&value| value != "null");
        match &**key {
            "max" => change.max = Some(value.map(|value| number("max", value)).transpose()?),
            "locked" => change.locked = Some(switch("locked", value)?),
            "listed" => change.listed = Some(switch("listed", value)?),
            "name" => change.name = Some(value.map(|value| string("name", value)).transpose()?.map(SmolStr::from)),
            "tags" => change.tags = Some(value.map_or(Ok(Vec::new()), tags)?),
            "password" => change.password = Some(value.map(password).transpose()?),
            "write" => {
                change.write = Some(match value.map(|value| string("write", value)).transpose()?.as_deref() {
                    None | Some("host") => Writers::Host,
                    Some("all") => Writers::All,
                    Some(_) => return Err(r#"write must be "host" or "all""#.to_owned()),
                });
            }
            "watchers" => change.watchers = Some(value.map(|value| number("watchers", value)).transpose()?),
            "start" => change.start = Some(value.map(start).transpose()?),
            "empty_ttl_ms" => {
                let millis = value.map_or(Ok(0), |value| number("empty_ttl_ms", value))?;
                change.empty_ttl = Some(Duration::from_millis(u64::from(millis)));
            }
            _ => return Err(format!("there is no setting {:?}", shown(key))),
        }
    }
    Ok(change)
}

/// The beginning of a text that a client chose, for a message to it.
fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(32) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

fn number(name: &str, value: &str) -> Result<u32, String> {
    let number = integer(value).and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| format!("{name} must be an integer from 0 to {}", u32::MAX))
}

fn switch(name: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(format!("{name} must be true or false")),
    }
}

fn string(name: &str, value: &str) -> Result<String, String> {
    serde_json::from_str(value).map_err(|_| format!("{name} must be a string"))
}

fn password(value: &str) -> Result<PasswordHash, String> {
    let password = string("password", value)?;
    PasswordHash::of(&password).ok_or_else(|| format!("password must have 1 to {MAX_PASSWORD_BYTES} bytes"))
}

fn tags(value: &str) -> Result<Vec<(SmolStr, SmolStr)>, String> {
    let rule = "tags must be an object with strings";
    let object = Object::read(value).ok_or(rule)?;
    if let Some(key) = object.repeated_key() {
        return Err(format!("tags has {:?} twice", shown(key)));
    }
    let tag = |(key, value): &(Cow<'_, str>, &str)| Ok((SmolStr::new(key), string("a tag", value)?.into()));
    let mut tags = object.0.iter().map(tag).collect::<Result<Vec<_>, String>>().map_err(|_| rule)?;
    tags.sort_unstable();
    Ok(tags)
}

fn start(value: &str) -> Result<StartRule, String> {
    let object = Object::read(value).ok_or("start must be an object with min, ready and countdown_ms")?;
    if let Some(key) = object.repeated_key() {
        return Err(format!("start has {:?} twice", shown(key)));
    }
    let mut rule = StartRule { min: 1, needs_ready: true, countdown: Duration::ZERO };
    for (key, value) in &object.0 {
        match &**key {
            "min" => rule.min = number("start.min", value)?,
            "ready" => rule.needs_ready = switch("start.ready", Some(value))?,
            "countdown_ms" => {
                rule.countdown = Duration::from_millis(u64::from(number("start.countdown_ms", value)?));
            }
            _ => return Err(format!("there is no setting {:?}", format!("start.{}", shown(key)))),
        }
    }
    Ok(rule)
}

/// Appends the settings of a lobby as an object: those that `change` changes, or all.
pub(super) fn push_settings(
    out: &mut String,
    settings: &Settings,
    is_locked: bool,
    bounds: SettingsBounds,
    change: Option<&SettingsChange>,
) {
    let mut fields = Fields { out, is_first: true };
    let has = |is_changed: fn(&SettingsChange) -> bool| change.is_none_or(is_changed);
    if has(|change| change.max.is_some()) {
        // `null`: no bound at all.
        match settings.max.or(bounds.members.bound()) {
            Some(max) => fields.number("max", u64::from(max)),
            None => fields.raw("max", "null"),
        }
    }
    if has(|change| change.locked.is_some()) {
        fields.raw("locked", if is_locked { "true" } else { "false" });
    }
    if has(|change| change.listed.is_some()) {
        fields.raw("listed", if settings.listed { "true" } else { "false" });
    }
    if has(|change| change.name.is_some()) {
        match &settings.name {
            Some(name) => fields.string("name", name),
            None => fields.raw("name", "null"),
        }
    }
    if has(|change| change.tags.is_some()) {
        fields.raw("tags", "");
        push_tags(fields.out, &settings.tags);
    }
    if has(|change| change.password.is_some()) {
        fields.raw("has_password", if settings.password.is_some() { "true" } else { "false" });
    }
    if has(|change| change.write.is_some()) {
        fields.string(
            "write",
            match settings.write {
                Writers::Host => "host",
                Writers::All => "all",
            },
        );
    }
    if has(|change| change.watchers.is_some()) {
        fields.number("watchers", u64::from(settings.watchers.unwrap_or(bounds.watchers)));
    }
    if has(|change| change.start.is_some()) {
        match settings.start {
            None => fields.raw("start", "null"),
            Some(StartRule { min, needs_ready, countdown }) => {
                let millis = countdown.as_millis();
                fields.raw("start", &format!(r#"{{"min":{min},"ready":{needs_ready},"countdown_ms":{millis}}}"#));
            }
        }
    }
    if has(|change| change.empty_ttl.is_some()) {
        fields.number("empty_ttl_ms", settings.empty_ttl.as_millis() as u64);
    }
    fields.end();
}

/// Returns the settings of a lobby as a JSON object.
pub(crate) fn settings_json(settings: &Settings, is_locked: bool, bounds: SettingsBounds) -> String {
    let mut text = String::new();
    push_settings(&mut text, settings, is_locked, bounds, None);
    text
}

/// Appends tags as an object.
pub(super) fn push_tags(out: &mut String, tags: &[(SmolStr, SmolStr)]) {
    let mut fields = Fields { out, is_first: true };
    tags.iter().for_each(|(key, value)| fields.string(key, value));
    fields.end();
}

/// Writer of the fields of one object.
struct Fields<'a> {
    out: &'a mut String,
    is_first: bool,
}

impl Fields<'_> {
    fn raw(&mut self, key: &str, json: &str) {
        self.out.push(if std::mem::take(&mut self.is_first) { '{' } else { ',' });
        push_string(self.out, key);
        self.out.push(':');
        self.out.push_str(json);
    }

    fn number(&mut self, key: &str, value: u64) {
        self.raw(key, "");
        write!(self.out, "{value}").expect("writing to a String cannot fail");
    }

    fn string(&mut self, key: &str, value: &str) {
        self.raw(key, "");
        push_string(self.out, value);
    }

    fn end(self) {
        self.out.push_str(if self.is_first { "{}" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn bounds() -> SettingsBounds {
        SettingsBounds::new(&Config { max_empty_ttl: Duration::from_secs(60), ..Config::default() })
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let read = read_settings(text).and_then(|change| change.check(bounds()).map(|()| change));
        let mut out = String::new();
        match read {
            Err(why) => out = why,
            Ok(change) => {
                let mut settings = Settings::default();
                settings.apply(&change);
                push_settings(&mut out, &settings, change.locked == Some(true), bounds(), Some(&change));
            }
        }
        assert_eq!(out, expected, "{text}");
    }

    #[test]
    fn settings_are_read_and_written() {
        for (text, expected) in [
            (r#"{"max":4}"#, r#"{"max":4}"#),
            (r#"{"max":4.0,"locked":true}"#, r#"{"max":4,"locked":true}"#),
            (r#"{"max":null,"listed":true,"name":"A \"b\""}"#, r#"{"max":10,"listed":true,"name":"A \"b\""}"#),
            (r#"{"tags":{"map":"x","game":"chess"}}"#, r#"{"tags":{"game":"chess","map":"x"}}"#),
            (r#"{"password":"p","write":"all"}"#, r#"{"has_password":true,"write":"all"}"#),
            (r#"{"password":null,"tags":null,"write":null}"#, r#"{"tags":{},"has_password":false,"write":"host"}"#),
            (
                r#"{"start":{"min":2,"countdown_ms":3000},"empty_ttl_ms":60000,"watchers":0}"#,
                r#"{"watchers":0,"start":{"min":2,"ready":true,"countdown_ms":3000},"empty_ttl_ms":60000}"#,
            ),
            (r#"{"start":null,"watchers":null}"#, r#"{"watchers":32,"start":null}"#),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn a_value_that_breaks_a_rule_is_refused_with_the_rule() {
        for (text, expected) in [
            ("[]", "settings must be an object"),
            ("{}", "settings must have at least one field"),
            (r#"{"max":1,"max":2}"#, r#"settings has "max" twice"#),
            (r#"{"colour":1}"#, r#"there is no setting "colour""#),
            (r#"{"max":11}"#, "max is 11: it must be from 1 to 10"),
            (r#"{"max":0}"#, "max is 0: it must be from 1 to 10"),
            (r#"{"max":-1}"#, "max must be an integer from 0 to 4294967295"),
            (r#"{"max":"4"}"#, "max must be an integer from 0 to 4294967295"),
            (r#"{"locked":1}"#, "locked must be true or false"),
            (r#"{"name":""}"#, "name must have 1 to 64 bytes and no control characters"),
            (r#"{"name":"a\nb"}"#, "name must have 1 to 64 bytes and no control characters"),
            (r#"{"tags":["a"]}"#, "tags must be an object with strings"),
            (r#"{"tags":{"a":1}}"#, "tags must be an object with strings"),
            (
                r#"{"tags":{"a":"","b":"1"}}"#,
                "keys and values of tags must have 1 to 64 bytes and no control characters",
            ),
            (r#"{"tags":{"a":"1","b":"1","c":"1","d":"1","e":"1"}}"#, "tags has 5 keys: it must have at most 4"),
            (r#"{"password":""}"#, "password must have 1 to 64 bytes"),
            (r#"{"write":"me"}"#, r#"write must be "host" or "all""#),
            (r#"{"watchers":33}"#, "watchers is 33: it must be at most 32"),
            (r#"{"start":true}"#, "start must be an object with min, ready and countdown_ms"),
            (r#"{"start":{"min":0}}"#, "start.min is 0: it must be from 1 to 10"),
            (r#"{"start":{"players":2}}"#, r#"there is no setting "start.players""#),
            (r#"{"start":{"countdown_ms":3600001}}"#, "start.countdown_ms is 3600001: it must be at most 3600000"),
            (
                r#"{"empty_ttl_ms":60001}"#,
                "empty_ttl_ms is 60001: it must be at most 60000, the max_empty_ttl of this server",
            ),
        ] {
            check(text, expected);
        }
    }
}
