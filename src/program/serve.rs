//! `lobbyd` without a subcommand: starts the server, runs it and maps the result to an exit code.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::ArgMatches;
use lobbyd::apps::{Auth, CatchPanics, Echo, Relay, Verbatim};
use lobbyd::config::{Listen, ListenAddress};
use lobbyd::net::{Error, ListenSocket, Server, Status, raise_descriptor_limit, read_file};
use lobbyd::stats::DrainTotals;
use lobbyd::{App, Config};
use log::{debug, error, info, warn};

use super::activation::ActivatedSockets;
use super::auth_file::AuthFile;
use super::exit::{CUT_OFF, FAILED};
use super::failure;
use super::logger::{TARGET, log_to_stderr};
use super::options::Options;
use super::summary::summary;
use super::supervisor::Supervisor;

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let given = match ActivatedSockets::from_environment() {
        Ok(given) => given,
        Err(problem) => return failure::not_started(&problem, Options::format(matches)),
    };
    let options = match Options::read_with(matches, &given.options) {
        Ok(options) => options,
        Err(refusal) => return refusal.report(),
    };
    let sockets = given.sockets;
    #[cfg(unix)]
    if let Err(problem) = ignore_sigxfsz() {
        return failure::not_started(&format!("SIGXFSZ cannot be handled: {problem}"), options.format);
    }
    if let Err(problem) = log_to_stderr(&options.levels, options.format) {
        return failure::not_started(&problem, options.format);
    }
    if let Err(problem) = raise_descriptor_limit() {
        warn!(target: TARGET, "the limit of open files cannot be raised: {problem}");
    }
    options.warnings.iter().for_each(|warning| warn!(target: TARGET, "{warning}"));
    match options.app_word.as_str() {
        "relay" => run_app(&options, sockets, Relay::new(options.auth.clone())),
        "verbatim" => run_app(&options, sockets, Verbatim::new(options.auth.clone())),
        "echo" => run_app(&options, sockets, Echo),
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

fn run_app<A: App>(options: &Options, sockets: Vec<ListenSocket>, app: A) -> ExitCode {
    if options.catches_panics {
        run_server(options, sockets, CatchPanics::new(app))
    } else {
        run_server(options, sockets, app)
    }
}

fn run_server<A: App>(options: &Options, sockets: Vec<ListenSocket>, app: A) -> ExitCode {
    let summary = summary(&options.config);
    let mut supervisor = match Supervisor::from_environment() {
        Ok(supervisor) => supervisor,
        Err(problem) => return failure::not_started(&problem, options.format),
    };
    let mut server = match start(options, sockets, app) {
        Ok(server) => server,
        Err(problem) => return failure::not_started(&options.describe(&problem), options.format),
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
    let admin: Option<Listen> = options.config.admin.as_ref().map(|_| server.admin_addrs().iter().cloned().collect());
    let listen: Listen = server.local_addrs().iter().cloned().collect();
    supervisor.report_started(
        &status_line(server),
        &listen.to_string(),
        admin.map(|admin| admin.to_string()).as_deref(),
    );
    let mut was_hung_up = false;
    loop {
        let status = server.turn(supervisor.max_wait())?;
        supervisor.after_turn(server.engine().is_draining(), || status_line(server));
        if let Status::Stopped(totals) = status {
            return Ok(totals);
        }
        if server.take_reload() {
            handle_hangup_signal(server, options, supervisor, &mut was_hung_up);
        }
    }
}

/// Handles SIGHUP: reads the files again. If there are none, the signal means that the terminal was closed.
///
/// The kernel may send it twice then, to the leader of the session and to the group in the foreground. The second one must
/// not cut off the drain, as a second SIGTERM does.
fn handle_hangup_signal<A: App>(
    server: &mut Server<A>,
    options: &Options,
    supervisor: &mut Supervisor,
    was_hung_up: &mut bool,
) {
    if options.has_files_to_read_again() {
        supervisor.report_reloading();
        let kept = read_again(server, options);
        let kept = kept.iter().map(|kept| format!("; {kept}"));
        supervisor.report_ready(&(status_line(server) + &kept.collect::<String>()));
    } else if options.ends_with_terminal && std::mem::replace(was_hung_up, true) {
        debug!(target: TARGET, "SIGHUP again: the server is stopping already");
    } else if options.ends_with_terminal {
        info!(target: TARGET, "SIGHUP: the terminal was closed, and there is no file to read again");
        server.handle().stop();
    } else {
        info!(target: TARGET, "SIGHUP is ignored: there is no file to read again");
    }
}

/// Reads the file of the tokens or keys, the operators' token, the certificate and the files of the hook again. Each is replaced
/// only if its file is valid. Returns a part of a sentence about each one that is not replaced.
fn read_again<A: App>(server: &mut Server<A>, options: &Options) -> Vec<String> {
    let mut kept = Vec::new();
    if let Some(AuthFile { path, max_bytes, contents, is_valid }) = &options.auth_file {
        let read = read_file(path.as_ref(), *max_bytes);
        if !read.as_ref().is_ok_and(|read| is_valid(read)) {
            kept.push(format!("the old {contents} stay in force"));
        }
        match read {
            // The application itself reports why it refuses the contents.
            Ok(read) => server.reload(&read),
            Err(error) => {
                warn!(target: TARGET, "the old {contents} stay in force: {}: {error}", failure::escaped(path));
            }
        }
    }
    if options.has_operators_token() {
        match server.reload_admin_token() {
            Ok(()) => info!(target: TARGET, "the operators' token was read again"),
            Err(error) => {
                kept.push("the old operators' token stays in force".to_owned());
                warn!(target: TARGET, "the old operators' token stays in force: {}", failure::escaped(&error.to_string()));
            }
        }
    }
    if options.has_certificate()
        && let Err(error) = server.reload_certificate()
    {
        kept.push("the old certificate stays in force".to_owned());
        warn!(target: TARGET, "the old certificate stays in force: {}", failure::escaped(&error.to_string()));
    }
    if options.has_files_of_hook() {
        match server.reload_hook() {
            Ok(()) => info!(target: TARGET, "the files of the hook were read again"),
            Err(error) => {
                kept.push("the old files of the hook stay in force".to_owned());
                warn!(target: TARGET, "the old files of the hook stay in force: {}", failure::escaped(&error.to_string()));
            }
        }
    }
    kept
}

/// Returns the line that a service manager shows.
fn status_line<A: App>(server: &Server<A>) -> String {
    let stats = server.engine().stats();
    if server.engine().is_draining() {
        // A member gives up its seat when its connection begins to close.
        return format!("draining, {} members left", stats.total_connections + stats.closing);
    }
    format!("{} members in {} lobbies", stats.total_connections, stats.active_lobbies)
}

fn start<A: App>(options: &Options, sockets: Vec<ListenSocket>, app: A) -> Result<Server<A>, Error> {
    let mut server = Server::bind_with_sockets(options.config.clone(), app, options.seed, sockets)?;
    server.listen_to_signals()?;
    let listen: Listen = server.local_addrs().iter().cloned().collect();
    let admin: Option<Listen> = options.config.admin.as_ref().map(|_| server.admin_addrs().iter().cloned().collect());
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
        "lobbyd {} app={} auth={}{tokens} allowed_origin={} listen={listen} admin={}",
        env!("CARGO_PKG_VERSION"),
        options.app_word,
        options.auth_word,
        show("allowed_origin", &options.config),
        admin.as_ref().map_or_else(|| "off".into(), Listen::to_string)
    );
    for address in listen.addresses() {
        info!(target: TARGET, "listening on {address}");
    }
    if options.config.playground && options.app_word == "relay" {
        for url in listen.addresses().iter().filter_map(url_of) {
            info!(target: TARGET, "playground on {url}/");
        }
    }
    for address in admin.iter().flat_map(Listen::addresses) {
        let url = url_of(address).unwrap_or_else(|| address.to_string());
        info!(target: TARGET, "admin API on {url}");
    }
    Ok(server)
}

/// Returns the URL of an address. `None` for socket files.
fn url_of(address: &ListenAddress) -> Option<String> {
    let scheme = if address.is_tls() { "https" } else { "http" };
    let address = address.without_tls();
    (!matches!(address, ListenAddress::Unix(_))).then(|| format!("{scheme}://{address}"))
}

fn show(name: &str, config: &Config) -> String {
    let field = Config::FIELDS.iter().find(|field| field.name == name).expect("the name is in Config::FIELDS");
    (field.show)(config)
}
