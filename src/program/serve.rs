//! `lobbyd` without a subcommand: starts the server, runs it and maps the result to an exit code.
//!
//! Exit 0: stopped on request. 1: failed while running. 2: did not start as configured. 3: the drain deadline cut
//! connections off.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::ArgMatches;
use lobbyd::apps::{Auth, CatchPanics, Echo, Relay, Tokens, Verbatim};
use lobbyd::net::{Error, Server, Status, read_file};
use lobbyd::stats::DrainTotals;
use lobbyd::{App, Config};
use log::{error, info, warn};

use super::logger::{TARGET, log_to_stderr};
use super::options::Options;
use super::refusal::NOT_STARTED;
use super::summary::summary;
use super::supervisor::Supervisor;

const FAILED: u8 = 1;
const CUT_OFF: u8 = 3;

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let options = match Options::read(matches) {
        Ok(options) => options,
        Err(refusal) => return refusal.report(),
    };
    #[cfg(unix)]
    if let Err(problem) = ignore_sigxfsz() {
        eprintln!("lobbyd: SIGXFSZ cannot be ignored: {problem}");
        return ExitCode::from(NOT_STARTED);
    }
    if let Err(problem) = log_to_stderr(&options.levels, options.format) {
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
    let summary = summary(&options.config);
    let mut supervisor = match Supervisor::from_environment() {
        Ok(supervisor) => supervisor,
        Err(problem) => {
            error!(target: TARGET, "{problem}");
            return ExitCode::from(NOT_STARTED);
        }
    };
    let mut server = match start(options, app) {
        Ok(server) => server,
        Err(problem) => {
            error!(target: TARGET, "{problem}");
            return ExitCode::from(NOT_STARTED);
        }
    };
    summary.iter().for_each(|line| info!(target: TARGET, "{line}"));
    // All lobbies share one application, so after a panic its state cannot be trusted: the process ends.
    match panic::catch_unwind(AssertUnwindSafe(|| serve(&mut server, options, &mut supervisor))) {
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

fn serve<A: App>(server: &mut Server<A>, options: &Options, supervisor: &mut Supervisor) -> Result<DrainTotals, Error> {
    supervisor.report_ready(&status_line(server));
    loop {
        let status = server.turn(supervisor.max_wait())?;
        supervisor.after_turn(server.engine().is_draining(), || status_line(server));
        if let Status::Stopped(totals) = status {
            return Ok(totals);
        }
        if server.take_reload() {
            supervisor.report_reloading();
            reload(server, options);
            supervisor.report_ready(&status_line(server));
        }
    }
}

/// Reads the list of tokens and the operators' token again. Each is replaced only if its file is valid.
fn reload<A: App>(server: &mut Server<A>, options: &Options) {
    if let Some(file) = &options.tokens_file {
        match read_file(file.as_ref(), Tokens::MAX_FILE) {
            Ok(contents) => server.reload(&contents),
            Err(error) => warn!(target: TARGET, "the old tokens stay in force: {file}: {error}"),
        }
    }
    if options.config.admin.is_some() && options.config.admin_token_file.is_some() {
        match server.reload_admin_token() {
            Ok(()) => info!(target: TARGET, "the operators' token was read again"),
            Err(error) => warn!(target: TARGET, "the old operators' token stays in force: {error}"),
        }
    }
}

/// Returns the line that a service manager shows.
fn status_line<A: App>(server: &Server<A>) -> String {
    let stats = server.engine().stats();
    format!("{} members in {} lobbies", stats.total_connections, stats.active_lobbies)
}

fn start<A: App>(options: &Options, app: A) -> Result<Server<A>, Error> {
    let mut server = Server::bind_checked(options.config.clone(), app, options.seed)?;
    server.listen_to_signals().map_err(Error::Poll)?;
    let address = server.local_addr().map_err(Error::Poll)?;
    let admin = server.admin_addr().map_err(Error::Poll)?;
    let tokens = match &options.auth {
        Auth::Tokens(tokens) => format!(" tokens={}", tokens.len()),
        Auth::Open => String::new(),
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
