//! Errors that end the program before the server runs, and those of the other commands. All are printed here, on standard
//! error, as `lobbyd: what: why; way out`. Errors of a running server are in its log.

use std::env;
use std::fmt::Display;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Exit code of a program that did not start as it was asked to.
const NOT_STARTED: u8 = 2;

/// Prints why the program does not start.
pub(crate) fn not_started(problem: &dyn Display) -> ExitCode {
    failed(problem, NOT_STARTED)
}

/// Prints why a command has failed.
pub(crate) fn failed(problem: &dyn Display, code: u8) -> ExitCode {
    eprintln!("lobbyd: {problem}");
    ExitCode::from(code)
}

/// Prints what is wrong with the arguments; or the help or the version, if these are asked for.
pub(crate) fn wrong_arguments(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        return not_started(&describe(error));
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
        ErrorKind::ArgumentConflict => "it is given more than once; give it once".into(),
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
        Some("replay") => "replay ",
        Some("simulate") => "simulate ",
        _ => "",
    }
}
