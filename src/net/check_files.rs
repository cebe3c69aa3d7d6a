//! Checks the files that a server would use, without starting one.

use super::error::Error;
use super::journal_files;
use super::operators::read_token;
use crate::config::Config;

/// Checks the files that [`Server::bind`](super::Server::bind) would use: the operators' token is readable and valid, and
/// the segments of the journal can be created. Changes nothing, and listens on no address.
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
/// All problems at once: [`Error::Token`] and [`Error::Journal`], with the text that a start would report.
pub fn check_files(config: &Config) -> Vec<Error> {
    let token = config.admin_token_file.as_deref().filter(|_| config.admin.is_some());
    let token = token.and_then(|path| read_token(path).err());
    let journal = config.journal.as_ref().and_then(|path| {
        let error = journal_files::check(path).err()?;
        Some(Error::Journal(path.clone(), error))
    });
    token.into_iter().chain(journal).collect()
}
