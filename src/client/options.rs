//! Options of an application for its session.

use std::fmt;
use std::time::Duration;

/// Options of a session. The [module](crate::client) has an example.
#[derive(Clone)]
pub struct Options {
    /// Time for the answer to a request. 10 s by default.
    pub request_timeout: Duration,
    /// Largest message that is read. A larger one closes the lobby for good, with code 1009. 1 MiB by default: above
    /// `max_outbound_bytes` of the server.
    pub max_frame_bytes: usize,
    /// The session of the process before a restart, as [`Session::name`] returned it: this one claims its seat.
    ///
    /// [`Session::name`]: crate::client::Session::name
    pub was: Option<String>,
    /// After so long a silence of the server the session asks for a sign of life. Without one within half that time it gives the
    /// connection up and comes back. 20 s by default; `None`: never.
    pub heartbeat: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            request_timeout: Duration::from_secs(10),
            max_frame_bytes: 1 << 20,
            was: None,
            heartbeat: Some(Duration::from_secs(20)),
        }
    }
}

/// Without the name of the session, which is a secret.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("request_timeout", &self.request_timeout)
            .field("max_frame_bytes", &self.max_frame_bytes)
            .field("was", &self.was.as_ref().map(|_| "…"))
            .field("heartbeat", &self.heartbeat)
            .finish()
    }
}
