//! All options of the server in one table: the fields of the configuration, and the options of the program itself.
//!
//! The command line, the environment variables, the configuration file, `lobbyd config`, the completions and the man page
//! are generated from it.

use lobbyd::Config;
use lobbyd::config::Form;

/// Default of the options that name a file, an audience or an issuer: none.
pub(crate) const OFF: &str = "off";
/// Default of `seed`: the operating system chooses it.
pub(crate) const SYSTEM: &str = "system";

/// One option of the server.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Name in snake_case.
    pub(crate) name: &'static str,
    /// Title of the group in `--help`, in the man page and in the output of `lobbyd config`.
    pub(crate) group: &'static str,
    pub(crate) form: Form,
    pub(crate) default: &'static str,
    /// One or more sentences, with a period at the end.
    pub(crate) doc: &'static str,
}

/// The options of the program that are not fields of the configuration, before those of the configuration.
const APPLICATION: &[Entry] = &[
    Entry {
        name: "app",
        group: "Application and users",
        form: Form::Words(&["relay", "verbatim", "echo"]),
        default: "relay",
        doc: "The application: `relay` implements the JSON protocol; `verbatim` passes messages on without parsing them; \
              `echo` sends each message back, on any path.",
    },
    Entry {
        name: "auth",
        group: "Application and users",
        form: Form::Words(&["open", "open-to-anybody", "tokens", "jwt", "hook"]),
        default: "open",
        doc: "How users are authenticated: `open` uses the token as the user id, on a loopback address only; \
              `open-to-anybody` does so on any address; `tokens` looks the token up in `tokens_file`; `jwt` accepts tokens \
              that are signed by the key in `jwt_secret_file`, `jwt_key_file`, `jwt_jwks_file` or `jwt_jwks_url` (cargo \
              feature jwt); `hook` asks the backend at `hook` about each client (cargo feature hook).",
    },
    Entry {
        name: "tokens_file",
        group: "Application and users",
        form: Form::Path,
        default: OFF,
        doc: "File with one `token user [tier=free|pro|enterprise] [lobby=CODE] [expires=MILLISECONDS]` per line; read \
              again on SIGHUP.",
    },
    Entry {
        name: "jwt_secret_file",
        group: "Application and users",
        form: Form::Path,
        default: OFF,
        doc: "File with the secret for `auth = jwt`, for HS256: at least 32 bytes; read again on SIGHUP.",
    },
    Entry {
        name: "jwt_key_file",
        group: "Application and users",
        form: Form::Path,
        default: OFF,
        doc: "File with the public key for `auth = jwt` in PEM form, for RS256, ES256 or EdDSA; read again on SIGHUP.",
    },
    Entry {
        name: "jwt_jwks_file",
        group: "Application and users",
        form: Form::Path,
        default: OFF,
        doc: "File with the set of keys for `auth = jwt`, a JWKS; read again on SIGHUP.",
    },
    Entry {
        name: "jwt_audience",
        group: "Application and users",
        form: Form::Text,
        default: OFF,
        doc: "Audience that tokens must name in `aud`. With `off`, tokens that name one are refused.",
    },
    Entry {
        name: "jwt_issuer",
        group: "Application and users",
        form: Form::Text,
        default: OFF,
        doc: "Issuer that tokens must name in `iss`. With `off`, the issuer is not checked.",
    },
    Entry {
        name: "jwt_leeway",
        group: "Application and users",
        form: Form::Text,
        default: "10s",
        doc: "Largest difference between the issuer's clock and this one, at most 1h.",
    },
    Entry {
        name: "jwt_exp",
        group: "Application and users",
        form: Form::Words(&["required", "optional"]),
        default: "required",
        doc: "Whether tokens must have an expiry, `exp`.",
    },
    Entry {
        name: "on_app_panic",
        group: "Application and users",
        form: Form::Words(&["abort", "close-lobby"]),
        default: "abort",
        doc: "Reaction to a panic in the application: `abort` ends the process, since all lobbies share the application's \
              state; `close-lobby` closes only the lobby of the member whose callback panicked.",
    },
    Entry {
        name: "seed",
        group: "Application and users",
        form: Form::Text,
        default: SYSTEM,
        doc: "Seed of the application's random numbers: a whole number, or `system` for one from the operating system.",
    },
];

/// Options of the program after the fields of the configuration. Their group is that of `stats_interval`.
const LOG: &[Entry] = &[
    Entry {
        name: "log",
        group: "Log",
        form: Form::List,
        default: "info",
        doc: "Log level: `off`, `error`, `warn`, `info`, `debug` or `trace`; for one module in addition: \
              `info,lobbyd::net=debug`.",
    },
    Entry {
        name: "log_format",
        group: "Log",
        form: Form::Words(&["text", "json"]),
        default: "text",
        doc: "Form of the log lines: `text`, or `json` for one JSON object per line.",
    },
];

/// Returns the options that are not fields of the configuration.
pub(crate) fn program_entries() -> impl Iterator<Item = Entry> {
    APPLICATION.iter().chain(LOG).copied()
}

/// Returns all options, in the order of the documentation.
pub(crate) fn entries() -> impl Iterator<Item = Entry> {
    let fields = Config::FIELDS.iter().map(|field| Entry {
        name: field.name,
        group: field.group,
        form: field.form,
        default: field.default,
        doc: field.doc.trim(),
    });
    APPLICATION.iter().copied().chain(fields).chain(LOG.iter().copied())
}

impl Entry {
    /// Returns the command-line flag without its leading dashes.
    pub(crate) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Returns the name of the environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("LOBBYD_{}", self.name.to_uppercase())
    }

    /// Returns the words that the option accepts, if it accepts words only.
    pub(crate) fn words(&self) -> &'static [&'static str] {
        match self.form {
            Form::Words(words) => words,
            Form::Switch => &["on", "off"],
            _ => &[],
        }
    }

    /// Returns whether the option can be switched off, or is off by default.
    pub(crate) fn accepts_off(&self) -> bool {
        let mut config = Config::default();
        let field = Config::FIELDS.iter().find(|field| field.name == self.name);
        field.map_or(self.default == OFF, |field| (field.set)(&mut config, OFF).is_ok())
    }

    /// Returns the placeholder for the value in `--help`.
    pub(crate) fn placeholder(&self) -> String {
        match self.form {
            Form::List => "VALUE,…".into(),
            Form::Path => "FILE".into(),
            _ if self.words().is_empty() => "VALUE".into(),
            _ => self.words().join("|"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_groups_are_contiguous() {
        let all: Vec<Entry> = entries().collect();
        assert_eq!(all.iter().map(|entry| entry.name).collect::<BTreeSet<_>>().len(), all.len());
        let mut groups: Vec<&str> = all.iter().map(|entry| entry.group).collect();
        groups.dedup();
        assert_eq!(groups.iter().collect::<BTreeSet<_>>().len(), groups.len(), "{groups:?}");
        assert!(all.iter().all(|entry| entry.doc.ends_with('.')));
    }
}
