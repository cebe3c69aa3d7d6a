//! Stands for the threads that perform HTTP calls, in a build without the cargo feature `hook`: none can be created.

use std::convert::Infallible;

use super::handle::Handle;
use super::http_report::HttpReport;
use crate::config::Config;
use crate::hook::HttpCall;

pub(super) struct HttpClient(Infallible);

/// Fails: the name of the option, and the way out.
pub(super) fn check(config: &Config) -> Result<(), (&'static str, String)> {
    Err(missing(config))
}

fn missing(config: &Config) -> (&'static str, String) {
    let option = if config.hook.is_some() { "hook" } else { "jwt_jwks_url" };
    let missing = "this program was built without the cargo feature `hook`; build it with `cargo build --release --features \
                   hook`";
    (option, missing.to_owned())
}

impl HttpClient {
    /// # Errors
    ///
    /// Always: the name of the option, and the way out.
    pub(super) fn new(config: &Config, _: Handle) -> Result<HttpClient, (&'static str, String)> {
        Err(missing(config))
    }

    pub(super) fn reload(&mut self, _: &Config) -> Result<(), (&'static str, String)> {
        match self.0 {}
    }

    pub(super) fn begin(&mut self, _: HttpCall) -> Result<(), HttpReport> {
        match self.0 {}
    }

    pub(super) fn handle_report(&mut self, _: &HttpReport) {
        match self.0 {}
    }
}
