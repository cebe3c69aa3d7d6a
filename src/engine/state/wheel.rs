//! A hashed timer wheel (Varghese and Lauck, 1987, scheme 6): one timer per key, O(1) to arm and to expire.
//!
//! Time is divided into granules. The wheel has a slot for each granule of one revolution. A timer that is more than a
//! revolution away stays in its slot for several revolutions. A slot is a doubly linked list, threaded through one
//! array that is indexed by key. So a timer needs no allocation, and a key has at most one timer by construction.
//!
//! Knows keys and times, and nothing of connections.

use std::time::Duration;

use crate::base::time::Time;

/// Slots of one revolution: 20.48 s at the default granule, so that the usual deadlines are within one revolution.
const SLOTS: usize = 2048;
const NONE: u32 = u32::MAX;

/// Timers by key: a key has one timer or none.
///
/// A timer never fires early, and at most one granule late. Timers that expire in one call fire in the order of their
/// deadlines' granules, and within one granule in the order in which they were armed.
#[derive(Debug)]
pub(crate) struct TimerWheel {
    granule: u64,
    /// The last granule that has expired.
    granule_now: u64,
    slots: Box<[WheelSlot]>,
    /// A bit for each slot that holds a timer.
    occupied: [u64; SLOTS / 64],
    timers: Vec<Timer>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct WheelSlot {
    head: u32,
    tail: u32,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// The granule in which it fires; `u64::MAX` when it is not armed.
    granule: u64,
    prev: u32,
    next: u32,
}

const UNARMED: Timer = Timer { granule: u64::MAX, prev: NONE, next: NONE };

impl TimerWheel {
    /// A wheel without timers, at [`Time::ZERO`].
    ///
    /// # Panics
    ///
    /// If `granule` is shorter than a microsecond.
    pub(crate) fn new(granule: Duration) -> TimerWheel {
        let granule = granule.as_micros() as u64;
        assert!(granule > 0, "a granule is at least a microsecond");
        TimerWheel {
            granule,
            granule_now: 0,
            slots: vec![WheelSlot { head: NONE, tail: NONE }; SLOTS].into(),
            occupied: [0; SLOTS / 64],
            timers: Vec::new(),
            len: 0,
        }
    }

    /// Sets the timer of `key` to `deadline`, in place of its previous deadline. A deadline in the past fires at the
    /// next granule.
    ///
    /// [`Time::NEVER`] disarms the timer, as [`disarm`](Self::disarm) does.
    pub(crate) fn arm(&mut self, key: usize, deadline: Time) {
        if key >= self.timers.len() {
            self.timers.resize(key + 1, UNARMED);
        }
        // Rounded up, so that the timer does not fire early.
        let granule = deadline.as_micros().div_ceil(self.granule).max(self.granule_now + 1);
        if self.timers[key].granule == granule {
            return;
        }
        self.disarm(key);
        if deadline == Time::NEVER {
            return;
        }
        let slot = slot_of(granule);
        let tail = self.slots[slot].tail;
        self.timers[key] = Timer { granule, prev: tail, next: NONE };
        match tail {
            NONE => self.slots[slot].head = key as u32,
            tail => self.timers[tail as usize].next = key as u32,
        }
        self.slots[slot].tail = key as u32;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.len += 1;
    }

    /// Removes the timer of `key`, if it has one.
    pub(crate) fn disarm(&mut self, key: usize) {
        let Some(&Timer { granule, prev, next }) = self.timers.get(key) else { return };
        if granule == u64::MAX {
            return;
        }
        let slot = slot_of(granule);
        match prev {
            NONE => self.slots[slot].head = next,
            prev => self.timers[prev as usize].next = next,
        }
        match next {
            NONE => self.slots[slot].tail = prev,
            next => self.timers[next as usize].prev = prev,
        }
        if self.slots[slot].head == NONE {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.timers[key] = UNARMED;
        self.len -= 1;
    }

    /// Advances the wheel to `now`, removes the timers that fire, and appends their keys to `due` in the order of
    /// firing.
    pub(crate) fn expire(&mut self, now: Time, due: &mut Vec<usize>) {
        let granule_now = now.as_micros() / self.granule;
        while self.granule_now < granule_now {
            // Skips empty slots in one step, and visits at most one revolution after a long sleep.
            match self.next_occupied() {
                Some(granule) if granule <= granule_now => self.expire_slot(granule, due),
                _ => self.granule_now = granule_now,
            }
        }
    }

    fn expire_slot(&mut self, granule: u64, due: &mut Vec<usize>) {
        self.granule_now = granule;
        let mut next = self.slots[slot_of(granule)].head;
        while next != NONE {
            let key = next as usize;
            next = self.timers[key].next;
            // Other timers in the slot fire in a later revolution.
            if self.timers[key].granule <= granule {
                self.disarm(key);
                due.push(key);
            }
        }
    }

    /// Time at which to call [`expire`](Self::expire) next; `None` if no timer is armed.
    ///
    /// A timer that is more than a revolution away also yields a time once per revolution, at which it does not fire.
    pub(crate) fn next(&self) -> Option<Time> {
        self.next_occupied().map(|granule| Time::from_micros(granule.saturating_mul(self.granule)))
    }

    /// The next granule whose slot holds a timer.
    fn next_occupied(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let first = self.granule_now + 1;
        let (word, bit) = (slot_of(first) / 64, slot_of(first) % 64);
        // The first word is examined twice: first from the bit on, and at the end for the bits before it.
        let mut bits = self.occupied[word] & (!0 << bit);
        for step in 0..=self.occupied.len() {
            if bits != 0 {
                let slot = (word + step) % self.occupied.len() * 64 + bits.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - slot_of(first)) % SLOTS;
                return Some(first + ahead as u64);
            }
            bits = self.occupied[(word + step + 1) % self.occupied.len()];
        }
        unreachable!("a timer is armed, so a bit is set")
    }

