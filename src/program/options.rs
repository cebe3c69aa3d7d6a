//! The options of the server, read from the parsed command line.

use clap::ArgMatches;
use lobbyd::Config;
use lobbyd::apps::{Auth, Tokens};
use lobbyd::config::CheckedConfig;
use lobbyd::net::read_file;
use log::LevelFilter;

use super::auth_file::AuthFile;
use super::{jwt, notices};

pub(crate) struct Options {
    pub(crate) config: CheckedConfig,
    pub(crate) levels: Levels,
    pub(crate) seed: Option<u64>,
    pub(crate) auth: Auth,
    pub(crate) auth_file: Option<AuthFile>,
    pub(crate) catches_panics: bool,
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
        let auth = read_auth(matches, &config, &app_word, &auth_word, tokens_file.as_deref());
        // For local development: pages of a development server on this machine may connect. An explicit
        // --allowed-origin wins. Behind a proxy, a loopback origin is a page of the visitor's machine, so it is
        // foreign.
        let is_local = auth_word == "open" && config.listen.ip().is_loopback() && config.trusted_proxies == 0;
        if is_local && !notices::is_given(matches, "allowed_origin") {
            config.allowed_origin.loopback = true;
        }
        let config = config.check().map_err(|found| problems.extend(found.iter().map(ToString::to_string)));
        let auth = auth.map_err(|found| problems.extend(found));
        let (true, Ok(config), Ok((auth, auth_file))) = (problems.is_empty(), config, auth) else {
            return Err(problems);
        };
        Ok(Options {
            config,
            levels,
            seed: matches.get_one("seed").copied(),
            warnings: warnings(matches, &app_word, &auth),
            auth,
            auth_file,
            catches_panics: word(matches, "on-app-panic") == "close-lobby",
            app_word,
            auth_word,
        })
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

/// Checks how users are authenticated, and reads the file of the tokens or keys. Fails with all problems.
fn read_auth(
    matches: &ArgMatches,
    config: &Config,
    app: &str,
    auth: &str,
    tokens_file: Option<&str>,
) -> Result<(Auth, Option<AuthFile>), Vec<String>> {
    let (mut problems, mut checked) = (jwt::unread(matches, auth), None);
    if let Some(file) = tokens_file.filter(|_| auth != "tokens") {
        problems.push(format!(
            "tokens_file = {file}: is read only with auth = tokens, and auth is {auth}, which admits every client; set \
             --auth tokens, or leave --tokens-file out"
        ));
    }
    if app == "echo" && ["tokens", "jwt"].contains(&auth) {
        problems.push(format!(
            "auth = {auth}: app = echo admits every client without a token; use another --app, or leave --auth out"
        ));
    }
    match (auth, tokens_file) {
        ("tokens", None) => problems.push("auth = tokens: name the list with --tokens-file".into()),
        ("tokens", Some(file)) => match read_tokens(file) {
            Ok(list) => {
                let file = AuthFile { path: file.to_owned(), max_bytes: Tokens::MAX_FILE, contents: "tokens" };
                checked = Some((Auth::Tokens(list), file));
            }
            Err(more) => problems.extend(more),
        },
        ("jwt", _) => match jwt::read(matches) {
            Ok(read) => checked = Some(read),
            Err(more) => problems.extend(more),
        },
        ("open", _) if !config.listen.ip().is_loopback() => problems.push(format!(
            "auth = open: every client could log in as any user on {}; set --auth tokens, --auth jwt, or --auth \
             open-to-anybody",
            config.listen
        )),
        _ => {}
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(checked.map_or((Auth::Open, None), |(auth, file)| (auth, Some(file))))
}

fn read_tokens(file: &str) -> Result<Tokens, Vec<String>> {
    let named = |problem: String| format!("tokens_file = {file}: {problem}");
    let contents = read_file(file.as_ref(), Tokens::MAX_FILE).map_err(|error| vec![named(error.to_string())])?;
    Tokens::read(&contents).map_err(|problems| problems.into_iter().map(named).collect())
}

fn warnings(matches: &ArgMatches, app: &str, auth: &Auth) -> Vec<String> {
    let mut warnings = notices::without_effect(matches, app, !matches!(auth, Auth::Open));
    warnings.extend(notices::unknown_variables(std::env::vars_os().map(|(name, _)| name.to_string_lossy().into())));
    if matches!(auth, Auth::Tokens(tokens) if tokens.is_empty()) {
        warnings.push("the list of tokens is empty: every connection is refused".into());
    }
    warnings
}
