//! Threads that perform the HTTP calls of the hook: blocking, one call at a time each.
//!
//! A thread knows neither the engine nor the queues. It gets calls by a channel of its own, and sends the results to the loop by
//! the [`Handle`]. It ends when its channel is closed, after the call that it performs.

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

use super::clock::unix_millis;
use super::files::read_file;
use super::handle::Handle;
use super::host_lookups::HostLookups;
use super::http_report::HttpReport;
use super::system_certificates::system_certificates;
use crate::config::memory::MAX_IDLE_CALL_CONNECTIONS;
use crate::config::{Config, HttpUrl};
use crate::hook::signature::{SIGNATURE, TIMESTAMP, read_secret, signed_bytes};
use crate::hook::{CallId, HttpCall, HttpFault, HttpResult};

/// Most bytes of the file with the secret, which has one line.
const MAX_SECRET_FILE: usize = 4096;
/// Most bytes of a file with certificates: that of a system has about 200 KiB.
const MAX_CA_FILE: usize = 4 << 20;
/// Age from which an idle connection is not used again. Servers close them after some 5 s.
const MAX_IDLE: Duration = Duration::from_secs(3);

/// The threads. Each one is started when it is first needed.
pub(super) struct HttpClient {
    performer: Arc<Performer>,
    lookups: HostLookups,
    handle: Handle,
    threads: Vec<mpsc::Sender<Job>>,
    /// Threads that perform no call.
    idle: Vec<usize>,
}

/// A call for a thread, with the secret and the certificates that are in force when it begins.
struct Job {
    call: HttpCall,
    performer: Arc<Performer>,
}

/// What is needed to perform calls.
struct Performer {
    hook: Option<HttpUrl>,
    keys: Option<HttpUrl>,
    secret: Vec<u8>,
    agent: Agent,
    /// Without connections that are kept open.
    fresh: Agent,
}

/// Checks the files that the hook needs.
///
/// # Errors
///
/// The name of the option, and the problem.
pub(super) fn check(config: &Config) -> Result<(), (&'static str, String)> {
    Performer::new(config, &HostLookups::new()).map(drop)
}

impl HttpClient {
    /// Reads the secret and the certificates.
    ///
    /// # Errors
    ///
    /// The name of the option, and the problem.
    pub(super) fn new(config: &Config, handle: Handle) -> Result<HttpClient, (&'static str, String)> {
        let lookups = HostLookups::new();
        let performer = Arc::new(Performer::new(config, &lookups)?);
        Ok(HttpClient { performer, lookups, handle, threads: Vec::new(), idle: Vec::new() })
    }

    /// Reads the secret and the certificates again, for calls that begin from now on.
    ///
    /// # Errors
    ///
    /// Errors of [`HttpClient::new`]. The old secret and certificates then stay in force.
    pub(super) fn reload(&mut self, config: &Config) -> Result<(), (&'static str, String)> {
        self.performer = Arc::new(Performer::new(config, &self.lookups)?);
        Ok(())
    }

    /// Begins a call. Fails if no thread can be started.
    pub(super) fn begin(&mut self, call: HttpCall) -> Result<(), HttpReport> {
        let thread = match self.idle.pop() {
            Some(thread) => thread,
            None => match self.start_thread() {
                Ok(thread) => thread,
                Err(error) => {
                    let fault = HttpFault::Failed(format!("no thread can be started: {error}"));
                    return Err(HttpReport { thread: usize::MAX, of: call.of, result: Err(fault) });
                }
            },
        };
        // A thread that has panicked takes no call.
        let job = Job { call, performer: Arc::clone(&self.performer) };
        self.threads[thread].send(job).map_err(|mpsc::SendError(job)| {
            let fault = HttpFault::Failed("the thread for calls has ended".into());
            HttpReport { thread: usize::MAX, of: job.call.of, result: Err(fault) }
        })
    }

    fn start_thread(&mut self) -> io::Result<usize> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let (thread, handle) = (self.threads.len(), self.handle.clone());
        thread::Builder::new().name(format!("hook-{thread}")).spawn(move || {
            for Job { call, performer } in jobs {
                // Each call has a report, or its question or batch would wait for ever.
                let result = panic::catch_unwind(AssertUnwindSafe(|| performer.perform(&call)));
                let result = result.unwrap_or_else(|_| Err(HttpFault::Failed("the call has panicked".into())));
                handle.report(HttpReport { thread, of: call.of, result });
            }
        })?;
        self.threads.push(sender);
        Ok(thread)
    }

    /// The thread of a report performs no call now.
    pub(super) fn handle_report(&mut self, report: &HttpReport) {
        if report.thread < self.threads.len() {
            self.idle.push(report.thread);
        }
    }
}

