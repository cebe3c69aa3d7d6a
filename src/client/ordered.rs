//! A map that keeps the order in which its keys were inserted.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries by key. A key that is inserted again keeps its place.
#[derive(Debug)]
pub(super) struct Ordered<T> {
    places: BTreeMap<Arc<str>, u64>,
    entries: BTreeMap<u64, T>,
    next_place: u64,
}

impl<T> Default for Ordered<T> {
    fn default() -> Ordered<T> {
        Ordered { places: BTreeMap::new(), entries: BTreeMap::new(), next_place: 0 }
    }
}

impl<T> Ordered<T> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        self.entries.get(self.places.get(key)?)
    }

    /// Returns the entry that was there before.
    pub(super) fn insert(&mut self, key: &Arc<str>, entry: T) -> Option<T> {
        let place = match self.places.get(key) {
            Some(&place) => place,
            None => {
                self.next_place += 1;
                self.places.insert(key.clone(), self.next_place);
                self.next_place
            }
        };
        self.entries.insert(place, entry)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<T> {
        let place = self.places.remove(key)?;
        self.entries.remove(&place)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.values()
    }
}
