//! Connections that follow the list of lobbies, in groups with the same filter, and what each group was told. Plain data: it
//! does not know lobbies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use smol_str::SmolStr;

use crate::base::arena::Arena;
use crate::base::id::{AddressKey, ConnKey, ListKey};
use crate::base::limit::Limit;
use crate::base::list_query::ListFilter;
use crate::base::time::Time;

/// Shortest time between two updates of a group.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// A lobby that a group was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) epoch: u64,
    /// Number of the change of the list with which the lobby became what the group was told.
    pub(crate) change: u64,
    pub(crate) code: SmolStr,
}

/// The connections with one filter.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) filter: ListFilter,
    /// The first lobbies of the list, as all of them but the stale ones were told. Ordered by epoch.
    pub(crate) window: Vec<Shown>,
    /// Number of changes of the list at that time.
    pub(crate) seen: u64,
    /// When the group may be updated again.
    next: Time,
    /// Whether each of them is stale: it has to be sent the whole window.
    watchers: BTreeMap<ConnKey, bool>,
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    groups: Arena<ListKey, Group>,
    by_filter: BTreeMap<ListFilter, ListKey>,
    /// All groups, by the time at which they may be updated. Every update moves a group to the end, so the first one was
    /// told of the fewest changes, apart from groups of which all connections are stale.
    due: BTreeSet<(Time, ListKey)>,
    /// Number of connections from each address.
    of_addresses: BTreeMap<AddressKey, usize>,
    len: usize,
    stale: usize,
    /// When updates go on that took too much work for one turn.
    paused_until: Time,
}

impl Lists {
    /// Number of connections.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn group(&self, list: ListKey) -> &Group {
        &self.groups[list]
    }

    pub(crate) fn group_mut(&mut self, list: ListKey) -> &mut Group {
        &mut self.groups[list]
    }

    /// Whether an address may have one more connection here.
    pub(crate) fn has_room_for(&self, address: AddressKey, max_per_ip: Limit) -> bool {
        max_per_ip.has_room(self.of_addresses.get(&address).copied().unwrap_or(0))
    }

    /// Adds a connection, which is stale until it was sent the whole window. Returns its group, and whether that is new.
    pub(crate) fn join(
        &mut self,
        filter: ListFilter,
        conn: ConnKey,
        address: AddressKey,
        now: Time,
    ) -> (ListKey, bool) {
        *self.of_addresses.entry(address).or_default() += 1;
        (self.len, self.stale) = (self.len + 1, self.stale + 1);
        let known = self.by_filter.get(&filter).copied();
        let list = known.unwrap_or_else(|| {
            let next = now + PERIOD;
            let watchers = BTreeMap::new();
            let group = Group { filter: filter.clone(), window: Vec::new(), seen: 0, next, watchers };
            let list = self.groups.insert(group);
            self.by_filter.insert(filter, list);
            self.due.insert((next, list));
            list
        });
        self.groups[list].watchers.insert(conn, true);
        (list, known.is_none())
    }

    /// Removes a connection, and its group if it was the last one.
    pub(crate) fn leave(&mut self, list: ListKey, conn: ConnKey, address: Option<AddressKey>) {
        let group = &mut self.groups[list];
        let is_stale = group.watchers.remove(&conn).expect("the connection is in its group");
        (self.len, self.stale) = (self.len - 1, self.stale - usize::from(is_stale));
        if group.watchers.is_empty() {
            let Group { filter, next, .. } = self.groups.remove(list);
            self.by_filter.remove(&filter);
            self.due.remove(&(next, list));
        }
        if self.len == 0 {
            self.paused_until = Time::ZERO;
        }
        let address = address.expect("its address is known");
        let count = self.of_addresses.get_mut(&address).expect("its address is counted");
        *count -= 1;
        if *count == 0 {
            self.of_addresses.remove(&address);
        }
    }

    /// The connections of a group, and whether each is stale.
    pub(crate) fn watchers(&self, list: ListKey) -> impl Iterator<Item = (ConnKey, bool)> {
        self.groups[list].watchers.iter().map(|(&conn, &is_stale)| (conn, is_stale))
    }

    /// Sets whether a connection has to be sent the whole window.
    pub(crate) fn set_stale(&mut self, list: ListKey, conn: ConnKey, is_stale: bool) {
        let watchers = &mut self.groups[list].watchers;
        let was_stale = std::mem::replace(watchers.get_mut(&conn).expect("the connection is in its group"), is_stale);
        self.stale = self.stale + usize::from(is_stale) - usize::from(was_stale);
    }

    /// Returns when the next group is to be updated. `changes` is the number of changes of the list so far.
    pub(crate) fn next(&self, changes: u64) -> Option<Time> {
        let &(next, first) = self.due.first()?;
        let has_news = self.stale > 0 || self.groups[first].seen != changes;
        has_news.then(|| next.max(self.paused_until))
    }

    /// Returns the next group to update by `now`. It may be updated again after [`PERIOD`].
    pub(crate) fn take_due(&mut self, changes: u64, now: Time) -> Option<ListKey> {
        while self.next(changes).is_some_and(|next| next <= now) {
            let (_, list) = self.due.pop_first()?;
            let group = &mut self.groups[list];
            group.next = now + PERIOD;
            self.due.insert((group.next, list));
            if group.seen != changes || group.watchers.values().any(|&is_stale| is_stale) {
                return Some(list);
            }
        }
        None
    }

    /// Updates no further group until then.
    pub(crate) fn pause_until(&mut self, time: Time) {
        self.paused_until = time;
    }

    /// Asserts the invariants. `list_of` returns the group of a connection.
    pub(crate) fn check(&self, changes: u64, list_of: impl Fn(ConnKey) -> Option<ListKey>) {
        let (mut len, mut stale) = (0, 0);
        for (list, group) in self.groups.iter() {
            assert_eq!(self.by_filter.get(&group.filter), Some(&list), "a group is found under its filter");
            assert!(self.due.contains(&(group.next, list)), "every group has its time");
            assert!(!group.watchers.is_empty() && group.seen <= changes, "a group without connections is removed");
            assert!(
                group.watchers.keys().all(|&conn| list_of(conn) == Some(list)),
                "connections belong to their group"
            );
            assert!(group.window.is_sorted_by_key(|shown| shown.epoch));
            len += group.watchers.len();
            stale += group.watchers.values().filter(|&&is_stale| is_stale).count();
        }
        assert_eq!((len, stale, self.of_addresses.values().sum()), (self.len, self.stale, self.len), "all are counted");
        assert_eq!((self.by_filter.len(), self.due.len()), (self.groups.len(), self.groups.len()));
        if let Some(&(_, first)) = self.due.first().filter(|_| self.stale == 0) {
            let seen = self.groups[first].seen;
            assert!(self.groups.iter().all(|(_, group)| group.seen >= seen), "the first group has seen the least");
        }
    }
}
