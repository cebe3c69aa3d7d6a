//! The `lobbyd` program: parses the arguments into a configuration, runs the server and maps the result to an exit
//! code.
//!
//! Exit 0: stopped on request. 1: failed while running. 2: did not start as configured. 3: the drain deadline cut
//! connections off. `replay` and `simulate` document their own codes.

mod notices;
mod replay;
mod simulate;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use lobbyd::apps::{Auth, CatchPanics, Echo, Relay, Tokens, Verbatim};
use lobbyd::net::{Error, Server, Status, read_file};
use lobbyd::{App, Config, DrainTotals};
use log::{LevelFilter, Log, Metadata, Record, error, info, warn};

const FAILED: u8 = 1;
const NOT_STARTED: u8 = 2;
const CUT_OFF: u8 = 3;

fn main() -> ExitCode {
    let matches = command().get_matches();
    if let Some(("simulate", matches)) = matches.subcommand() {
        return simulate::run(matches);
    }
    if let Some(("replay", matches)) = matches.subcommand() {
        return replay::run(matches);
    }
    let options = match read(&matches) {
        Ok(options) => options,
        Err(problems) => {
            eprintln!("lobbyd: invalid configuration");
            problems.iter().for_each(|problem| eprintln!("  {problem}"));
            return ExitCode::from(NOT_STARTED);
        }
    };
    #[cfg(unix)]
    if let Err(problem) = ignore_sigxfsz() {
        eprintln!("lobbyd: SIGXFSZ cannot be ignored: {problem}");
        return ExitCode::from(NOT_STARTED);
    }
    if let Err(problem) = log_to_stderr(&options) {
        eprintln!("lobbyd: {problem}");
        return ExitCode::from(NOT_STARTED);
    }
    options.warnings.iter().for_each(|warning| warn!("{warning}"));
    match options.app_word.as_str() {
        "relay" => run_app(&options, Relay::new(options.auth.clone())),
        "verbatim" => run_app(&options, Verbatim::new(options.auth.clone())),
        "echo" => run_app(&options, Echo),
        other => unreachable!("the command line accepts no app {other}"),
    }
}

/// Defines the command line. Every field of [`Config`] becomes a flag and an environment variable.
fn command() -> Command {
    let fields = Config::FIELDS.iter().map(|field| {
        let (short, rest) = field.doc.trim().split_once(':').unwrap_or((field.doc.trim(), ""));
        let help = if rest.is_empty() { short.to_owned() } else { format!("{short}:{rest}") };
        Arg::new(field.name)
            .long(field.flag())
            .env(field.variable())
            .hide_env(true)
            .value_name("VALUE")
            .default_value(field.default)
            .help(help)
    });
    Command::new("lobbyd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A WebSocket lobby server: ws://ADDRESS/ws/{lobby_code}?token={user}")
        .after_help(
            "Limits of seats, lobbies and connections per address, and all rates, may be `unlimited`.\n\
             Sizes are written as 65536, 64KiB or 16MiB, durations as 500ms, 20s, 5m or 1h.\n\
             Every flag is also an environment variable: --max-per-lobby is LOBBYD_MAX_PER_LOBBY.",
        )
        .arg(
            Arg::new("app")
                .long("app")
                .env("LOBBYD_APP")
                .hide_env(true)
                .default_value("relay")
                .value_parser(["relay", "verbatim", "echo"])
                .help(
                    "The application: relay implements the JSON protocol; verbatim passes messages on without parsing them; \
                     echo sends each message back, on any path",
                ),
        )
        .arg(
            Arg::new("auth")
                .long("auth")
                .env("LOBBYD_AUTH")
                .hide_env(true)
                .default_value("open")
                .value_parser(["open", "open-to-anybody", "tokens"])
                .help(
                    "How users are authenticated: open uses the token as the user id, on a loopback address only; \
                     open-to-anybody does so on any address; tokens looks the token up in --tokens-file",
                ),
        )
        .arg(
            Arg::new("tokens-file")
                .long("tokens-file")
                .env("LOBBYD_TOKENS_FILE")
                .hide_env(true)
                .value_name("FILE")
                .help("File with one `token user [tier=free|pro|enterprise] [lobby=CODE] [expires=MILLISECONDS]` per line; read again on SIGHUP"),
        )
        .arg(
            Arg::new("on-app-panic")
                .long("on-app-panic")
                .env("LOBBYD_ON_APP_PANIC")
                .hide_env(true)
                .default_value("abort")
                .value_parser(["abort", "close-lobby"])
                .help("Reaction to a panic in the application: abort ends the process, since all lobbies share the application's state; close-lobby closes only the lobby that it concerns"),
        )
        .arg(
            Arg::new("log")
                .long("log")
                .env("LOBBYD_LOG")
                .hide_env(true)
                .value_name("LEVEL[,MODULE=LEVEL]")
                .default_value("info")
                .help("Log level: off, error, warn, info, debug or trace; for one module: info,lobbyd::net=debug"),
        )
        .arg(
            Arg::new("seed")
                .long("seed")
                .env("LOBBYD_SEED")
                .hide_env(true)
                .value_name("NUMBER")
                .value_parser(clap::value_parser!(u64))
                .help("Seed of the application's random generator [default: from the operating system]"),
        )
        .args(fields)
        .subcommand(simulate::command())
        .subcommand(replay::command())
}