impl Performer {
    fn new(config: &Config, lookups: &HostLookups) -> Result<Performer, (&'static str, String)> {
        let is_tls = config.hook.iter().chain(&config.jwt_jwks_url).any(HttpUrl::is_tls);
        let roots = if is_tls { Some(roots(config.hook_ca_file.as_deref())?) } else { None };
        let secret = match config.hook_secret_file.as_deref().filter(|_| config.hook.is_some()) {
            Some(path) => secret(path).map_err(|problem| ("hook_secret_file", problem))?,
            None => Vec::new(),
        };
        Ok(Performer {
            hook: config.hook.clone(),
            keys: config.jwt_jwks_url.clone(),
            secret,
            agent: agent(roots.clone(), MAX_IDLE_CALL_CONNECTIONS as usize, lookups),
            fresh: agent(roots, 0, lookups),
        })
    }

    fn perform(&self, call: &HttpCall) -> HttpResult {
        #[expect(clippy::disallowed_methods, reason = "the duration of a call, in a thread that only performs calls")]
        let begun = Instant::now();
        match self.try_with(&self.agent, call, call.timeout) {
            // The backend may have closed a connection that was kept open, just when the call began.
            Err(ureq::Error::Io(error)) if error.kind() != io::ErrorKind::TimedOut => {
                let rest = call.timeout.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
                self.try_with(&self.fresh, call, rest).map_err(fault)
            }
            result => result.map_err(fault),
        }
    }

    fn try_with(&self, agent: &Agent, call: &HttpCall, timeout: Duration) -> Result<(u16, Vec<u8>), ureq::Error> {
        let url = if call.of == CallId::Keys { &self.keys } else { &self.hook };
        let url = url.as_ref().expect("only calls of configured URLs are begun").as_str();
        let mut response = match &call.body {
            None => agent.get(url).config().timeout_global(Some(timeout)).build().call()?,
            Some(body) => {
                let now = unix_millis();
                let request = agent.post(url).config().timeout_global(Some(timeout)).build();
                let request = request.header("Content-Type", "application/json").header(TIMESTAMP, now.to_string());
                request.header(SIGNATURE, self.signature(now, body)).send(&body[..])?
            }
        };
        let status = response.status().as_u16();
        Ok((status, read_body(response.body_mut(), call.max_answer)?))
    }

    /// Returns the signature in hexadecimal digits.
    fn signature(&self, unix_millis: u64, body: &[u8]) -> String {
        use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

        let tag = sign(&Key::new(HMAC_SHA256, &self.secret), &signed_bytes(unix_millis, body));
        format!("sha256={}", data_encoding::HEXLOWER.encode(tag.as_ref()))
    }
}

fn read_body(body: &mut Body, max: usize) -> Result<Vec<u8>, ureq::Error> {
    body.with_config().limit(max as u64).read_to_vec()
}

/// Describes an error without the URL, which may have a secret.
fn fault(error: ureq::Error) -> HttpFault {
    match error {
        ureq::Error::Timeout(_) => HttpFault::Timeout,
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => HttpFault::Timeout,
        ureq::Error::BodyExceedsLimit(_) | ureq::Error::LargeResponseHeader(..) => HttpFault::TooLong,
        ureq::Error::Io(error) => HttpFault::Failed(super::error::text(&error)),
        ureq::Error::BadUri(_) => HttpFault::Failed("the URL cannot be called".into()),
        ureq::Error::HostNotFound => HttpFault::Failed("the name of its host is not known".into()),
        ureq::Error::ConnectionFailed => HttpFault::Failed("it cannot be connected to".into()),
        ureq::Error::Rustls(error) => HttpFault::Failed(format!("TLS failed: {error}")),
        ureq::Error::Tls(text) => HttpFault::Failed(format!("TLS failed: {text}")),
        _ => HttpFault::Failed("it broke the protocol HTTP".into()),
    }
}

fn agent(roots: Option<RootCerts>, max_idle: usize, lookups: &HostLookups) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // What is sent is meant for this URL alone.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("lobbyd/", env!("CARGO_PKG_VERSION")))
        .max_response_header_size(16 << 10)
        .max_idle_connections(max_idle)
        .max_idle_connections_per_host(max_idle)
        .max_idle_age(MAX_IDLE);
    let config = match roots {
        None => config,
        Some(roots) => {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let tls = TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(roots);
            config.tls_config(tls.unversioned_rustls_crypto_provider(provider).build())
        }
    };
    Agent::with_parts(config.build(), DefaultConnector::default(), lookups.clone())
}

fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let contents = read_file(path, MAX_SECRET_FILE).map_err(|error| error.to_string())?;
    read_secret(&contents).map_err(str::to_owned)
}

/// Reads the certificates that are trusted.
fn roots(file: Option<&Path>) -> Result<RootCerts, (&'static str, String)> {
    let error = |problem: String| ("hook_ca_file", problem);
    let missing = || error("the system has no file of certificates; name one with --hook-ca-file".into());
    let path = match file {
        Some(path) => path,
        None => system_certificates().ok_or_else(missing)?,
    };
    let contents = read_file(path, MAX_CA_FILE).map_err(|cause| error(cause.to_string()))?;
    let certificates = parse_pem(&contents).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() {
        return Err(error("it has no certificate in PEM form".into()));
    }
    Ok(RootCerts::from(certificates))
}