    /// The last granule that has expired.
    pub(crate) fn position(&self) -> u64 {
        self.granule_now
    }

    /// Moves an empty wheel to a [`position`](Self::position), but not beyond `now`.
    pub(crate) fn set_position(&mut self, position: u64, now: Time) {
        debug_assert!(self.is_empty());
        self.granule_now = position.min(now.as_micros() / self.granule);
    }

    /// Number of armed timers.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is armed.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `key` has a timer.
    pub(crate) fn is_armed(&self, key: usize) -> bool {
        self.timers.get(key).is_some_and(|timer| timer.granule != u64::MAX)
    }

    /// Whether the timer of `key` fires no later than a timer armed now for `deadline` would.
    pub(crate) fn fires_by(&self, key: usize, deadline: Time) -> bool {
        let granule = deadline.as_micros().div_ceil(self.granule).max(self.granule_now + 1);
        self.timers.get(key).is_some_and(|timer| timer.granule <= granule)
    }

    /// Asserts that the lists, the occupancy bits and the counts agree.
    pub(crate) fn check(&self) {
        assert_eq!(self.timers.iter().filter(|timer| timer.granule != u64::MAX).count(), self.len);
        // This count misses timers in a slot whose bit is not set, so the comparison below finds them.
        let mut seen = 0;
        for (word, &bits) in self.occupied.iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                seen += self.check_slot(word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
        assert_eq!(seen, self.len, "every timer is in a slot whose bit is set");
    }

    /// Checks one slot. Returns the number of timers in it.
    fn check_slot(&self, index: usize) -> usize {
        let (mut prev, mut next, mut seen) = (NONE, self.slots[index].head, 0);
        assert_ne!(next, NONE, "slot {index} is empty, but its bit is set");
        while next != NONE {
            let timer = self.timers[next as usize];
            assert_eq!(slot_of(timer.granule), index, "a timer is in the slot of its granule");
            assert!(timer.granule > self.granule_now, "a timer fires in a later granule");
            assert_eq!(timer.prev, prev);
            (prev, next) = (next, timer.next);
            seen += 1;
        }
        assert_eq!(self.slots[index].tail, prev);
        seen
    }
}

fn slot_of(granule: u64) -> usize {
    granule as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use std::collections::BTreeMap;

    #[test]
    fn a_timer_fires_at_the_end_of_its_granule() {
        let mut wheel = TimerWheel::new(Duration::from_millis(10));
        wheel.arm(7, Time::from_micros(25_000));
        assert_eq!(wheel.next(), Some(Time::from_micros(30_000)));
        let mut due = Vec::new();
        wheel.expire(Time::from_micros(29_999), &mut due);
        assert!(due.is_empty() && wheel.is_armed(7));
        wheel.expire(Time::from_micros(30_000), &mut due);
        assert_eq!((due, wheel.is_empty()), (vec![7], true));
    }

    /// Compares the wheel with a sorted map, over times from microseconds to many revolutions.
    #[test]
    fn fires_like_a_sorted_map() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let granule = 1 + random.below(20_000);
            let mut wheel = TimerWheel::new(Duration::from_micros(granule));
            let mut model: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
            let (mut now, mut order) = (0u64, 0u64);
            for _ in 0..400 {
                let key = random.below(40) as usize;
                match random.below(10) {
                    0 => {
                        wheel.disarm(key);
                        model.remove(&key);
                    }
                    1..=6 => {
                        let far = if random.percent(20) { 9000 } else { 40 };
                        let span = granule * random.below(far);
                        let deadline = now + random.below(span + 1);
                        wheel.arm(key, Time::from_micros(deadline));
                        let due = deadline.div_ceil(granule).max(now / granule + 1);
                        order += 1;
                        if model.get(&key).is_none_or(|&(at, _)| at != due) {
                            model.insert(key, (due, order));
                        }
                    }
                    _ => {
                        let far = if random.percent(20) { 5000 } else { 30 };
                        let span = granule * random.below(far);
                        now += random.below(span + 1);
                        let mut due = Vec::new();
                        wheel.expire(Time::from_micros(now), &mut due);
                        let mut expected: Vec<_> =
                            model.iter().filter(|(_, at)| at.0 <= now / granule).map(|(&key, &at)| (at, key)).collect();
                        expected.sort_unstable();
                        assert_eq!(due, expected.iter().map(|&(_, key)| key).collect::<Vec<_>>(), "seed {seed}");
                        model.retain(|_, at| at.0 > now / granule);
                    }
                }
                wheel.check();
                assert_eq!(wheel.len(), model.len());
                let earliest = model.values().map(|at| at.0 * granule).min();
                match (wheel.next(), earliest) {
                    (None, None) => {}
                    (Some(next), Some(earliest)) => {
                        assert!(next.as_micros() > now && next.as_micros() <= earliest, "seed {seed}");
                    }
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
        }
    }
}
