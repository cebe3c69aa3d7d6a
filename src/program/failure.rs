//! Errors that end the program before the server runs, and those of the other commands. All are printed here, on standard
//! error, as `lobbyd: what: why; way out`. Errors of a running server are in its log.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::NOT_STARTED;
use super::logger::{Format, json_error};

/// All problems of a configuration.
pub(crate) struct Refusal {
    pub(crate) problems: Vec<String>,
    pub(crate) format: Format,
}

impl Refusal {
    /// Prints the problems, and returns the exit code. As JSON, each problem is an object of its own.
    pub(crate) fn report(&self) -> ExitCode {
        match self.format {
            Format::Text => {
                let lines = self.problems.iter().map(|problem| format!("\n  {}", escaped(problem)));
                print_error(&format!("invalid configuration{}", lines.collect::<String>()), NOT_STARTED)
            }
            Format::Json => {
                for problem in &self.problems {
                    not_started(&format!("invalid configuration: {problem}"), Format::Json);
                }
                ExitCode::from(NOT_STARTED)
            }
        }
    }
}

/// Prints why the program does not start.
pub(crate) fn not_started(problem: &dyn Display, format: Format) -> ExitCode {
    match format {
        Format::Text => failed(problem, NOT_STARTED),
        Format::Json => {
            let _ = io::stderr().write_all(json_error(&problem.to_string()).as_bytes());
            ExitCode::from(NOT_STARTED)
        }
    }
}

/// Prints why a command has failed.
pub(crate) fn failed(problem: &dyn Display, code: u8) -> ExitCode {
    print_error(&escaped(&problem.to_string()), code)
}

/// Escapes control characters, line feeds among them, and invisible characters. A value in a problem could otherwise add a
/// line of its own, or control the terminal.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => escaped.push(c),
            _ => escaped.extend(c.escape_debug()),
        }
    }
    escaped
}

fn print_error(problem: &str, code: u8) -> ExitCode {
    let _ = io::stderr().write_all(format!("lobbyd: {problem}\n").as_bytes());
    ExitCode::from(code)
}

/// Prints what is wrong with the arguments; or the help or the version, if these are asked for.
pub(crate) fn wrong_arguments(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        return not_started(&describe(error), Format::Text);
    }
    // The reader of the output may be gone.
    let _ = error.print();
    ExitCode::SUCCESS
}

fn describe(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")).filter(|texts| !texts.is_empty()),
        _ => None,
    };
    // An option is shown with the name of its value: `--seed <NUMBER>`.
    let option = |shown: String| match shown.split_once(' ') {
        Some((option, _)) if option.starts_with('-') => option.to_owned(),
        _ => shown.trim_matches(['<', '>']).to_owned(),
    };
    let what = text(ContextKind::InvalidArg).or_else(|| text(ContextKind::InvalidSubcommand)).map(option);
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let see = format!("see lobbyd {}--help", subcommand());
    let instead = |suggested: Option<String>| suggested.map_or(see.clone(), |other| format!("do you mean {other}?"));
    let why = match error.kind() {
        ErrorKind::UnknownArgument if what.as_ref().is_some_and(|what| !what.starts_with('-')) => {
            format!("it is not expected here; {see}")
        }
        ErrorKind::UnknownArgument => {
            format!("there is no such option; {}", instead(text(ContextKind::SuggestedArg)))
        }
        ErrorKind::InvalidSubcommand => {
            format!("there is no such command; {}", instead(text(ContextKind::SuggestedSubcommand)))
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("its value is missing; {see}"),
        ErrorKind::InvalidValue => {
            format!("`{value}` is none of {}", text(ContextKind::ValidValue).unwrap_or_default())
        }
        ErrorKind::ValueValidation => match std::error::Error::source(error) {
            Some(cause) if cause.to_string().contains(&value) => cause.to_string(),
            Some(cause) => format!("`{value}` is not valid: {cause}"),
            None => format!("`{value}` is not valid"),
        },
        ErrorKind::MissingRequiredArgument => format!("it is missing; {see}"),
        ErrorKind::ArgumentConflict => match text(ContextKind::InvalidSubcommand) {
            Some(command) => {
                let before = text(ContextKind::PriorArg).map(option).unwrap_or_default();
                return format!("{before}: it stands before the command; write lobbyd {command} {before}");
            }
            None => "it is given more than once; give it once".into(),
        },
        ErrorKind::TooManyValues => format!("it takes no value; {see}"),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("{}; {see}", line.trim_start_matches("error: "))
        }
    };
    match what {
        Some(what) => format!("{what}: {why}"),
        None => why,
    }
}

/// The subcommand that was asked for, with a space behind it.
fn subcommand() -> &'static str {
    match env::args().nth(1).as_deref() {
        Some("check") => "check ",
        Some("cluster") => "cluster ",
        Some("completions") => "completions ",
        Some("config") => "config ",
        Some("load") => "load ",
        Some("man") => "man ",
        Some("replay") => "replay ",
        Some("simulate") => "simulate ",
        _ => "",
    }
}