struct Options {
    config: Config,
    level: LevelFilter,
    modules: Vec<(String, LevelFilter)>,
    seed: Option<u64>,
    auth: Auth,
    tokens_file: Option<String>,
    catches_panics: bool,
    /// Names of the application and of the authentication, for the log.
    app_word: String,
    auth_word: String,
    warnings: Vec<String>,
}

/// Reads the options from the parsed command line.
///
/// # Errors
///
/// All problems of all fields at once.
fn read(matches: &ArgMatches) -> Result<Options, Vec<String>> {
    let mut config = Config::default();
    let mut problems = Vec::new();
    for field in Config::FIELDS {
        let text = matches.get_one::<String>(field.name).expect("every field has a default");
        if let Err(problem) = (field.set)(&mut config, text) {
            problems.push(format!("{}: {problem}", field.name));
        }
    }
    let (mut level, mut modules) = (LevelFilter::Info, Vec::new());
    for filter in matches.get_one::<String>("log").expect("the argument has a default").split(',') {
        let (module, word) = filter.split_once('=').map_or((None, filter), |(module, word)| (Some(module), word));
        match (module, word.parse()) {
            (None, Ok(parsed)) => level = parsed,
            (Some(module), Ok(parsed)) => modules.push((module.to_owned(), parsed)),
            (_, Err(_)) => problems.push(format!("log: `{word}` is none of off, error, warn, info, debug, trace")),
        }
    }
    if let Err(more) = config.check() {
        problems.extend(more.iter().map(ToString::to_string));
    }
    let seed = matches.get_one("seed").copied();
    let word = |name: &str| matches.get_one::<String>(name).expect("the argument has a default").clone();
    let (app_word, auth_word) = (word("app"), word("auth"));
    let tokens_file = matches.get_one::<String>("tokens-file").cloned();
    if let Some(file) = tokens_file.as_ref().filter(|_| auth_word != "tokens") {
        problems.push(format!(
            "tokens_file = {file}: is read only with auth = tokens, and auth is {auth_word}, which admits every client; set \
             --auth tokens, or leave --tokens-file out"
        ));
    }
    if app_word == "echo" && auth_word == "tokens" {
        problems.push(
            "auth = tokens: app = echo admits every client without a token; use another --app, or leave --auth out"
                .into(),
        );
    }
    let auth = match (auth_word.as_str(), &tokens_file) {
        ("tokens", None) => {
            problems.push("auth = tokens: name the list with --tokens-file".into());
            Auth::Open
        }
        ("tokens", Some(file)) => match read_tokens(file) {
            Ok(tokens) => Auth::Tokens(tokens),
            Err(more) => {
                problems.extend(more);
                Auth::Open
            }
        },
        ("open", _) if !config.listen.ip().is_loopback() => {
            problems.push(format!(
                "auth = open: every client could log in as any user on {}; set --auth tokens, or --auth open-to-anybody",
                config.listen
            ));
            Auth::Open
        }
        _ => Auth::Open,
    };
    let catches_panics = matches.get_one::<String>("on-app-panic").is_some_and(|word| word == "close-lobby");
    // For local development: pages of a development server on this machine may connect. An explicit --allowed-origin
    // wins. Behind a proxy, a loopback origin is a page of the visitor's machine, so it is foreign.
    let is_local = auth_word == "open" && config.listen.ip().is_loopback() && config.trusted_proxies == 0;
    if is_local && !notices::is_given(matches, "allowed_origin") {
        config.allowed_origin.loopback = true;
    }
    let mut warnings = notices::without_effect(matches, &app_word, matches!(auth, Auth::Tokens(_)));
    warnings.extend(notices::unknown_variables(std::env::vars_os().map(|(name, _)| name.to_string_lossy().into())));
    if matches!(&auth, Auth::Tokens(tokens) if tokens.is_empty()) {
        warnings.push("the list of tokens is empty: every connection is refused".into());
    }
    let options =
        Options { config, level, modules, seed, auth, tokens_file, catches_panics, app_word, auth_word, warnings };
    if problems.is_empty() { Ok(options) } else { Err(problems) }
}

fn read_tokens(file: &str) -> Result<Tokens, Vec<String>> {
    let named = |problem: String| format!("tokens_file = {file}: {problem}");
    let contents = read_file(file.as_ref(), Tokens::MAX_FILE).map_err(|error| vec![named(error.to_string())])?;
    Tokens::read(&contents).map_err(|problems| problems.into_iter().map(named).collect())
}

