//! Rules for addresses with `tls:`.

use super::check::{Purpose, Rules};
use super::fields::Config;
use super::listen::Listen;
use super::types::ByteSize;

/// Least size of the receive buffer with TLS: the longest record has 18 KiB (RFC 5246 section 6.2.3).
const MIN_TLS_BUFFER: ByteSize = ByteSize::kib(20);

impl Config {
    /// Whether connections to one of the addresses begin with TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.listen.has_tls() || self.admin.as_ref().is_some_and(Listen::has_tls)
    }
}

impl Rules<'_> {
    /// Checks what addresses with `tls:` need. A replay has no sockets.
    pub(super) fn check_tls(&mut self) {
        let config = self.config;
        if !config.has_tls() || self.purpose == Purpose::Replay {
            return;
        }
        let field = if config.listen.has_tls() { "listen" } else { "admin" };
        let rule = "has an address with tls:, and this build has no TLS; build it with --features tls";
        self.require(cfg!(feature = "tls"), field, rule);
        let rule = "must be set, since an address begins with tls:";
        self.require(config.tls_cert.is_some(), "tls_cert", rule);
        self.require(config.tls_key.is_some(), "tls_key", rule);
        let rule = format!("must be at least {MIN_TLS_BUFFER} while an address begins with tls:, or no record fits");
        self.require(config.receive_buffer_bytes >= MIN_TLS_BUFFER, "receive_buffer_bytes", rule);
    }
}
