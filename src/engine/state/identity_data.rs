//! The data of members' identities, by connection.

use std::sync::Arc;

use crate::base::arena::Key;
use crate::base::id::ConnKey;

/// The data of members' identities. Apart from the connections, so that those without data pay nothing for it.
#[derive(Debug, Default)]
pub(crate) struct IdentityData {
    /// By the index of the connection. Empty until a first member has data.
    of_conns: Vec<Option<Arc<[u8]>>>,
}

impl IdentityData {
    /// Returns the data of a connection.
    #[inline]
    pub(crate) fn of(&self, key: ConnKey) -> Option<Arc<[u8]>> {
        self.of_conns.get(key.index()).cloned().flatten()
    }

    /// Sets or removes the data of a connection.
    pub(crate) fn set(&mut self, key: ConnKey, data: Option<Arc<[u8]>>) {
        match self.of_conns.get_mut(key.index()) {
            Some(entry) => *entry = data,
            None if data.is_some() => {
                self.of_conns.resize(key.index() + 1, None);
                self.of_conns[key.index()] = data;
            }
            None => {}
        }
    }

    /// Returns the keys of the connections that have data.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ConnKey> {
        let with_data = self.of_conns.iter().enumerate().filter(|(_, data)| data.is_some());
        with_data.map(|(index, _)| ConnKey::new(index))
    }
}