/// Installs a handler for SIGXFSZ, so that a write beyond the file size limit (`ulimit -f`) fails with an error, as on
/// a full disk. `journal_on_error` then applies. Without a handler the signal ends the process.
#[cfg(unix)]
fn ignore_sigxfsz() -> std::io::Result<()> {
    use std::sync::atomic::AtomicBool;

    static WAS_RAISED: AtomicBool = AtomicBool::new(false);
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, &WAS_RAISED).map(drop)
}

fn log_to_stderr(options: &Options) -> Result<(), log::SetLoggerError> {
    let logger = simple_logger::SimpleLogger::new().with_level(options.level).with_utc_timestamps();
    let modules = options.modules.iter();
    let logger = modules.fold(logger, |logger, (module, level)| logger.with_module_level(module, *level));
    log::set_max_level(logger.max_level());
    log::set_boxed_logger(Box::new(NonPanickingLog(logger)))
}

/// Wraps the logger, which panics when it cannot write. On a full disk or a closed pipe log lines are lost, and the
/// server continues.
struct NonPanickingLog(simple_logger::SimpleLogger);

impl Log for NonPanickingLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| self.0.log(record)));
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn run_app<A: App>(options: &Options, app: A) -> ExitCode {
    if options.catches_panics { run(options, CatchPanics::new(app)) } else { run(options, app) }
}

fn run<A: App>(options: &Options, app: A) -> ExitCode {
    let limits = limits(&options.config);
    let mut server = match start(options, app) {
        Ok(server) => server,
        Err(problem) => {
            error!("{problem}");
            return ExitCode::from(NOT_STARTED);
        }
    };
    limits.iter().for_each(|line| info!("{line}"));
    // All lobbies share one application, so after a panic its state cannot be trusted: the process ends.
    match panic::catch_unwind(AssertUnwindSafe(|| serve(&mut server, options))) {
        Ok(Ok(totals)) => {
            info!("stopped; {}", server.stats_line());
            if totals.forced == 0 { ExitCode::SUCCESS } else { ExitCode::from(CUT_OFF) }
        }
        Ok(Err(problem)) => {
            error!("{problem}");
            ExitCode::from(FAILED)
        }
        Err(_) => {
            error!("the server panicked, so its state cannot be trusted and it ends; the panic message is above");
            ExitCode::from(FAILED)
        }
    }
}

fn serve<A: App>(server: &mut Server<A>, options: &Options) -> Result<DrainTotals, Error> {
    loop {
        if let Status::Stopped(totals) = server.turn(None)? {
            return Ok(totals);
        }
        if server.take_reload()
            && let Some(file) = &options.tokens_file
        {
            match read_file(file.as_ref(), Tokens::MAX_FILE) {
                Ok(contents) => server.reload(&contents),
                Err(error) => warn!("the old tokens stay in force: {file}: {error}"),
            }
        }
    }
}

fn start<A: App>(options: &Options, app: A) -> Result<Server<A>, Error> {
    let mut server = match options.seed {
        Some(seed) => Server::bind_seeded(options.config.clone(), app, seed)?,
        None => Server::bind(options.config.clone(), app)?,
    };
    server.listen_to_signals().map_err(Error::Poll)?;
    let address = server.local_addr().map_err(Error::Poll)?;
    let admin = server.admin_addr().map_err(Error::Poll)?;
    let tokens = match &options.auth {
        Auth::Tokens(tokens) => format!(" tokens={}", tokens.len()),
        Auth::Open => String::new(),
    };
    info!(
        "lobbyd {} app={} auth={}{tokens} allowed_origin={} listen={address} admin={}",
        env!("CARGO_PKG_VERSION"),
        options.app_word,
        options.auth_word,
        show("allowed_origin", &options.config),
        admin.map_or_else(|| "off".into(), |address| address.to_string())
    );
    info!("listening on {address}");
    if let Some(address) = admin {
        info!("admin API on http://{address}");
    }
    Ok(server)
}

fn show(name: &str, config: &Config) -> String {
    let field = Config::FIELDS.iter().find(|field| field.name == name).expect("the name is in Config::FIELDS");
    (field.show)(config)
}

/// Log lines with the limits in force and the memory that they allow.
fn limits(config: &Config) -> Vec<String> {
    let named = |prefix: &str| {
        let fields = Config::FIELDS.iter().filter(|field| field.name.starts_with(prefix));
        fields.map(|field| format!("{}={}", field.name, (field.show)(config))).collect::<Vec<_>>().join(" ")
    };
    let memory = match config.worst_case_memory() {
        Some(bytes) => format!("{} MiB", bytes.div_ceil(1 << 20)),
        None => "without a bound, since a limit is unlimited".to_owned(),
    };
    vec![
        format!("limits: {}", named("max_")),
        format!("worst-case memory with these limits: {memory}, without the kernel's buffers"),
    ]
}
