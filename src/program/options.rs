//! The options of the server, read from the parsed command line.

use clap::ArgMatches;
use lobbyd::Config;
use lobbyd::apps::{Auth, Tokens};
use lobbyd::config::CheckedConfig;
use lobbyd::net::read_file;
use log::LevelFilter;

use super::{notices, terminal};

pub(crate) struct Options {
    pub(crate) config: CheckedConfig,
    pub(crate) levels: Levels,
    pub(crate) seed: Option<u64>,
    pub(crate) auth: Auth,
    pub(crate) tokens_file: Option<String>,
    pub(crate) catches_panics: bool,
    /// Whether SIGHUP means that the terminal was closed, if there is no file to read again.
    pub(crate) ends_with_terminal: bool,
    /// Names of the application and of the authentication, for the log.
    pub(crate) app_word: String,
    pub(crate) auth_word: String,
    pub(crate) warnings: Vec<String>,
}

/// Log levels: the default, and those of single modules.
pub(crate) struct Levels {
    pub(crate) default: LevelFilter,
    pub(crate) modules: Vec<(String, LevelFilter)>,
}

impl Options {
    /// Reads the options from the parsed command line.
    ///
    /// # Errors
    ///
    /// All problems of all fields at once.
    pub(crate) fn read(matches: &ArgMatches) -> Result<Options, Vec<String>> {
        let mut problems = Vec::new();
        let mut config = read_fields(matches, &mut problems);
        let levels = read_levels(word(matches, "log"), &mut problems);
        let (app_word, auth_word) = (word(matches, "app").to_owned(), word(matches, "auth").to_owned());
        let tokens_file = matches.get_one::<String>("tokens-file").cloned();
        let auth = read_auth(&config, &app_word, &auth_word, tokens_file.as_deref());
        // For local development: pages of a development server on this machine may connect. An explicit
        // --allowed-origin wins. Behind a proxy, a loopback origin is a page of the visitor's machine, so it is
        // foreign.
        let is_local = auth_word == "open" && config.listen.is_loopback() && config.trusted_proxies == 0;
        if is_local && !notices::is_given(matches, "allowed_origin") {
            config.allowed_origin.loopback = true;
        }
        let config = config.check().map_err(|found| problems.extend(found.iter().map(ToString::to_string)));
        let auth = auth.map_err(|found| problems.extend(found));
        let (true, Ok(config), Ok(auth)) = (problems.is_empty(), config, auth) else { return Err(problems) };
        Ok(Options {
            config,
            levels,
            seed: matches.get_one("seed").copied(),
            warnings: warnings(matches, &app_word, &auth),
            auth,
            tokens_file,
            ends_with_terminal: terminal::ends_with_terminal(),
            catches_panics: word(matches, "on-app-panic") == "close-lobby",
            app_word,
            auth_word,
        })
    }
}

impl Options {
    /// Whether there is a file to read again on SIGHUP.
    pub(crate) fn has_files_to_read_again(&self) -> bool {
        self.tokens_file.is_some()
    }
}

/// Returns the value of an option with a default.
fn word<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).expect("the argument has a default")
}

fn read_fields(matches: &ArgMatches, problems: &mut Vec<String>) -> Config {
    let mut config = Config::default();
    for field in Config::FIELDS {
        if let Err(problem) = (field.set)(&mut config, word(matches, field.name)) {
            problems.push(format!("{}: {problem}", field.name));
        }
    }
    config
}

/// Parses `LEVEL[,MODULE=LEVEL]`.
fn read_levels(text: &str, problems: &mut Vec<String>) -> Levels {
    let mut levels = Levels { default: LevelFilter::Info, modules: Vec::new() };
    for filter in text.split(',') {
        let (module, word) = filter.split_once('=').map_or((None, filter), |(module, word)| (Some(module), word));
        match (module, word.parse()) {
            (None, Ok(parsed)) => levels.default = parsed,
            (Some(module), Ok(parsed)) => levels.modules.push((module.to_owned(), parsed)),
            (_, Err(_)) => problems.push(format!("log: `{word}` is none of off, error, warn, info, debug, trace")),
        }
    }
    levels
}

/// Checks how users are authenticated, and reads the list of tokens. Fails with all problems.
fn read_auth(config: &Config, app: &str, auth: &str, tokens_file: Option<&str>) -> Result<Auth, Vec<String>> {
    let (mut problems, mut tokens) = (Vec::new(), None);
    if let Some(file) = tokens_file.filter(|_| auth != "tokens") {
        problems.push(format!(
            "tokens_file = {file}: is read only with auth = tokens, and auth is {auth}, which admits every client; set \
             --auth tokens, or leave --tokens-file out"
        ));
    }
    if app == "echo" && auth == "tokens" {
        problems.push(
            "auth = tokens: app = echo admits every client without a token; use another --app, or leave --auth out"
                .into(),
        );
    }
    match (auth, tokens_file) {
        ("tokens", None) => problems.push("auth = tokens: name the list with --tokens-file".into()),
        ("tokens", Some(file)) => match read_tokens(file) {
            Ok(list) => tokens = Some(list),
            Err(more) => problems.extend(more),
        },
        ("open", _) if !config.listen.is_local() => problems.push(format!(
            "auth = open: every client could log in as any user on {}; set --auth tokens, or --auth open-to-anybody",
            config.listen
        )),
        _ => {}
    }
    if problems.is_empty() { Ok(tokens.map_or(Auth::Open, Auth::Tokens)) } else { Err(problems) }
}

fn read_tokens(file: &str) -> Result<Tokens, Vec<String>> {
    let named = |problem: String| format!("tokens_file = {file}: {problem}");
    let contents = read_file(file.as_ref(), Tokens::MAX_FILE).map_err(|error| vec![named(error.to_string())])?;
    Tokens::read(&contents).map_err(|problems| problems.into_iter().map(named).collect())
}

fn warnings(matches: &ArgMatches, app: &str, auth: &Auth) -> Vec<String> {
    let mut warnings = notices::without_effect(matches, app, matches!(auth, Auth::Tokens(_)));
    warnings.extend(notices::unknown_variables(std::env::vars_os().map(|(name, _)| name.to_string_lossy().into())));
    if matches!(auth, Auth::Tokens(tokens) if tokens.is_empty()) {
        warnings.push("the list of tokens is empty: every connection is refused".into());
    }
    warnings
}
