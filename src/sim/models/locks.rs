//! Model of the locked lobbies: nobody joins one.
//!
//! Fed with the operators' answered commands and with lobbies that become empty.

/// The locked lobbies.
#[derive(Debug)]
pub(crate) struct LockModel {
    /// Codes of the locked lobbies.
    locked: Vec<Box<str>>,
    /// Whether a seat may be reserved before its connection joins. Such a seat may be joined after a lock.
    may_reserve: bool,
    /// Whether a lobby was ever locked or closed.
    was_used: bool,
}

impl LockModel {
    pub(crate) fn new(may_reserve: bool) -> LockModel {
        LockModel { locked: Vec::new(), may_reserve, was_used: false }
    }

    /// An operator's command to lock, unlock or close a lobby was carried out.
    pub(crate) fn commanded(&mut self) {
        self.was_used = true;
    }

    /// The engine reported whether `lobby` is locked.
    pub(crate) fn set(&mut self, lobby: &str, is_locked: bool) {
        self.lobby_removed(lobby);
        if is_locked {
            self.locked.push(lobby.into());
        }
    }

    /// The lobby became empty and was removed, together with its lock.
    pub(crate) fn lobby_removed(&mut self, lobby: &str) {
        self.locked.retain(|code| **code != *lobby);
    }

    /// Whether a connection may join `lobby`.
    pub(crate) fn allows_join(&self, lobby: &str) -> bool {
        self.may_reserve || self.locked.iter().all(|code| **code != *lobby)
    }

    /// Whether a connection may have ended because its lobby was locked.
    pub(crate) fn allows_refusal(&self) -> bool {
        self.was_used
    }
}
