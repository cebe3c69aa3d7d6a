//! Tables with typed keys.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use slab::Slab;

/// Key of an [`Arena`].
pub(crate) trait Key: Copy {
    fn new(index: usize) -> Self;
    fn index(self) -> usize;
}

/// A slab whose keys have a type of their own, so that a key of one table cannot be used in another.
///
/// Keys start again at 0 when the table becomes empty. A replay can begin at a point where the server is empty;
/// therefore keys, and orders that follow from them, must not depend on earlier events.
#[derive(Debug)]
pub(crate) struct Arena<K, T> {
    entries: Slab<T>,
    key: PhantomData<K>,
}

impl<K, T> Default for Arena<K, T> {
    fn default() -> Arena<K, T> {
        Arena { entries: Slab::new(), key: PhantomData }
    }
}

impl<K: Key, T> Arena<K, T> {
    pub(crate) fn insert(&mut self, entry: T) -> K {
        K::new(self.entries.insert(entry))
    }

    /// The key that the next [`insert`](Self::insert) will return.
    pub(crate) fn vacant_key(&self) -> K {
        K::new(self.entries.vacant_key())
    }

    /// Removes an entry.
    ///
    /// # Panics
    ///
    /// If there is no entry under `key`.
    pub(crate) fn remove(&mut self, key: K) -> T {
        let removed = self.entries.remove(key.index());
        if self.entries.is_empty() {
            // Resets the slab's list of free keys.
            self.entries.clear();
        }
        removed
    }

    #[inline]
    pub(crate) fn get(&self, key: K) -> Option<&T> {
        self.entries.get(key.index())
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.entries.get_mut(key.index())
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.entries.contains(key.index())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All keys have an index below this number.
    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// All entries, ordered by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.entries.iter().map(|(index, entry)| (K::new(index), entry))
    }
}

impl<K: Key, T> Index<K> for Arena<K, T> {
    type Output = T;

    #[inline]
    fn index(&self, key: K) -> &T {
        &self.entries[key.index()]
    }
}

impl<K: Key, T> IndexMut<K> for Arena<K, T> {
    #[inline]
    fn index_mut(&mut self, key: K) -> &mut T {
        &mut self.entries[key.index()]
    }
}

/// Entries beside those of an [`Arena`], for few of its keys. It has no memory until the first entry.
#[derive(Debug)]
pub(crate) struct SideTable<K, T> {
    entries: Vec<Option<T>>,
    key: PhantomData<K>,
}

impl<K, T> Default for SideTable<K, T> {
    fn default() -> SideTable<K, T> {
        SideTable { entries: Vec::new(), key: PhantomData }
    }
}

impl<K: Key, T> SideTable<K, T> {
    /// Sets the entry of a key.
    pub(crate) fn insert(&mut self, key: K, entry: T) {
        if key.index() >= self.entries.len() {
            self.entries.resize_with(key.index() + 1, || None);
        }
        self.entries[key.index()] = Some(entry);
    }

    /// Removes the entry of a key, if there is one.
    pub(crate) fn remove(&mut self, key: K) {
        if let Some(entry) = self.entries.get_mut(key.index()) {
            *entry = None;
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: K) -> Option<&T> {
        self.entries.get(key.index())?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.entries.get_mut(key.index())?.as_mut()
    }

    /// Whether there has never been an entry.
    pub(crate) fn is_untouched(&self) -> bool {
        self.entries.is_empty()
    }

    /// The keys that have an entry.
    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.is_some()).map(|(index, _)| K::new(index))
    }
}
