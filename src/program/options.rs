//! The options of the server, read from their texts.

use clap::ArgMatches;
use lobbyd::Config;
use lobbyd::apps::{Auth, Echo, Relay, Tokens, Verbatim};
use lobbyd::config::{CheckedConfig, Form, Listen, ListenAddress};
use lobbyd::net::{Error, read_file};
use log::LevelFilter;

use super::auth_file::AuthFile;
use super::failure::Refusal;
use super::logger::{Format, Levels};
use super::table::{OFF, SYSTEM, program_entries};
use super::values::Values;
use super::{jwt, notices, terminal};

pub(crate) struct Options {
    pub(crate) config: CheckedConfig,
    pub(crate) levels: Levels,
    pub(crate) format: Format,
    pub(crate) seed: Option<u64>,
    pub(crate) auth: Auth,
    pub(crate) auth_file: Option<AuthFile>,
    pub(crate) catches_panics: bool,
    /// Whether SIGHUP means that the terminal was closed, if there is no file to read again.
    pub(crate) ends_with_terminal: bool,
    /// Names of the application and of the authentication, for the log.
    pub(crate) app_word: String,
    pub(crate) auth_word: String,
    pub(crate) warnings: Vec<String>,
    /// The texts of the options, and where each is from.
    pub(crate) values: Values,
}

impl Options {
    /// Reads the options from the parsed command line, the environment and the configuration file.
    ///
    /// # Errors
    ///
    /// All problems of all options at once.
    pub(crate) fn read(matches: &ArgMatches) -> Result<Options, Refusal> {
        Options::read_with(matches, &[])
    }

    /// Returns the form in which a problem is reported before the options are read.
    pub(crate) fn format(matches: &ArgMatches) -> Format {
        format(&Values::read(matches))
    }

