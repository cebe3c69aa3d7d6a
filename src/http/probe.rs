//! Health checks, which load balancers and supervisors send to either port.

use super::target::percent_decode;

/// A health check.
///
/// It is accepted in forms that other requests must not have: HTTP/1.0 without `Host`, an empty `Host`, any query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Whether the process is running.
    Live,
    /// Whether new members are admitted.
    Ready,
}

impl Probe {
    /// Returns the health check at `path`, which is percent-encoded.
    pub(crate) fn at(path: &str) -> Option<Probe> {
        match &*percent_decode(path, false)? {
            "/health/live" => Some(Probe::Live),
            "/health" | "/health/ready" => Some(Probe::Ready),
            _ => None,
        }
    }
}
