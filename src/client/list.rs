//! The list of lobbies that can be joined: followed on a connection, or asked for once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::LobbyError;
use super::fields::Fields;
use super::ordered::Ordered;

/// Memory of an entry, without its texts.
const ENTRY: usize = 256;

/// A lobby that can be joined. The
/// [module](crate::client#the-list-of-lobbies) has an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListedLobby {
    /// Code of the lobby.
    pub code: String,
    /// The name for people, if it has one.
    #[serde(default)]
    pub name: Option<String>,
    /// At most four.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Number of members.
    #[serde(default)]
    pub members: u64,
    /// Greatest number of members; `None`: it has no bound.
    #[serde(default)]
    pub max: Option<u64>,
    /// Whether it asks for a password.
    #[serde(default)]
    pub has_password: bool,
}

impl ListedLobby {
    fn weight(&self) -> usize {
        let tags = self.tags.iter().map(|(name, value)| ENTRY + name.len() + value.len());
        ENTRY + self.code.len() + self.name.as_ref().map_or(0, String::len) + tags.sum::<usize>()
    }
}

/// A part of the list: the answer to a request for [`find_address`](crate::client::find_address). The
/// [module](crate::client#the-list-of-lobbies) has an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// At most 100, the oldest first.
    pub lobbies: Vec<ListedLobby>,
    /// Position of the next part of the list; `None`: this is its end.
    pub next: Option<String>,
}

/// The list as it is followed.
#[derive(Debug, Default)]
pub(super) struct Lobbies {
    entries: Ordered<ListedLobby>,
    has_more: bool,
    weight: usize,
}

impl Lobbies {
    pub(super) fn entries(&self) -> impl Iterator<Item = &ListedLobby> {
        self.entries.values()
    }

    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Applies a `lobbies`, which replaces the list, or a `lobbies_diff`. A code that is gone and set is a new lobby.
    pub(super) fn apply(&mut self, message: &Fields<'_>) {
        let whole: Option<Vec<ListedLobby>> = message.list("lobbies");
        if whole.is_some() {
            self.entries = Ordered::default();
            self.weight = 0;
        }
        for code in message.list::<String>("gone").unwrap_or_default() {
            self.weight -= self.entries.remove(&code).map_or(0, |gone| gone.weight());
        }
        for lobby in whole.or_else(|| message.list("set")).unwrap_or_default() {
            self.weight += lobby.weight();
            let key = lobby.code.as_str().into();
            self.weight -= self.entries.insert(&key, lobby).map_or(0, |before| before.weight());
        }
        self.has_more = message.flag("more").unwrap_or(self.has_more);
    }
}

/// Reads the answer to a request for [`find_address`](crate::client::find_address). The
/// [module](crate::client#the-list-of-lobbies) has an example.
///
/// # Errors
///
/// `rate_limited` for the status 429, `no_control` for 404: the server has lobby control off. `unavailable` for any other status
/// but 200, and for a body that is no list.
pub fn read_found(status: u16, body: &str) -> Result<Found, LobbyError> {
    let code = match status {
        404 => "no_control",
        429 => "rate_limited",
        _ => "unavailable",
    };
    let found = (status == 200).then(|| serde_json::from_str(body).ok()).flatten();
    found.ok_or_else(|| LobbyError::with(code, "status", status))
}
