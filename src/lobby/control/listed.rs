//! The list of lobbies: those that are listed and can be joined, with all that others read of them.
//!
//! It is updated with every change, so it is always exact. Lobbies are ordered by their epoch, so the oldest comes first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::Bound::{Excluded, Unbounded};

use smol_str::SmolStr;

use crate::base::list_query::ListFilter;

/// A lobby as the list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedLobby {
    pub(crate) code: SmolStr,
    pub(crate) name: Option<SmolStr>,
    /// Ordered by key.
    pub(crate) tags: Vec<(SmolStr, SmolStr)>,
    /// Number of members, present and away.
    pub(crate) members: usize,
    /// Most members; `None` without a bound.
    pub(crate) max: Option<u32>,
    pub(crate) has_password: bool,
    /// The pool that created it.
    pub(super) pool: Option<SmolStr>,
}

impl ListedLobby {
    #[cfg(test)]
    pub(crate) fn for_test(code: &str, tags: Vec<(SmolStr, SmolStr)>) -> ListedLobby {
        let name = Some(code.into());
        ListedLobby { code: code.into(), name, tags, members: 1, max: None, has_password: false, pool: None }
    }

    fn matches(&self, filter: &ListFilter) -> bool {
        (filter.pool.is_none() || self.pool == filter.pool) && filter.tags.iter().all(|tag| self.tags.contains(tag))
    }
}

/// An entry of the list, and the number of the change with which it became what it is.
#[derive(Debug)]
struct Row {
    lobby: ListedLobby,
    change: u64,
}

/// All listed lobbies that can be joined, by their epochs.
#[derive(Debug, Default)]
pub(crate) struct ListedLobbies {
    rows: BTreeMap<u64, Row>,
    by_pool: HashMap<SmolStr, BTreeSet<u64>>,
    by_tag: HashMap<(SmolStr, SmolStr), BTreeSet<u64>>,
    /// Number of changes of the list so far.
    changes: u64,
}

/// A part of the list.
#[derive(Debug)]
pub(crate) struct ListPart<'a> {
    /// Matching lobbies, oldest first, each with its epoch and the number of its last change.
    pub(crate) lobbies: Vec<(u64, u64, &'a ListedLobby)>,
    /// The epoch after which to continue, if there may be more.
    pub(crate) next: Option<u64>,
    /// Number of lobbies that were looked at.
    pub(crate) looked_at: usize,
}

impl ListedLobbies {
    /// Number of changes of the list so far.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns at most `limit` lobbies that match a filter and were created after the epoch `after`. Looks at no more than
    /// `max_looked_at` lobbies: those with one of the tags, or of the pool.
    pub(crate) fn part(&self, filter: &ListFilter, after: u64, limit: usize, max_looked_at: usize) -> ListPart<'_> {
        let mut part = ListPart { lobbies: Vec::new(), next: None, looked_at: 0 };
        let empty = BTreeSet::new();
        let of_pool = filter.pool.iter().map(|pool| self.by_pool.get(pool).unwrap_or(&empty));
        let of_tags = filter.tags.iter().map(|tag| self.by_tag.get(tag).unwrap_or(&empty));
        let epochs: &mut dyn Iterator<Item = u64> = match of_pool.chain(of_tags).min_by_key(|epochs| epochs.len()) {
            None => &mut self.rows.range((Excluded(after), Unbounded)).map(|(&epoch, _)| epoch),
            Some(epochs) => &mut epochs.range((Excluded(after), Unbounded)).copied(),
        };
        let mut last = after;
        for epoch in epochs {
            if part.looked_at == max_looked_at {
                part.next = Some(last);
                break;
            }
            part.looked_at += 1;
            let Row { lobby, change } = &self.rows[&epoch];
            if lobby.matches(filter) {
                if part.lobbies.len() == limit {
                    part.next = Some(last);
                    break;
                }
                part.lobbies.push((epoch, *change, lobby));
            }
            last = epoch;
        }
        part
    }

    /// Sets what the list shows of the lobby with this epoch; `None`: it is not in the list.
    pub(super) fn set(&mut self, epoch: u64, lobby: Option<ListedLobby>) {
        if self.rows.get(&epoch).map(|row| &row.lobby) == lobby.as_ref() {
            return;
        }
        self.changes += 1;
        let before = self.rows.remove(&epoch).map(|row| row.lobby);
        let indexes = |lobby: &Option<ListedLobby>| {
            lobby.as_ref().map_or_else(Default::default, |lobby| (lobby.pool.clone(), lobby.tags.clone()))
        };
        let (old, new) = (indexes(&before), indexes(&lobby));
        if before.is_none() || lobby.is_none() || old != new {
            old.0.into_iter().for_each(|pool| remove(&mut self.by_pool, pool, epoch));
            old.1.into_iter().for_each(|tag| remove(&mut self.by_tag, tag, epoch));
            new.0.into_iter().for_each(|pool| add(&mut self.by_pool, pool, epoch));
            new.1.into_iter().for_each(|tag| add(&mut self.by_tag, tag, epoch));
        }
        if let Some(lobby) = lobby {
            self.rows.insert(epoch, Row { lobby, change: self.changes });
        }
    }

    /// Removes all lobbies. The number of changes goes on.
    pub(super) fn clear(&mut self) {
        let epochs: Vec<u64> = self.rows.keys().copied().collect();
        epochs.into_iter().for_each(|epoch| self.remove(epoch));
    }

    /// Removes a lobby that no longer exists.
    pub(super) fn remove(&mut self, epoch: u64) {
        self.set(epoch, None);
    }

    /// Asserts that the list is the one that these lobbies make up.
    pub(super) fn check(&self, expected: impl Iterator<Item = (u64, ListedLobby)>) {
        let mut all = ListedLobbies::default();
        expected.for_each(|(epoch, lobby)| all.set(epoch, Some(lobby)));
        assert!(
            self.rows
                .iter()
                .map(|(epoch, row)| (epoch, &row.lobby))
                .eq(all.rows.iter().map(|(epoch, row)| (epoch, &row.lobby))),
            "the list of lobbies is exact"
        );
        assert_eq!((&self.by_pool, &self.by_tag), (&all.by_pool, &all.by_tag), "the list is indexed");
        assert!(self.rows.values().all(|row| row.change <= self.changes));
    }
}

