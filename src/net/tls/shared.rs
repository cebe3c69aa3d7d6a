//! What all streams with TLS share: the certificate, and the handshakes that are admitted and counted.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use log::{info, warn};

use super::super::clock::unix_seconds;
use super::super::error::Error;
use super::super::files::read_file;
use super::certificate::Certificate;
use super::session::{Identity, Refused, Session};
use crate::admin::{Exposition, Kind};
use crate::base::network::network_of;
use crate::base::rate::{Bucket, Rate, Remembered};
use crate::base::time::Time;
use crate::config::Config;

/// Most bytes of the file of the certificate, and of that of the key.
const MAX_FILE: usize = 1 << 20;

/// What all streams with TLS share.
pub(in crate::net) struct Tls {
    /// `None` if no address has TLS.
    active: Option<Active>,
    /// Receive buffer for records. Nothing stays in it between two reads.
    pub(super) buffer: Box<[u8]>,
    attempts: Attempts,
    /// Of their own, so that members do not shut out an operator behind the same address.
    operators_attempts: Attempts,
    /// By [`HandshakeResult`].
    handshakes: [u64; 4],
}

struct Active {
    identity: Identity,
    certificate: Certificate,
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeResult {
    Full,
    /// With a ticket of an earlier session.
    Resumed,
    /// The client has broken the protocol, does not accept the certificate, was too slow, or has gone.
    Failed,
    /// The address of the client has made too many attempts.
    Refused,
}

/// Words for the results in metrics.
const RESULTS: [(HandshakeResult, &str); 4] = [
    (HandshakeResult::Full, "full"),
    (HandshakeResult::Resumed, "resumed"),
    (HandshakeResult::Failed, "failed"),
    (HandshakeResult::Refused, "refused"),
];

impl Tls {
    /// Reads the certificate and its key, if an address has TLS.
    pub(in crate::net) fn open(config: &Config) -> Result<Tls, Error> {
        let active = read(config, None)?;
        if let Some(active) = &active {
            active.log("is used");
        }
        let buffer = if active.is_some() { vec![0; config.receive_buffer_bytes.0] } else { Vec::new() };
        Ok(Tls {
            active,
            buffer: buffer.into(),
            attempts: Attempts::new(config),
            operators_attempts: Attempts::new(config),
            handshakes: [0; 4],
        })
    }

    /// Reads the files again. Connections that exist keep their certificate, and clients can resume their sessions.
    ///
    /// # Errors
    ///
    /// Errors of [`Tls::open`]. The old certificate then stays.
    pub(in crate::net) fn reload(&mut self, config: &Config) -> Result<(), Error> {
        let Some(previous) = &self.active else { return Ok(()) };
        let active = read(config, Some(&previous.identity))?;
        if let Some(active) = &active {
            active.log("was read again, and is used for new connections");
        }
        self.active = active;
        Ok(())
    }

    pub(super) fn new_session(&self) -> io::Result<Session> {
        let active = self.active.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Session::new(&active.identity).map_err(io::Error::other)
    }

    /// Whether a client of `address` may attempt a handshake. Charges it: a handshake is the most expensive thing that a
    /// stranger can ask for, so it is charged before the request is known.
    pub(in crate::net) fn admits(&mut self, now: Time, address: Option<IpAddr>) -> bool {
        let is_admitted = self.attempts.charge(now, address);
        self.note_admitted(is_admitted)
    }

    /// The same for the operators' port.
    pub(in crate::net) fn admits_operator(&mut self, now: Time, address: Option<IpAddr>) -> bool {
        let is_admitted = self.operators_attempts.charge(now, address);
        self.note_admitted(is_admitted)
    }

    fn note_admitted(&mut self, is_admitted: bool) -> bool {
        if !is_admitted {
            self.count(HandshakeResult::Refused);
        }
        is_admitted
    }

    pub(super) fn count(&mut self, result: HandshakeResult) {
        self.handshakes[result as usize] += 1;
    }

    pub(in crate::net) fn write_metrics(&self, metrics: &mut Exposition) {
        let Some(Active { certificate, .. }) = &self.active else { return };
        let name = "lobbyd_tls_handshakes_total";
        metrics.labelled(name, Kind::Counter, "TLS handshakes, by their result.");
        for (result, word) in RESULTS {
            metrics.sample(name, &[("result", word)], self.handshakes[result as usize] as f64);
        }
        let help = "Time until the certificate expires. Negative if it has expired.";
        metrics.gauge("lobbyd_tls_certificate_expiry_seconds", help, (certificate.not_after - unix_seconds()) as f64);
    }
}

impl Active {
    fn log(&self, what: &str) {
        info!("the certificate {} {what}", self.certificate);
        if let Some(problem) = self.certificate.problem(unix_seconds()) {
            warn!("tls_cert: {problem}");
        }
    }
}

/// Attempts by address, as far as their buckets are not full.
struct Attempts {
    rate: Option<Rate>,
    used: Remembered<IpAddr, Bucket>,
}

impl Attempts {
    fn new(config: &Config) -> Attempts {
        Attempts { rate: config.attempt_rate(), used: Remembered::new(config.max_remembered_rates) }
    }

    /// Takes a token of the network of `address`, if there is one. Nothing is charged without an address.
    fn charge(&mut self, now: Time, address: Option<IpAddr>) -> bool {
        let (Some(rate), Some(address)) = (self.rate, address) else { return true };
        let address = network_of(address);
        let mut bucket = self.used.take(&address).unwrap_or_default();
        let is_admitted = bucket.take(now, 1, rate).is_ok();
        self.used.put(now, address, bucket, bucket.full_at());
        is_admitted
    }
}

/// Checks the files without using them. Returns a warning if clients refuse the certificate because of its dates.
pub(in crate::net) fn check_files(config: &Config) -> Result<Option<String>, Error> {
    let problem = read(config, None)?.and_then(|active| active.certificate.problem(unix_seconds()));
    Ok(problem.map(|problem| format!("tls_cert: {problem}")))
}

/// Reads the files. `None` if no address has TLS.
fn read(config: &Config, previous: Option<&Identity>) -> Result<Option<Active>, Error> {
    // The check of the configuration has required both.
    let (true, Some(cert), Some(key)) = (config.has_tls(), &config.tls_cert, &config.tls_key) else { return Ok(None) };
    let of_cert = |problem: String| Error::Certificate(cert.clone(), problem);
    let of_key = |problem: String| Error::Key(key.clone(), problem);
    let read = |path: &Path| read_file(path, MAX_FILE).map_err(|error| error.to_string());
    let certificates = read(cert).map_err(of_cert)?;
    let identity = Identity::read(&certificates, &read(key).map_err(of_key)?, previous);
    let identity = identity.map_err(|refused| match refused {
        Refused::Certificate(problem) => of_cert(problem),
        Refused::Key(problem) => of_key(problem),
    })?;
    let certificate = Certificate::read(&identity.certificate);
    let certificate = certificate.ok_or_else(|| of_cert("its first certificate is not one of X.509".into()))?;
    Ok(Some(Active { identity, certificate }))
}
