//! Sorted lists of lobbies and members, and those whose name contains a text, for operators. A page is found without sorting the
//! whole list.

use super::Engine;
use super::app::App;
use super::core::Core;
use super::operator::{LobbyView, Order, Page, SeatView, SortLobbies, SortMembers};
use crate::base::id::{LobbyKey, SeatKey};

/// Most entries of a list that is sorted, so that the time for a page is bounded.
const MAX_SORTED: usize = 20_000;

impl<A: App> Engine<A> {
    /// At most `limit` lobbies whose code or name contains `text`, in an order, without the first `skip` ones; `next` is the
    /// `skip` of the next page. Lobbies with equal values are in a fixed order.
    ///
    /// `None` if there are more than 20,000 lobbies, or if there were more than 100,000: sorting them would take too long for one
    /// turn.
    ///
    /// Values change while pages are requested, so a lobby may be on two of them, or on none.
    pub fn sorted_lobbies(
        &self,
        text: &str,
        order: Order<SortLobbies>,
        skip: u64,
        limit: usize,
    ) -> Option<Page<LobbyView>> {
        let directory = &self.core.directory;
        let value = |key: LobbyKey| {
            let lobby = directory.lobby_ref(key);
            match order.by {
                SortLobbies::Members => lobby.seats_count() as u64,
                SortLobbies::Away => directory.away_members(key) as u64,
                SortLobbies::Seq => lobby.seq,
                // Younger lobbies have higher epochs.
                SortLobbies::Age => u64::MAX - lobby.epoch,
            }
        };
        let keys = directory.lobbies_with(text, MAX_SORTED)?;
        let ranked = keys.into_iter().map(|key| (order.rank(Some(value(key))), key)).collect();
        Some(page(ranked, skip, limit, |key| self.core.lobby_view(key)))
    }

    /// At most `limit` members and watchers of a lobby whose user id contains `text`, in the order of joining. Upper and lower case
    /// of ASCII letters are the same.
    ///
    /// `None` if the lobby has more than 20,000: comparing them would take too long for one turn.
    pub fn lobby_members_with(
        &self,
        code: &str,
        text: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Option<Page<SeatView>> {
        let seats = self.core.seats_with(code, text)?;
        Some(self.core.seats_page(&seats, |&seat| seat, after, limit))
    }

    /// The same in another order, without the first `skip` ones; `next` is the `skip` of the next page. Members without a value come
    /// last: in a cluster, those of other nodes.
    pub fn sorted_members(
        &self,
        code: &str,
        text: &str,
        order: Order<SortMembers>,
        skip: u64,
        limit: usize,
    ) -> Option<Page<SeatView>> {
        let directory = &self.core.directory;
        let seats = self.core.seats_with(code, text)?;
        let value = |seat: SeatKey| match order.by {
            SortMembers::Queued => self.core.seat_queued_bytes(seat).map(|bytes| bytes as u64),
            SortMembers::Idle => self.core.seat_idle(seat).map(|idle| idle.as_micros() as u64),
        };
        let ranked = seats.into_iter().map(|seat| (order.rank(value(seat)), (directory.seat(seat).id, seat))).collect();
        Some(page(ranked, skip, limit, |(_, seat)| self.core.seat_view(seat)))
    }
}

impl Core {
    /// The members and watchers of a lobby whose user id contains `text`. `None` if it has too many.
    fn seats_with(&self, code: &str, text: &str) -> Option<Vec<SeatKey>> {
        let directory = &self.directory;
        let Some(lobby) = directory.find_lobby(code) else { return Some(Vec::new()) };
        let seats: Vec<SeatKey> = directory.all_seats_in(lobby).take(MAX_SORTED + 1).collect();
        (seats.len() <= MAX_SORTED)
            .then(|| seats.into_iter().filter(|&seat| directory.has_in_user_id(seat, text)).collect())
    }
}

impl<B> Order<B> {
    /// Returns a number by which entries are sorted. The largest number is that of an entry without a value.
    fn rank(&self, value: Option<u64>) -> u64 {
        match value.map(|value| value.min(u64::MAX - 1)) {
            None => u64::MAX,
            Some(value) if self.is_descending => u64::MAX - 1 - value,
            Some(value) => value,
        }
    }
}

/// Returns a page of the entries, sorted. Only this page is sorted, so the whole costs little more than looking at all entries.
fn page<K: Copy + Ord, T>(mut ranked: Vec<(u64, K)>, skip: u64, limit: usize, view: impl Fn(K) -> T) -> Page<T> {
    let begin = usize::try_from(skip).unwrap_or(usize::MAX).min(ranked.len());
    let end = begin.saturating_add(limit.max(1)).min(ranked.len());
    if begin < ranked.len() {
        ranked.select_nth_unstable(begin);
    }
    if end < ranked.len() {
        ranked[begin..].select_nth_unstable(end - begin);
    }
    ranked[begin..end].sort_unstable();
    Page {
        items: ranked[begin..end].iter().map(|&(_, key)| view(key)).collect(),
        next: (end < ranked.len()).then_some(end as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_together_are_the_sorted_list() {
        let mut random = crate::base::random::Random::new(1);
        for count in [0, 1, 7, 100, 1000] {
            let entries: Vec<(u64, u64)> = (0..count).map(|key| (random.below(50), key)).collect();
            let mut sorted = entries.clone();
            sorted.sort_unstable();
            for limit in [1, 7, 1000] {
                let (mut found, mut next) = (Vec::new(), Some(0));
                while let Some(skip) = next {
                    let page = page(entries.clone(), skip, limit, |key| key);
                    found.extend(page.items);
                    next = page.next;
                }
                assert!(found.iter().eq(sorted.iter().map(|(_, key)| key)), "{count} entries, {limit} a page");
            }
        }
        let beyond = page(vec![(1, 1)], u64::MAX, 10, |key| key);
        assert_eq!((beyond.items, beyond.next), (Vec::new(), None));
    }

    #[test]
    fn an_entry_without_a_value_is_last_in_both_orders() {
        for is_descending in [false, true] {
            let order = Order { by: (), is_descending };
            let ranks = [0, 1, 2, u64::MAX].map(|value| order.rank(Some(value)));
            assert!(ranks.iter().all(|&rank| rank < order.rank(None)));
            let is_sorted =
                if is_descending { ranks.is_sorted_by(|a, b| a > b) } else { ranks.is_sorted_by(|a, b| a < b) };
            assert!(is_sorted, "{ranks:?}");
        }
    }
}
