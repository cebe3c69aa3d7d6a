//! Options of an application for its connections.

use std::fmt;
use std::sync::Arc;

use crate::client::options::Options;

/// Options of a [`Lobby`](crate::client::Lobby), which has an example.
#[derive(Clone, Default)]
pub struct LobbyOptions {
    /// Token by which the server identifies the user.
    pub token: LobbyToken,
    /// The certificates that are trusted for `wss://`, in PEM; `None`: those that the system trusts.
    pub certificates: Option<Vec<u8>>,
    /// Options of the session.
    pub session: Options,
}

/// Without the token, and without the name of the session.
impl fmt::Debug for LobbyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LobbyOptions").field("session", &self.session).finish_non_exhaustive()
    }
}

/// The token of a user: none, always the same one, or one that is fetched for each attempt.
///
/// ```
/// use lobbyd::client::LobbyToken;
///
/// let fixed = LobbyToken::from("ann");
/// let fetched = LobbyToken::fetched(|| std::fs::read_to_string("token.txt").ok());
/// # let _ = (fixed, fetched);
/// ```
#[derive(Clone, Default)]
pub struct LobbyToken(Source);

type Fetch = dyn Fn() -> Option<String> + Send + Sync;

#[derive(Clone, Default)]
enum Source {
    #[default]
    None,
    Fixed(String),
    Fetched(Arc<Fetch>),
}

impl LobbyToken {
    /// Calls `fetch` for each attempt, in a thread that ends with the call, so that it may take its time: the attempt is
    /// given up after 15 s, and the next one waits for the call. With `None` the attempt fails, and another one follows.
    pub fn fetched(fetch: impl Fn() -> Option<String> + Send + Sync + 'static) -> LobbyToken {
        LobbyToken(Source::Fetched(Arc::new(fetch)))
    }

    pub(super) fn may_block(&self) -> bool {
        matches!(self.0, Source::Fetched(_))
    }

    /// Returns the token, if the user has one.
    ///
    /// # Errors
    ///
    /// It could not be fetched.
    pub(super) fn get(&self) -> Result<Option<String>, NoToken> {
        match &self.0 {
            Source::None => Ok(None),
            Source::Fixed(token) => Ok(Some(token.clone())),
            Source::Fetched(fetch) => fetch().map(Some).ok_or(NoToken),
        }
    }
}

/// The application has no token for this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoToken;

impl From<&str> for LobbyToken {
    fn from(token: &str) -> LobbyToken {
        LobbyToken::from(token.to_owned())
    }
}

impl From<String> for LobbyToken {
    fn from(token: String) -> LobbyToken {
        LobbyToken(Source::Fixed(token))
    }
}

/// Without the token.
impl fmt::Debug for LobbyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LobbyToken")
    }
}
