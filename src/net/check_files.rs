//! Checks the files that a server would use, without starting one.

use std::io;
use std::path::Path;

use super::error::Error;
use super::hook;
use super::journal_files;
use super::operators::read_token;
use super::tls;
use crate::config::{Config, Listen, ListenAddress};

/// Checks the files that [`Server::bind`](super::Server::bind) would use: the operators' token, the certificate with its key, and
/// the secret and the certificates of the hook are readable and valid, and the segments of the journal and the socket files
/// can be created in their folders. Changes nothing, and listens on no address.
///
/// ```
/// use lobbyd::Config;
/// use lobbyd::net::check_files;
///
/// assert!(check_files(&Config::default()).is_empty(), "by default a server uses no files");
/// let config = Config { journal: Some("no/such/folder/session".into()), ..Config::default() };
/// assert!(check_files(&config)[0].to_string().starts_with("journal = no/such/folder/session: "));
/// ```
///
/// # Errors
///
/// All problems at once, with the text that a start would report: [`Error::Token`], [`Error::Certificate`], [`Error::Key`],
/// [`Error::Journal`], [`Error::Hook`] and, for socket files, [`Error::Listen`].
pub fn check_files(config: &Config) -> Vec<Error> {
    let token = config.admin_token_file.as_deref().filter(|_| config.admin.is_some());
    let token = token.and_then(|path| read_token(path).err());
    let journal = config.journal.as_ref().and_then(|path| {
        let error = journal_files::check(path).err()?;
        Some(Error::Journal(path.clone(), error))
    });
    let addresses = config.listen.addresses().iter().chain(config.admin.iter().flat_map(Listen::addresses));
    let sockets = addresses.filter_map(|address| match address.without_tls() {
        ListenAddress::Unix(path) => Some(Error::Listen(address.clone(), check_socket_file(path).err()?)),
        _ => None,
    });
    token
        .into_iter()
        .chain(tls::check_files(config).err())
        .chain(journal)
        .chain(sockets)
        .chain(hook::check(config).err())
        .collect()
}

/// Returns why clients refuse the certificate at present, if they do: it has expired, or is not valid yet. The server starts
/// with it all the same, and logs the warning. `None` if no address has TLS, or if [`check_files`] reports an error.
///
/// ```
/// assert_eq!(lobbyd::net::certificate_warning(&lobbyd::Config::default()), None);
/// ```
pub fn certificate_warning(config: &Config) -> Option<String> {
    tls::check_files(config).ok().flatten()
}

#[cfg(unix)]
fn check_socket_file(path: &Path) -> io::Result<()> {
    super::socket_file::check(path)
}

/// Socket files are refused by the rules of the configuration.
#[cfg(not(unix))]
fn check_socket_file(_: &Path) -> io::Result<()> {
    Ok(())
}
