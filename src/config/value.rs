//! Text form of the fields of [`Config`](super::Config), for the command line, the environment and the guide.

use std::path::PathBuf;
use std::time::Duration;

use super::hook::{HeaderNames, HttpUrl, OnHookFailure};
use super::host_names::HostNames;
use super::listen::{FileMode, Listen};
use super::origins::Origins;
use super::proxy_addresses::ProxyAddresses;
use super::redis_url::{ClusterName, NodeUrl, RedisUrl};
use super::types::{ByteSize, DuplicateLogin, Flush, Form, OnJournalError, PerUser, Secrets};
use crate::base::event_kind::EventKinds;
use crate::base::forwarded_header::ForwardedHeader;
use crate::base::limit::Limit;

/// A type of a configuration field, with its text form. `parse` accepts every text that `show` returns.
pub(super) trait Value: Sized {
    const FORM: Form = Form::Text;

    /// Fails with a message that quotes `text` and names the expected form.
    fn parse(text: &str) -> Result<Self, String>;
    fn show(&self) -> String;
}

/// Parses a duration as the fields of [`Config`](super::Config) are written: `500ms`, `20s`, `5m` or `1h`.
///
/// # Errors
///
/// A message that quotes the text and names the expected form.
///
/// ```
/// use std::time::Duration;
///
/// use lobbyd::config::parse_duration;
///
/// assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
/// assert!(parse_duration("90").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Value::parse(text)
}

impl Value for u32 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("`{text}` is not a whole number"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Limit {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" => Ok(Limit::UNLIMITED),
            _ => match text.parse() {
                Ok(n) => Ok(Limit::at_most(n)),
                Err(_) => Err(format!("`{text}` is neither a whole number below 2^32 nor `unlimited`")),
            },
        }
    }

    fn show(&self) -> String {
        self.bound().map_or_else(|| "unlimited".into(), |n| n.to_string())
    }
}

impl Value for ByteSize {
    fn parse(text: &str) -> Result<Self, String> {
        let (digits, unit) = match text.strip_suffix("KiB") {
            Some(digits) => (digits, 1 << 10),
            None => match text.strip_suffix("MiB") {
                Some(digits) => (digits, 1 << 20),
                None => (text, 1),
            },
        };
        let count: Option<usize> = digits.trim_end().parse().ok();
        count
            .and_then(|n| n.checked_mul(unit))
            .map(ByteSize)
            .ok_or_else(|| format!("`{text}` is not a size such as 65536, 64KiB or 16MiB"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(unit_at);
        let count: Option<u64> = digits.parse().ok();
        let millis_per_unit = match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        count
            .zip(millis_per_unit)
            .and_then(|(count, unit)| count.checked_mul(unit))
            .map(Duration::from_millis)
            .ok_or_else(|| format!("`{text}` is not a duration such as 500ms, 20s, 5m or 1h"))
    }

    fn show(&self) -> String {
        match self.as_millis() {
            n if n != 0 && n % 3_600_000 == 0 => format!("{}h", n / 3_600_000),
            n if n != 0 && n % 60_000 == 0 && n > 60_000 => format!("{}m", n / 60_000),
            n if n % 1000 == 0 => format!("{}s", n / 1000),
            n => format!("{n}ms"),
        }
    }
}

impl<T: Value> Value for Option<T> {
    const FORM: Form = T::FORM;

    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" { Ok(None) } else { T::parse(text).map(Some).map_err(|error| format!("{error}, or `off`")) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "off".into(), Value::show)
    }
}

impl<T: Value> Value for PerUser<T> {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "same" {
            Ok(PerUser::Same)
        } else {
            T::parse(text).map(PerUser::Own).map_err(|error| format!("{error}, or `same`"))
        }
    }

    fn show(&self) -> String {
        match self {
            PerUser::Same => "same".into(),
            PerUser::Own(limit) => limit.show(),
        }
    }
}

impl Value for Listen {
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for RedisUrl {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for HttpUrl {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for EventKinds {
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for HeaderNames {
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for OnHookFailure {
    const FORM: Form = Form::Words(&["retry", "refuse"]);

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "retry" => Ok(OnHookFailure::Retry),
            "refuse" => Ok(OnHookFailure::Refuse),
            _ => Err(format!("`{text}` is neither retry nor refuse")),
        }
    }

    fn show(&self) -> String {
        match self {
            OnHookFailure::Retry => "retry".into(),
            OnHookFailure::Refuse => "refuse".into(),
        }
    }
}

impl Value for NodeUrl {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Value for ClusterName {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Value for FileMode {
    fn parse(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if text.bytes().all(|c| c.is_ascii_digit()) => Ok(FileMode(mode)),
            _ => Err(format!("`{text}` is not a mode in octal such as 660 or 600")),
        }
    }

    fn show(&self) -> String {
        format!("{:03o}", self.0)
    }
}

impl Value for PathBuf {
    const FORM: Form = Form::Path;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must not be empty".into()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for DuplicateLogin {
    const FORM: Form = Form::Words(&["replace", "reject", "allow"]);

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "replace" => Ok(DuplicateLogin::Replace),
            "reject" => Ok(DuplicateLogin::Reject),
            "allow" => Ok(DuplicateLogin::Allow),
            _ => Err(format!("`{text}` is none of replace, reject, allow")),
        }
    }

    fn show(&self) -> String {
        match self {
            DuplicateLogin::Replace => "replace".into(),
            DuplicateLogin::Reject => "reject".into(),
            DuplicateLogin::Allow => "allow".into(),
        }
    }
}

impl Value for Flush {
    const FORM: Form = Form::Words(&["turn", "tick"]);

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "turn" => Ok(Flush::Turn),
            "tick" => Ok(Flush::Tick),
            _ => Err(format!("`{text}` is neither turn nor tick")),
        }
    }

