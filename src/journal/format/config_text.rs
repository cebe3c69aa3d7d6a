//! The configuration in the first entry of a segment: one line `name=value` for each field.

use std::io;

use crate::config::{CheckedConfig, Config, Field};

/// Writes the configuration as text, one line `name=value` for each field. Fails when reading the text would give a
/// different one, which could not be replayed.
pub(crate) fn config_as_text(config: &CheckedConfig) -> io::Result<String> {
    let (recorded, left_out): (Vec<_>, Vec<_>) = Config::FIELDS.iter().partition(|field| is_recorded(field));
    let text: String = recorded.iter().map(|field| format!("{}={}\n", field.name, (field.show)(config))).collect();
    let mut expected = (**config).clone();
    for field in left_out {
        (field.set)(&mut expected, field.default).expect("every default is valid");
    }
    match config_from_text(&text) {
        Ok(read) if read == expected => Ok(text),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the configuration has a value that cannot be written as text, such as a part of a millisecond",
        )),
    }
}

/// Fields that older journals do not name, each with the value under which the server behaves as the build that wrote
/// them.
const ADDED: &[(&str, &str)] = &[
    ("max_json_depth", "unlimited"),
    ("presence_count_interval", "off"),
    ("max_overflow", "0"),
    // Older builds had no sessions, and accepted outboxes that have no room for a history.
    ("seat_grace", "0s"),
];

/// Whether a field is recorded. The address of Redis may have a password; an entry says that the session is that of a node.
/// URLs of the hook may have secrets, and no replay calls them or reports events.
fn is_recorded(field: &Field) -> bool {
    field.name != "cluster" && field.group != "Events and the hook"
}

/// Fields whose effect is recorded, or happens outside the engine: a replay does not use them. An older build may have
/// accepted a value that this one refuses.
const UNUSED_IN_REPLAYS: [&str; 5] = ["allowed_origin", "admin_host", "proxy_protocol", "tls_cert", "tls_key"];

/// Parses a configuration from the text that [`config_as_text`] writes. A field that no replay uses has its default value
/// if this build refuses the recorded one.
pub(crate) fn config_from_text(text: &str) -> Result<Config, ()> {
    let mut config = Config::default();
    let lines = text.lines().map(|line| line.split_once('=').ok_or(()));
    for field in ADDED.iter().copied().map(Ok).chain(lines) {
        let (name, value) = field?;
        let field = Config::FIELDS.iter().find(|field| field.name == name).ok_or(())?;
        let is_set = (field.set)(&mut config, value).is_ok();
        (is_set || UNUSED_IN_REPLAYS.contains(&name)).then_some(()).ok_or(())?;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limit::Limit;

    /// Sessions that older builds recorded must replay as they ran.
    #[test]
    fn a_field_that_an_older_journal_does_not_name_has_no_effect() {
        let read = config_from_text("max_strikes=7\n").expect("a configuration");
        assert_eq!((read.max_strikes, read.max_json_depth, read.presence_count_interval), (7, Limit::UNLIMITED, None));
        let read = config_from_text("max_json_depth=128\n").expect("a configuration");
        assert_eq!(read.max_json_depth, Limit::at_most(128));
    }

    #[test]
    fn the_address_of_redis_is_not_recorded() {
        let cluster = "redis://lobby:s3cret@redis.internal:6380/2".parse().ok();
        let node = "first".parse().ok();
        let config = Config { cluster, node, ..Config::default() }.check().expect("a configuration");
        let text = config_as_text(&config).expect("it can be written");
        assert!(!text.contains("s3cret") && !text.contains("redis.internal"), "{text}");
        let read = config_from_text(&text).expect("a configuration");
        assert_eq!(read, Config { cluster: None, ..(*config).clone() });
        read.check_recorded().expect("a replay takes it");
    }

    #[test]
    fn values_that_an_older_build_accepted_do_not_end_a_replay() {
        for line in
            ["allowed_origin=https://user@game.example,http://b\u{fc}cher.example", "admin_host=lobby.internal:9002"]
        {
            assert_eq!(config_from_text(&format!("max_headers=65\n{line}\n")).expect(line).max_headers, 65);
        }
        config_from_text("trusted_proxies=none\n").expect_err("a field that a replay uses");
    }
}
