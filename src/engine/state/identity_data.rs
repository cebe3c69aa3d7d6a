//! The data of members' identities, by connection.

use std::sync::Arc;

use crate::base::arena::SideTable;
use crate::base::id::ConnKey;

/// The data of members' identities. Apart from the connections, so that those without data pay nothing for it.
#[derive(Debug, Default)]
pub(crate) struct IdentityData(SideTable<ConnKey, Arc<[u8]>>);

impl IdentityData {
    /// Returns the data of a connection.
    #[inline]
    pub(crate) fn of(&self, key: ConnKey) -> Option<Arc<[u8]>> {
        self.0.get(key).cloned()
    }

    /// Sets or removes the data of a connection.
    pub(crate) fn set(&mut self, key: ConnKey, data: Option<Arc<[u8]>>) {
        match data {
            Some(data) => self.0.insert(key, data),
            None => self.0.remove(key),
        }
    }

    /// Returns the keys of the connections that have data.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ConnKey> {
        self.0.keys()
    }
}
