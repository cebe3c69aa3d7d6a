//! `lobbyd` without a subcommand: starts the server, runs it and maps the result to an exit code.
//!
//! Exit 0: stopped on request. 1: failed while running. 2: did not start as configured. 3: the drain deadline cut
//! connections off.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::ArgMatches;
use lobbyd::apps::{Auth, CatchPanics, Echo, Relay, Verbatim};
use lobbyd::net::{Error, Server, Status, read_file};
use lobbyd::stats::DrainTotals;
use lobbyd::{App, Config};
use log::{error, info, warn};

use super::auth_file::AuthFile;
use super::logger::{TARGET, log_to_stderr};
use super::options::Options;

const FAILED: u8 = 1;
const NOT_STARTED: u8 = 2;
const CUT_OFF: u8 = 3;

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let options = match Options::read(matches) {
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
    if let Err(problem) = log_to_stderr(&options.levels) {
        eprintln!("lobbyd: {problem}");
        return ExitCode::from(NOT_STARTED);
    }
    options.warnings.iter().for_each(|warning| warn!(target: TARGET, "{warning}"));
    match options.app_word.as_str() {
        "relay" => run_app(&options, Relay::new(options.auth.clone())),
        "verbatim" => run_app(&options, Verbatim::new(options.auth.clone())),
        "echo" => run_app(&options, Echo),
        other => unreachable!("the command line accepts no app {other}"),
    }
}

/// Installs a handler for SIGXFSZ, so that a write beyond the file size limit (`ulimit -f`) fails with an error, as on
/// a full disk. `journal_on_error` then applies. Without a handler the signal ends the process.
#[cfg(unix)]
fn ignore_sigxfsz() -> std::io::Result<()> {
    use std::sync::atomic::AtomicBool;

    static WAS_RAISED: AtomicBool = AtomicBool::new(false);
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, &WAS_RAISED).map(drop)
}

fn run_app<A: App>(options: &Options, app: A) -> ExitCode {
    if options.catches_panics { run_server(options, CatchPanics::new(app)) } else { run_server(options, app) }
}

fn run_server<A: App>(options: &Options, app: A) -> ExitCode {
    let limits = limits(&options.config);
    let mut server = match start(options, app) {
        Ok(server) => server,
        Err(problem) => {
            error!(target: TARGET, "{problem}");
            return ExitCode::from(NOT_STARTED);
        }
    };
    limits.iter().for_each(|line| info!(target: TARGET, "{line}"));
    // All lobbies share one application, so after a panic its state cannot be trusted: the process ends.
    match panic::catch_unwind(AssertUnwindSafe(|| serve(&mut server, options))) {
        Ok(Ok(totals)) => {
            info!(target: TARGET, "stopped; {}", server.stats_line());
            if totals.forced == 0 { ExitCode::SUCCESS } else { ExitCode::from(CUT_OFF) }
        }
        Ok(Err(problem)) => {
            error!(target: TARGET, "{problem}");
            ExitCode::from(FAILED)
        }
        Err(_) => {
            error!(
                target: TARGET,
                "the server panicked, so its state cannot be trusted and it ends; the panic message is above"
            );
            ExitCode::from(FAILED)
        }
    }
}

fn serve<A: App>(server: &mut Server<A>, options: &Options) -> Result<DrainTotals, Error> {
    loop {
        if let Status::Stopped(totals) = server.turn(None)? {
            return Ok(totals);
        }
        if server.take_reload() {
            reload(server, options);
        }
    }
}

/// Reads the file of the tokens or keys again. They are replaced only if it is valid.
fn reload<A: App>(server: &mut Server<A>, options: &Options) {
    if let Some(AuthFile { path, max_bytes, contents }) = &options.auth_file {
        match read_file(path.as_ref(), *max_bytes) {
            Ok(read) => server.reload(&read),
            Err(error) => warn!(target: TARGET, "the old {contents} stay in force: {path}: {error}"),
        }
    }
}

fn start<A: App>(options: &Options, app: A) -> Result<Server<A>, Error> {
    let mut server = Server::bind_checked(options.config.clone(), app, options.seed)?;
    server.listen_to_signals().map_err(Error::Poll)?;
    let address = server.local_addr().map_err(Error::Poll)?;
    let admin = server.admin_addr().map_err(Error::Poll)?;
    let tokens = match &options.auth {
        Auth::Tokens(tokens) => format!(" tokens={}", tokens.len()),
        #[cfg(feature = "jwt")]
        Auth::Jwt(jwt) => {
            jwt.log_unused();
            format!(" keys={}", jwt.keys().len())
        }
        _ => String::new(),
    };
    info!(
        target: TARGET,
        "lobbyd {} app={} auth={}{tokens} allowed_origin={} listen={address} admin={}",
        env!("CARGO_PKG_VERSION"),
        options.app_word,
        options.auth_word,
        show("allowed_origin", &options.config),
        admin.map_or_else(|| "off".into(), |address| address.to_string())
    );
    info!(target: TARGET, "listening on {address}");
    if let Some(address) = admin {
        info!(target: TARGET, "admin API on http://{address}");
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