    fn show(&self) -> String {
        match self {
            Flush::Turn => "turn".into(),
            Flush::Tick => "tick".into(),
        }
    }
}

impl Value for bool {
    const FORM: Form = Form::Switch;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(format!("`{text}` is neither on nor off")),
        }
    }

    fn show(&self) -> String {
        if *self { "on".into() } else { "off".into() }
    }
}

impl Value for ForwardedHeader {
    const FORM: Form = Form::Words(&["x-forwarded-for", "forwarded", "x-real-ip"]);

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "x-forwarded-for" => Ok(ForwardedHeader::XForwardedFor),
            "forwarded" => Ok(ForwardedHeader::Forwarded),
            "x-real-ip" => Ok(ForwardedHeader::XRealIp),
            _ => Err(format!("`{text}` is none of x-forwarded-for, forwarded, x-real-ip")),
        }
    }

    fn show(&self) -> String {
        match self {
            ForwardedHeader::XForwardedFor => "x-forwarded-for".into(),
            ForwardedHeader::Forwarded => "forwarded".into(),
            ForwardedHeader::XRealIp => "x-real-ip".into(),
        }
    }
}

impl Value for OnJournalError {
    const FORM: Form = Form::Words(&["stop", "continue"]);

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(OnJournalError::Stop),
            "continue" => Ok(OnJournalError::Continue),
            _ => Err(format!("`{text}` is neither stop nor continue")),
        }
    }

    fn show(&self) -> String {
        match self {
            OnJournalError::Stop => "stop".into(),
            OnJournalError::Continue => "continue".into(),
        }
    }
}

impl Value for Secrets {
    const FORM: Form = Form::Words(&["omit", "keep"]);

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "omit" => Ok(Secrets::Omit),
            "keep" => Ok(Secrets::Keep),
            _ => Err(format!("`{text}` is neither omit nor keep")),
        }
    }

    fn show(&self) -> String {
        match self {
            Secrets::Omit => "omit".into(),
            Secrets::Keep => "keep".into(),
        }
    }
}

impl Value for ProxyAddresses {
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for HostNames {
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(HostNames::default());
        }
        let listed: Vec<String> =
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Into::into).collect();
        let names = HostNames { listed };
        match names.problems() {
            _ if names.listed.is_empty() => Err("must name a host, or be `off`".into()),
            problems if problems.is_empty() => Ok(names),
            problems => Err(problems.join("; ")),
        }
    }

    fn show(&self) -> String {
        if self.listed.is_empty() { "off".into() } else { self.listed.join(",") }
    }
}

impl Value for Origins {
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Self, String> {
        let words = text.split(',').map(str::trim);
        let has = |name: &str| words.clone().any(|word| word == name);
        let (any, loopback) = (has("any"), has("loopback"));
        let listed = words.filter(|word| !["", "own", "any", "loopback"].contains(word)).map(Into::into).collect();
        let origins = Origins { any, loopback, listed };
        let problems = origins.problems();
        if problems.is_empty() { Ok(origins) } else { Err(problems.join("; ")) }
    }

    fn show(&self) -> String {
        let loopback = self.loopback.then_some("loopback");
        let words: Vec<&str> = loopback.into_iter().chain(self.listed.iter().map(String::as_str)).collect();
        match (self.any, words.is_empty()) {
            (true, _) => "any".into(),
            (false, true) => "own".into(),
            (false, false) => words.join(","),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[track_caller]
    fn check_text<T: Value + fmt::Debug>(text: &str, shown: Result<&str, ()>) {
        assert_eq!(T::parse(text).map(|value| value.show()).map_err(|_| ()), shown.map(String::from), "{text}");
    }

    #[test]
    fn values_are_parsed_and_shown() {
        check_text::<Duration>("1500ms", Ok("1500ms"));
        check_text::<Duration>("120s", Ok("2m"));
        check_text::<Duration>("20", Err(()));
        check_text::<Duration>("-1s", Err(()));
        check_text::<Duration>("18446744073709551615h", Err(()));
        check_text::<ByteSize>("64KiB", Ok("64KiB"));
        check_text::<ByteSize>("1000", Ok("1000"));
        check_text::<ByteSize>("17592186044416MiB", Err(()));
        check_text::<Limit>("0", Ok("0"));
        check_text::<Limit>("unlimited", Ok("unlimited"));
        check_text::<Limit>("-1", Err(()));
        check_text::<Limit>("4294967295", Ok("4294967295"));
        check_text::<Limit>("4294967296", Err(()));
        check_text::<PerUser<Limit>>("same", Ok("same"));
        check_text::<PerUser<Limit>>("unlimited", Ok("unlimited"));
        check_text::<PerUser<u32>>("7", Ok("7"));
        check_text::<PerUser<u32>>("unlimited", Err(()));
        check_text::<Option<Duration>>("off", Ok("off"));
        check_text::<DuplicateLogin>("both", Err(()));
        check_text::<Flush>("never", Err(()));
        check_text::<FileMode>("0600", Ok("600"));
        check_text::<FileMode>("+60", Err(()));
        check_text::<FileMode>("668", Err(()));
    }
}
