//! `lobbyd config`: prints a configuration file.
//!
//! Without `--effective` the file has every option with its documentation; an option that was not given is commented out,
//! with its value in force. Its paths are absolute. With `--effective` it has the values in force only, each with its
//! origin. Either text is a valid configuration file. No option holds a secret: secrets are in files of their own.
//!
//! Exit 0: printed. 2: the configuration is invalid.

use std::path;
use std::process::ExitCode;

use clap::ArgMatches;
use lobbyd::Config;
use lobbyd::config::Form;

use super::command_line::wrap;
use super::options::Options;
use super::output;
use super::table::{Entry, OFF, entries};

/// Columns of the comments.
const COLUMNS: usize = 98;

const HEAD: &str = "A line `#name = value` is an option with its default: remove the `#` to set it. A flag wins over its variable, and a \
     variable over this file: max_connections is also LOBBYD_MAX_CONNECTIONS and --max-connections.";
const SYNTAX: &str = "Durations are strings such as \"500ms\", \"20s\", \"5m\" or \"1h\"; sizes are numbers of bytes, or strings such as \
     \"64KiB\" or \"16MiB\". Limits of seats, lobbies and connections per address, and all rates, may be \"unlimited\". \
     Relative paths are relative to the folder of this file.";

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    match Options::read(matches) {
        Ok(options) if matches.get_flag("effective") => output::print(effective(&options).as_bytes()),
        Ok(options) => output::print(commented(&options).as_bytes()),
        Err(refusal) => refusal.report(),
    }
}

fn commented(options: &Options) -> String {
    let mut text = format!("# Configuration of lobbyd {}.\n#\n", env!("CARGO_PKG_VERSION"));
    let comment =
        |text: &mut String, words: &str| text.extend(wrap(words, COLUMNS).iter().flat_map(|line| ["# ", line, "\n"]));
    comment(&mut text, HEAD);
    text.push_str("#\n");
    comment(&mut text, SYNTAX);
    let mut group = "";
    for entry in entries() {
        if entry.group != group {
            group = entry.group;
            text.push_str(&format!("\n\n# ---- {group} ----\n"));
        }
        text.push('\n');
        comment(&mut text, entry.doc);
        let mark = if options.values.is_given(entry.name) { "" } else { "#" };
        text.push_str(&format!(
            "{mark}{} = {}\n",
            entry.name,
            to_toml(&entry, &absolute(&entry, text_of(&entry, options)))
        ));
    }
    text
}

fn effective(options: &Options) -> String {
    let line = |entry: Entry| {
        let (value, origin) = (to_toml(&entry, &text_of(&entry, options)), options.values.origin(&entry));
        format!("{} = {value} # {}\n", entry.name, origin.escape_debug())
    };
    entries().map(line).collect()
}

/// Returns the value in force, as a flag would have it.
fn text_of(entry: &Entry, options: &Options) -> String {
    let field = Config::FIELDS.iter().find(|field| field.name == entry.name);
    field.map_or_else(|| options.values.text(entry.name).to_owned(), |field| (field.show)(&options.config))
}

/// Makes the paths in a value absolute, so that the printed file means the same in every folder.
fn absolute(entry: &Entry, text: String) -> String {
    // Without a working directory the path stays relative.
    let path = |text: &str| path::absolute(text).map_or_else(|_| text.to_owned(), |path| path.display().to_string());
    match entry.form {
        Form::Path if text != OFF => path(&text),
        Form::List => {
            let values = text.split(',').map(|value| match value.trim().strip_prefix("unix:") {
                Some(file) => format!("unix:{}", path(file)),
                None => value.to_owned(),
            });
            values.collect::<Vec<_>>().join(",")
        }
        _ => text,
    }
}

/// Writes a value as TOML.
fn to_toml(entry: &Entry, text: &str) -> String {
    match entry.form {
        Form::Switch => (text == "on").to_string(),
        // A list that is switched off.
        Form::List if text == OFF => quote(text),
        Form::List => format!("[{}]", text.split(',').map(|part| quote(part.trim())).collect::<Vec<_>>().join(", ")),
        // TOML's integers have 64 bits with a sign.
        Form::Text if text.parse::<i64>().is_ok_and(|number| number.to_string() == text) => text.to_owned(),
        _ => quote(text),
    }
}

/// Returns a basic string of TOML, whose escapes are those of JSON, and one more.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
