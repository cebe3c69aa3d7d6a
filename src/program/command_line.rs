//! The command line of the server, and its subcommands.

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};
use clap_complete::Shell;
use lobbyd::config::Form;

use super::table::{Entry, entries};
use super::values::{CONFIG, CONFIG_VARIABLE};
use super::{exit, load, replay, simulate};

/// Columns of the text in `--help`.
pub(crate) const COLUMNS: usize = 90;

/// Defines the command line. Every option of the server becomes a flag and an environment variable. Descriptions have lines of
/// at most `columns` characters.
pub(crate) fn command(columns: usize) -> Command {
    let command = Command::new("lobbyd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A WebSocket lobby server: ws://ADDRESS/ws/{lobby_code}?token={user}")
        .after_help(
            "Limits of seats, lobbies and connections per address, and all rates, may be `unlimited`.\n\
             Sizes are written as 65536, 64KiB or 16MiB, durations as 500ms, 20s, 5m or 1h.\n\
             Every flag is also an environment variable, --max-per-lobby is LOBBYD_MAX_PER_LOBBY, and a key of the\n\
             configuration file, max_per_lobby. A flag wins over its variable, and a variable over the file.\n\
             `lobbyd config` prints a file with all options, `lobbyd check` checks a configuration.",
        )
        .next_line_help(true)
        // Otherwise the flags before a subcommand would be ignored.
        .args_conflicts_with_subcommands(true)
        .args(serve_arguments(columns))
        .subcommand(
            Command::new("check")
                .about("Checks a configuration as the start does, without starting, and prints what it needs")
                .next_line_help(true)
                .after_help(exit::help("", exit::CHECK))
                .args(serve_arguments(columns)),
        )
        .subcommand(
            Command::new("config")
                .about("Prints a configuration file with all options; those that are not given are commented out")
                .next_line_help(true)
                .arg(
                    Arg::new("effective")
                        .long("effective")
                        .action(ArgAction::SetTrue)
                        .help("Prints the values in force, each with its origin, and no documentation"),
                )
                .args(serve_arguments(columns)),
        )
        .subcommand(simulate::command())
        .subcommand(load::command::command())
        .subcommand(replay::command())
        .subcommand(
            Command::new("completions")
                .about("Prints a script with which a shell completes commands, flags and values")
                .arg(
                    Arg::new("shell")
                        .value_name("SHELL")
                        .required(true)
                        .value_parser(value_parser!(Shell))
                        .help("The shell, for example bash: lobbyd completions bash > /etc/bash_completion.d/lobbyd"),
                ),
        )
        .subcommand(Command::new("man").about("Prints the man page: lobbyd man > /usr/local/share/man/man8/lobbyd.8"));
    // It needs signals and sockets of Unix.
    #[cfg(unix)]
    let command = command.subcommand(super::cluster::command::command().args(serve_arguments(columns)));
    command
}

/// The flags of the server.
fn serve_arguments(columns: usize) -> impl Iterator<Item = Arg> {
    let config = Arg::new(CONFIG)
        .long(CONFIG)
        .env(CONFIG_VARIABLE)
        .hide_env(true)
        .value_name("FILE")
        .value_hint(ValueHint::FilePath)
        .help("Configuration file (TOML); `lobbyd config` prints one with all options.");
    [config].into_iter().chain(entries().map(move |entry| argument(entry, columns)))
}

fn argument(entry: Entry, columns: usize) -> Arg {
    let hint = if entry.form == Form::Path { ValueHint::FilePath } else { ValueHint::Unknown };
    Arg::new(entry.name)
        .long(entry.flag())
        .env(entry.variable())
        .hide_env(true)
        .value_name(entry.placeholder())
        .value_parser(AnyText { words: entry.words() })
        // The placeholder shows them.
        .hide_possible_values(true)
        .value_hint(hint)
        .default_value(entry.default)
        .help_heading(entry.group)
        .help(wrap(entry.doc, columns).join("\n"))
}

/// Accepts every text, so that all problems of all options are reported at once. The words are for completions.
#[derive(Clone)]
struct AnyText {
    words: &'static [&'static str],
}

impl TypedValueParser for AnyText {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        if self.words.is_empty() { None } else { Some(Box::new(self.words.iter().map(PossibleValue::new))) }
    }
}

/// Breaks a text into lines of at most `columns` characters, unless a word is longer.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => line.extend([" ", word]),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command(COLUMNS).debug_assert();
    }

    #[test]
    fn lines_are_wrapped_between_words() {
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("a\nlonger b", 2), ["a", "longer", "b"]);
        assert!(wrap("", 4).is_empty());
    }
}