fn add<K: Hash + Eq>(index: &mut HashMap<K, BTreeSet<u64>>, key: K, epoch: u64) {
    index.entry(key).or_default().insert(epoch);
}

fn remove<K: Hash + Eq>(index: &mut HashMap<K, BTreeSet<u64>>, key: K, epoch: u64) {
    let epochs = index.get_mut(&key).expect("the lobby is in the index");
    epochs.remove(&epoch);
    if epochs.is_empty() {
        index.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    fn lobby(random: &mut Random) -> ListedLobby {
        let mut tags: Vec<(SmolStr, SmolStr)> = Vec::new();
        for key in ["game", "map", "mode"] {
            if random.below(2) == 0 {
                tags.push((key.into(), ["a", "b"][random.below(2) as usize].into()));
            }
        }
        ListedLobby {
            code: format!("c{}", random.below(100)).into(),
            name: (random.below(2) == 0).then(|| "name".into()),
            tags,
            members: random.below(3) as usize,
            max: None,
            has_password: random.below(2) == 0,
            pool: [None, Some("p".into()), Some("q".into())][random.below(3) as usize].clone(),
        }
    }

    fn filter(random: &mut Random) -> ListFilter {
        let some = lobby(random);
        ListFilter { pool: some.pool, tags: some.tags.into_iter().take(random.below(3) as usize).collect() }
    }

    /// The list has a copy of all lobbies in a `BTreeMap`, and every part is compared with a scan of all of them.
    #[test]
    fn a_part_of_the_list_is_what_a_scan_finds() {
        let mut random = Random::new(3);
        let (mut listed, mut all) = (ListedLobbies::default(), BTreeMap::new());
        for step in 0..3000 {
            let epoch = 1 + random.below(60);
            let changes = listed.changes();
            let new = (random.below(3) > 0).then(|| lobby(&mut random));
            listed.set(epoch, new.clone());
            let old = match new.clone() {
                Some(new) => all.insert(epoch, new),
                None => all.remove(&epoch),
            };
            assert_eq!(listed.changes() - changes, u64::from(old != new), "only a change counts");
            if step % 100 == 0 {
                listed.check(all.clone().into_iter());
            }
            let (filter, after, limit) = (filter(&mut random), random.below(60), random.below(20) as usize);
            let part = listed.part(&filter, after, limit, usize::MAX);
            let found: Vec<_> = all.iter().filter(|&(&epoch, lobby)| epoch > after && lobby.matches(&filter)).collect();
            let shown = part.lobbies.iter().map(|&(epoch, _, lobby)| (epoch, lobby));
            assert!(shown.eq(found.iter().take(limit).map(|&(&epoch, lobby)| (epoch, lobby))), "{filter:?}");
            assert_eq!(part.next.is_some(), found.len() > limit);
        }
    }

    /// A bound on the lobbies looked at makes the parts shorter, and loses none.
    #[test]
    fn bounded_parts_make_up_the_whole_list() {
        let mut random = Random::new(4);
        let mut listed = ListedLobbies::default();
        (1..200).for_each(|epoch| listed.set(epoch, Some(lobby(&mut random))));
        for _ in 0..50 {
            let filter = filter(&mut random);
            let (mut found, mut next) = (Vec::new(), Some(0));
            while let Some(after) = next {
                let part = listed.part(&filter, after, 3, 10);
                assert!(part.looked_at <= 10 && part.lobbies.len() <= 3);
                found.extend(part.lobbies.iter().map(|&(epoch, ..)| epoch));
                assert!(part.next.is_none_or(|next| next > after), "it goes on");
                next = part.next;
            }
            let whole = listed.part(&filter, 0, usize::MAX, usize::MAX);
            assert!(whole.lobbies.iter().map(|&(epoch, ..)| epoch).eq(found), "{filter:?}");
        }
    }
}
