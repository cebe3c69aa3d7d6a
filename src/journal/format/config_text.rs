//! The configuration in the first entry of a segment: one line `name=value` for each field.

use std::io;

use crate::config::{CheckedConfig, Config};

/// Writes the configuration as text, one line `name=value` for each field. Fails when reading the text would give a
/// different one, which could not be replayed.
pub(crate) fn config_as_text(config: &CheckedConfig) -> io::Result<String> {
    let lines = Config::FIELDS.iter().map(|field| format!("{}={}\n", field.name, (field.show)(config)));
    let text: String = lines.collect();
    match config_from_text(&text) {
        Ok(read) if read == **config => Ok(text),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the configuration has a value that cannot be written as text, such as a part of a millisecond",
        )),
    }
}

/// Parses a configuration from the text that [`config_as_text`] writes.
pub(crate) fn config_from_text(text: &str) -> Result<Config, ()> {
    // Servers of builds without the field refused all sockets beyond `max_pending` unread.
    let mut config = Config { max_overflow: 0, ..Config::default() };
    for line in text.lines() {
        let (name, value) = line.split_once('=').ok_or(())?;
        let field = Config::FIELDS.iter().find(|field| field.name == name).ok_or(())?;
        (field.set)(&mut config, value).map_err(|_| ())?;
    }
    Ok(config)
}