    /// Reads the options as [`read`](Self::read) does, except for those that the service manager replaces.
    ///
    /// # Errors
    ///
    /// All problems of all options at once.
    pub(crate) fn read_with(matches: &ArgMatches, replaced: &[(&'static str, String)]) -> Result<Options, Refusal> {
        let mut values = Values::read(matches);
        let format = format(&values);
        let mut warnings = Vec::new();
        for (name, text) in replaced {
            if values.replace(name, text.clone()) {
                warnings.push(format!("{name} has no effect: the service manager has opened the sockets, {text}"));
            }
        }
        let mut options = Options::from_values(values, format).map_err(|problems| Refusal { problems, format })?;
        options.warnings.extend(warnings);
        Ok(options)
    }

    fn from_values(mut values: Values, format: Format) -> Result<Options, Vec<String>> {
        let mut problems = std::mem::take(&mut values.problems);
        check_words(&values, &mut problems);
        let mut config = read_fields(&values, &mut problems);
        let levels = read_levels(&values, &mut problems);
        let seed = read_seed(&values, &mut problems);
        if values.are_incomplete {
            // The rules would be applied to the wrong values.
            return Err(problems);
        }
        let (app_word, auth_word) = (values.text("app").to_owned(), values.text("auth").to_owned());
        let auth = read_auth(&config, &values);
        // For local development: pages of a development server on this machine may connect. An explicit
        // --allowed-origin wins. Behind a proxy, a loopback origin is a page of the visitor's machine, so it is
        // foreign.
        let is_local = config.listen.is_loopback() && !config.is_proxied();
        if is_local && auth_word == "open" && !values.is_given("allowed_origin") {
            config.allowed_origin.loopback = true;
        }
        if !values.is_given("serve_client") {
            config.serve_client = true;
        }
        if is_local && !values.is_given("playground") {
            config.playground = true;
        }
        let checked = match app_word.as_str() {
            "verbatim" => config.check_for::<Verbatim>(),
            "echo" => config.check_for::<Echo>(),
            _ => config.check_for::<Relay>(),
        };
        let config = checked.map_err(|found| {
            problems.extend(found.iter().map(|problem| values.locate(problem.field, problem.to_string())));
        });
        let auth = auth.map_err(|found| problems.extend(found));
        let (true, Ok(config), Ok((auth, auth_file))) = (problems.is_empty(), config, auth) else {
            return Err(problems);
        };
        Ok(Options {
            levels,
            format,
            seed,
            warnings: warnings(&values, &app_word, &auth, &config),
            config,
            auth,
            auth_file,
            ends_with_terminal: terminal::ends_with_terminal(),
            catches_panics: values.text("on_app_panic") == "close-lobby",
            app_word,
            auth_word,
            values,
        })
    }

    /// Describes an error of the start, with the place of the option that it is about.
    pub(crate) fn describe(&self, error: &Error) -> String {
        match error {
            Error::Token(..) => self.values.locate("admin_token_file", error.to_string()),
            Error::Certificate(..) => self.values.locate("tls_cert", error.to_string()),
            Error::Key(..) => self.values.locate("tls_key", error.to_string()),
            Error::Journal(..) => self.values.locate("journal", error.to_string()),
            Error::Hook(option, _) => self.values.locate(option, error.to_string()),
            _ => error.to_string(),
        }
    }

    /// Whether there is a file to read again on SIGHUP.
    pub(crate) fn has_files_to_read_again(&self) -> bool {
        self.auth_file.is_some() || self.has_operators_token() || self.has_certificate() || self.has_files_of_hook()
    }

    /// Whether calls of URLs need a secret or certificates from files.
    pub(crate) fn has_files_of_hook(&self) -> bool {
        let Config { hook, hook_secret_file, hook_ca_file, jwt_jwks_url, .. } = &*self.config;
        (hook.is_some() || jwt_jwks_url.is_some()) && (hook_secret_file.is_some() || hook_ca_file.is_some())
    }

    /// Whether connections to one of the addresses begin with TLS.
    pub(crate) fn has_certificate(&self) -> bool {
        let addresses = [Some(&self.config.listen), self.config.admin.as_ref()].into_iter().flatten();
        addresses.flat_map(Listen::addresses).any(ListenAddress::is_tls)
    }

    /// Whether operators show a token from a file.
    pub(crate) fn has_operators_token(&self) -> bool {
        self.config.admin.is_some() && self.config.admin_token_file.is_some()
    }
}

fn format(values: &Values) -> Format {
    if values.text("log_format") == "json" { Format::Json } else { Format::Text }
}

/// Checks the options of the program that accept certain words only, and paths.
fn check_words(values: &Values, problems: &mut Vec<String>) {
    for entry in program_entries() {
        let (text, words) = (values.text(entry.name), entry.words());
        let problem = if entry.form == Form::Path && text.is_empty() {
            format!("{}: must not be empty", entry.name)
        } else if !words.is_empty() && !words.contains(&text) {
            format!("{}: `{text}` is none of {}", entry.name, words.join(", "))
        } else {
            continue;
        };
        problems.push(values.locate(entry.name, problem));
    }
}

fn read_fields(values: &Values, problems: &mut Vec<String>) -> Config {
    let mut config = Config::default();
    for field in Config::FIELDS {
        if let Err(problem) = (field.set)(&mut config, values.text(field.name)) {
            problems.push(values.locate(field.name, format!("{}: {problem}", field.name)));
        }
    }
    config
}

fn read_seed(values: &Values, problems: &mut Vec<String>) -> Option<u64> {
    let text = values.text("seed");
    let seed = text.parse().ok();
    if seed.is_none() && text != SYSTEM {
        let problem = format!("seed: `{text}` is neither a whole number below 2^64 nor `{SYSTEM}`");
        problems.push(values.locate("seed", problem));
    }
    seed
}

/// Parses `LEVEL[,MODULE=LEVEL]`.
fn read_levels(values: &Values, problems: &mut Vec<String>) -> Levels {
    let mut levels = Levels { default: LevelFilter::Info, modules: Vec::new() };
    for filter in values.text("log").split(',') {
        let (module, word) = filter.split_once('=').map_or((None, filter), |(module, word)| (Some(module), word));
        match (module, word.parse()) {
            (None, Ok(parsed)) => levels.default = parsed,
            (Some(module), Ok(parsed)) => levels.modules.push((module.to_owned(), parsed)),
            (_, Err(_)) => {
                let problem = format!("log: `{word}` is none of off, error, warn, info, debug, trace");
                problems.push(values.locate("log", problem));
            }
        }
    }
    levels
}

/// Checks how users are authenticated, and reads the file of the tokens or keys. Fails with all problems.
fn read_auth(config: &Config, values: &Values) -> Result<(Auth, Option<AuthFile>), Vec<String>> {
    let (app, auth) = (values.text("app"), values.text("auth"));
    let tokens_file = Some(values.text("tokens_file")).filter(|file| *file != OFF);
    let (mut problems, mut read) = (jwt::unread(values, auth), None);
    if let Some(file) = tokens_file.filter(|_| auth != "tokens") {
        let problem = format!(
            "tokens_file = {file}: is read only with auth = tokens, and auth is {auth}, which admits every client; set \
             --auth tokens, or leave --tokens-file out"
        );
        problems.push(values.locate("tokens_file", problem));
    }
    if app == "echo" && ["tokens", "jwt", "hook"].contains(&auth) {
        let problem = format!(
            "auth = {auth}: app = echo admits every client without a token; use another --app, or leave --auth out"
        );
        problems.push(values.locate("auth", problem));
    }
    match (auth, tokens_file) {
        ("tokens", None) => {
            problems.push(values.locate("auth", "auth = tokens: name the list with --tokens-file".into()));
        }
        ("tokens", Some(file)) => match read_tokens(file) {
            Ok(list) => {
                let file = AuthFile {
                    path: file.to_owned(),
                    max_bytes: Tokens::MAX_FILE,
                    contents: "tokens",
                    is_valid: |contents| Tokens::read(contents).is_ok_and(|tokens| !tokens.is_empty()),
                };
                read = Some((Auth::Tokens(list), Some(file)));
            }
            Err(more) => problems.extend(more.into_iter().map(|problem| values.locate("tokens_file", problem))),
        },
        ("jwt", _) => match jwt::read(values) {
            Ok(checked) => read = Some(checked),
            Err(more) => problems.extend(more),
        },
        ("hook", _) if config.hook.is_none() => {
            problems.push(values.locate("auth", "auth = hook: name the backend with --hook".into()));
        }
        ("hook", _) => read = Some((Auth::Hook, None)),
        ("open", _) if !config.listen.is_local() => {
            let problem = format!(
                "auth = open: every client could log in as any user on {}; set --auth tokens, --auth jwt, or --auth \
                 open-to-anybody",
                config.listen
            );
            problems.push(values.locate("auth", problem));
        }
        _ => {}
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(read.unwrap_or((Auth::Open, None)))
}

fn read_tokens(file: &str) -> Result<Tokens, Vec<String>> {
    let named = |problem: String| format!("tokens_file = {file}: {problem}");
    let contents = read_file(file.as_ref(), Tokens::MAX_FILE).map_err(|error| vec![named(error.to_string())])?;
    Tokens::read(&contents).map_err(|problems| problems.into_iter().map(named).collect())
}

fn warnings(values: &Values, app: &str, auth: &Auth, config: &Config) -> Vec<String> {
    let mut warnings = notices::without_effect(values, app, !matches!(auth, Auth::Open));
    warnings.extend(notices::unknown_variables(std::env::vars_os().map(|(name, _)| name.to_string_lossy().into())));
    if matches!(auth, Auth::Tokens(tokens) if tokens.is_empty()) {
        warnings.push("the list of tokens is empty: every connection is refused".into());
    }
    if let Some(hook) = config.hook.as_ref().filter(|hook| !hook.is_tls() && !hook.is_loopback()) {
        warnings.push(format!(
            "hook = {hook}: tokens and events are sent without encryption; use https:// unless the network is private"
        ));
    }
    if values.text("auth") == "open" && config.is_proxied() {
        let name = if config.trusted_proxies > 0 { "trusted_proxies" } else { "proxy_protocol" };
        warnings.push(format!(
            "auth = open with {name} = {}: a proxy brings clients of other machines, and each of them can log in as \
             any user; set --auth tokens or --auth jwt, or --auth open-to-anybody if this is intended",
            values.text(name)
        ));
    }
    warnings
}
