//! Warnings about requests that are admitted or refused otherwise than an operator expects. Each is logged rarely, because
//! clients can cause them.

use log::warn;

use super::core::Core;
use crate::base::id::ConnKey;
use crate::http::forwarded::ForwardedFault;
use crate::ws::handshake::Request;

impl Core {
    /// Warns that a page of a foreign origin was refused (RFC 6455 section 10.2), and names the option that allows it.
    /// A replay has no request and logs nothing.
    pub(super) fn log_refused_origin(&mut self, request: &Request<'_>) {
        let origin = request.origin_for_log();
        if self.logged_origins.should_log(self.clock.now(), &origin) {
            warn!(
                "conn={} peer={} a page of the origin {origin} is refused at {}: if its pages may connect, name the origin in \
                 --allowed-origin",
                request.conn(),
                self.conns.remote(request.conn().key()),
                request.host_for_log()
            );
        }
    }

    /// Warns, once for each cause, that the trusted proxies have named no address for a client. Repeats no text of the
    /// header: with a wrong number of proxies a client has written it. A replay has no request and logs nothing.
    pub(super) fn log_forwarded_fault(&mut self, key: ConnKey, fault: ForwardedFault) {
        if !self.logged_forwarded_faults.insert(fault) {
            return;
        }
        let header = self.config.forwarded_header.name();
        let position = self.config.trusted_proxies;
        let what = match fault {
            ForwardedFault::Missing => format!(
                "{header} has no entry {position} from the right: does every proxy append one, and is trusted_proxies their \
                 number?"
            ),
            ForwardedFault::Hidden => {
                format!(
                    "entry {position} of {header} from the right hides the address: configure the proxy to name it."
                )
            }
            ForwardedFault::Malformed => format!(
                "entry {position} of {header} from the right is not an address: is trusted_proxies the number of proxies, and \
                 forwarded_header the header that they write?"
            ),
        };
        warn!(
            "conn={} peer={} {what} Such clients count by the address of the TCP connection; this is logged once",
            self.conns[key].id,
            self.conns[key].peer.peer()
        );
    }
}
