//! Files of the server itself that are read again while it runs.

use super::error::Error;
use super::server::Server;
use crate::engine::app::App;

impl<A: App> Server<A> {
    /// Reads `admin_token_file` again. Operators that have shown another token must show the new one with their next
    /// request. Without `admin_token_file` nothing happens.
    ///
    /// # Errors
    ///
    /// [`Error::Token`] when the file cannot be read or has no valid token. The old token then stays in force.
    pub fn reload_admin_token(&mut self) -> Result<(), Error> {
        match (&mut self.operators, &self.engine.config().admin_token_file) {
            (Some(operators), Some(path)) => operators.reload_token(path),
            _ => Ok(()),
        }
    }

    /// Reads `tls_cert` and `tls_key` again, for connections that are accepted from now on. The others go on as they are, and
    /// clients can resume their TLS sessions. If no address begins with `tls:`, nothing happens.
    ///
    /// ```
    /// use lobbyd::apps::Relay;
    /// use lobbyd::net::Server;
    /// use lobbyd::Config;
    ///
    /// let listen = "127.0.0.1:0".parse().unwrap();
    /// let mut server = Server::bind(Config { listen, ..Config::default() }, Relay::default())?;
    /// // When the client of the certificate authority has renewed the certificate:
    /// if let Err(error) = server.reload_certificate() {
    ///     eprintln!("the old certificate stays in force: {error}");
    /// }
    /// # Ok::<(), lobbyd::net::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`] or [`Error::Key`] when a file cannot be used. The old certificate then stays in force.
    pub fn reload_certificate(&mut self) -> Result<(), Error> {
        self.sockets.tls.reload(self.engine.config())
    }

    /// Reads `hook_secret_file` and `hook_ca_file` again, for calls that begin from now on. A server that calls no URL ignores
    /// it.
    ///
    /// # Errors
    ///
    /// [`Error::Hook`] when a file cannot be used. The old secret and the old certificates then stay in force.
    pub fn reload_hook(&mut self) -> Result<(), Error> {
        self.server_events.as_mut().map_or(Ok(()), |events| events.reload(self.engine.config()))
    }
}
