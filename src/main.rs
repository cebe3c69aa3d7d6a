//! The program: arguments to a configuration, to a server, to an exit code.
//!
//! Exit 0 stopped on request, 1 failed while running, 2 would not start as configured, 3 the drain deadline cut
//! connections off.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use lobbyd::apps::{Echo, Relay, Verbatim};
use lobbyd::net::{Error, Server};
use lobbyd::{App, Config};
use log::{LevelFilter, error, info};

const FAILED: u8 = 1;
const NOT_STARTED: u8 = 2;
const CUT: u8 = 3;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let options = match read(&matches) {
        Ok(options) => options,
        Err(problems) => {
            eprintln!("lobbyd: invalid configuration");
            problems.iter().for_each(|problem| eprintln!("  {problem}"));
            return ExitCode::from(NOT_STARTED);
        }
    };
    if let Err(problem) = log_to_stderr(&options) {
        eprintln!("lobbyd: {problem}");
        return ExitCode::from(NOT_STARTED);
    }
    let app = matches.get_one::<String>("app").expect("it has a default");
    match app.as_str() {
        "relay" => run(options, Relay),
        "verbatim" => run(options, Verbatim),
        "echo" => run(options, Echo),
        other => unreachable!("the parser knows no app {other}"),
    }
}

/// Every field of the configuration is a flag and a variable.
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
            "Numbers may be `unlimited`, sizes are written 65536, 64KiB or 16MiB, durations 500ms, 20s, 5m or 1h.\n\
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
                    "What the members talk through: the JSON relay, messages passed on unread, or an echo on any path",
                ),
        )
        .arg(
            Arg::new("log")
                .long("log")
                .env("LOBBYD_LOG")
                .hide_env(true)
                .value_name("LEVEL[,MODULE=LEVEL]")
                .default_value("info")
                .help("off, error, warn, info, debug or trace; for one module: info,lobbyd::net=debug"),
        )
        .arg(
            Arg::new("seed")
                .long("seed")
                .env("LOBBYD_SEED")
                .hide_env(true)
                .value_name("NUMBER")
                .value_parser(clap::value_parser!(u64))
                .help("Where the application's randomness comes from [default: the operating system]"),
        )
        .args(fields)
}

struct Options {
    config: Config,
    level: LevelFilter,
    modules: Vec<(String, LevelFilter)>,
    seed: Option<u64>,
}

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
    for filter in matches.get_one::<String>("log").expect("it has a default").split(',') {
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
    if problems.is_empty() { Ok(Options { config, level, modules, seed }) } else { Err(problems) }
}

fn log_to_stderr(options: &Options) -> Result<(), log::SetLoggerError> {
    let logger = simple_logger::SimpleLogger::new().with_level(options.level).with_utc_timestamps();
    // tungstenite traces message bodies, which no log may hold.
    let logger = logger.with_module_level("tungstenite", options.level.min(LevelFilter::Info));
    let logger =
        options.modules.iter().fold(logger, |logger, (module, level)| logger.with_module_level(module, *level));
    logger.init()
}

fn run<A: App>(options: Options, app: A) -> ExitCode {
    let limits = limits(&options.config);
    let mut server = match start(options, app) {
        Ok(server) => server,
        Err(problem) => {
            error!("{problem}");
            return ExitCode::from(NOT_STARTED);
        }
    };
    limits.iter().for_each(|line| info!("{line}"));
    // One application serves all lobbies, so after a panic in it its state is suspect: the process ends.
    match panic::catch_unwind(AssertUnwindSafe(|| server.run())) {
        Ok(Ok(totals)) => {
            info!("stopped; {}", server.engine().stats().line());
            if totals.forced == 0 { ExitCode::SUCCESS } else { ExitCode::from(CUT) }
        }
        Ok(Err(problem)) => {
            error!("{problem}");
            ExitCode::from(FAILED)
        }
        Err(_) => {
            error!("the application panicked, so its state cannot be trusted; the message is above");
            ExitCode::from(FAILED)
        }
    }
}

fn start<A: App>(options: Options, app: A) -> Result<Server<A>, Error> {
    let mut server = match options.seed {
        Some(seed) => Server::bind_seeded(options.config, app, seed)?,
        None => Server::bind(options.config, app)?,
    };
    server.stop_on_signals().map_err(Error::Poll)?;
    let address = server.local_addr().map_err(Error::Poll)?;
    info!("listening on {address}");
    if let Some(address) = server.admin_addr().map_err(Error::Poll)? {
        info!("operators are answered on http://{address}");
    }
    Ok(server)
}

/// Which limits are in force, and what memory they can cost.
fn limits(config: &Config) -> Vec<String> {
    let named = |prefix: &str| {
        let fields = Config::FIELDS.iter().filter(|field| field.name.starts_with(prefix));
        fields.map(|field| format!("{}={}", field.name, (field.show)(config))).collect::<Vec<_>>().join(" ")
    };
    let memory = match config.worst_case_memory() {
        Some(bytes) => format!("at the very worst {} MiB of memory", bytes.div_ceil(1 << 20)),
        None => "memory without a bound, since a limit is unlimited".to_owned(),
    };
    vec![format!("limits: {}", named("max_")), format!("these limits allow {memory}, without the kernel's buffers")]
}
