//! The texts of all options, from the command line, the environment and the configuration file, and where each is from.
//!
//! A flag wins over its variable, and a variable over the file. Knows no option by name.

use std::collections::BTreeMap;

use clap::ArgMatches;
use clap::parser::ValueSource;
use lobbyd::config::Form;

use super::config_file::ConfigFile;
use super::table::{Entry, entries};

/// Name of the argument with the configuration file.
pub(crate) const CONFIG: &str = "config";

/// Its environment variable.
pub(crate) const CONFIG_VARIABLE: &str = "LOBBYD_CONFIG";

/// The text of each option.
pub(crate) struct Values {
    values: BTreeMap<&'static str, Value>,
    /// The configuration file, as it was named.
    file: String,
    /// Problems of the file.
    pub(crate) problems: Vec<String>,
    /// The values are not those that the operator wants, because the file could not be read.
    pub(crate) are_incomplete: bool,
}

struct Value {
    text: String,
    source: Source,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Default,
    /// Line of the configuration file.
    File(usize),
    Variable,
    Flag,
    /// The service manager, which has opened the sockets.
    Manager,
}

impl Values {
    /// Reads the configuration file, if there is one, and merges its values with those of the command line and the
    /// environment.
    pub(crate) fn read(matches: &ArgMatches) -> Values {
        let file = matches.get_one::<String>(CONFIG).cloned();
        let ConfigFile { values: mut from_file, problems, is_unreadable } =
            file.as_deref().map(ConfigFile::read).unwrap_or_default();
        let values = entries().map(|entry| {
            let text = matches.get_one::<String>(entry.name).expect("the argument has a default").clone();
            let value = match (matches.value_source(entry.name), from_file.remove(entry.name)) {
                (Some(ValueSource::CommandLine), _) => Value { text, source: Source::Flag },
                (Some(ValueSource::EnvVariable), _) => Value { text, source: Source::Variable },
                (_, Some(value)) => Value { text: value.text, source: Source::File(value.line) },
                (_, None) => Value { text, source: Source::Default },
            };
            (entry.name, value)
        });
        Values { values: values.collect(), file: file.unwrap_or_default(), problems, are_incomplete: is_unreadable }
    }

    /// Replaces the text of an option by that of the service manager. Returns whether another one was given.
    pub(crate) fn replace(&mut self, name: &'static str, text: String) -> bool {
        let was_given = self.is_given(name) && self.text(name) != text;
        self.values.insert(name, Value { text, source: Source::Manager });
        was_given
    }

    fn value(&self, name: &str) -> &Value {
        self.values.get(name).expect("every option of the table has a value")
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        &self.value(name).text
    }

    /// Returns whether the option was set by a flag, a variable or the file.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.value(name).source != Source::Default
    }

    /// Returns whether the option was set to another text than its default.
    pub(crate) fn is_changed(&self, name: &str) -> bool {
        entries().any(|entry| entry.name == name && self.text(name) != entry.default)
    }

    /// Names where the value is from: `--listen`, `LOBBYD_LISTEN`, `lobbyd.toml:3` or `default`.
    pub(crate) fn origin(&self, entry: &Entry) -> String {
        match self.value(entry.name).source {
            Source::Default => "default".into(),
            Source::File(line) => format!("{}:{line}", self.file),
            Source::Variable => entry.variable(),
            Source::Flag => format!("--{}", entry.flag()),
            Source::Manager => "LISTEN_FDS".into(),
        }
    }

    /// Begins a problem of an option with the place of its value, unless that is the command line.
    ///
    /// A problem of a path begins with `name = path`. The path is left out if it is from the file: it may be a secret that
    /// was written there instead of the name of its file.
    pub(crate) fn locate(&self, name: &str, problem: String) -> String {
        let entry = entries().find(|entry| entry.name == name).expect("an option of the table");
        let Value { text, source } = self.value(name);
        match source {
            Source::File(_) if entry.form == Form::Path => {
                let rest = problem.strip_prefix(&format!("{name} = {text}"));
                let problem = rest.map_or_else(|| problem.clone(), |rest| format!("{name}{rest}"));
                format!("{}: {problem}", self.origin(&entry))
            }
            Source::Default | Source::Flag => problem,
            Source::File(_) | Source::Variable | Source::Manager => format!("{}: {problem}", self.origin(&entry)),
        }
    }
}
