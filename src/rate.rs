//! How often something may happen: rates, and the buckets that hold peers to them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use crate::time::Time;

/// So many in so much time, and a burst at once.
///
/// ```
/// use lobbyd::Rate;
/// use std::time::Duration;
///
/// let rate = Rate::new(60, Duration::from_secs(1), 120);
/// assert_eq!(rate.to_string(), "60/1s burst 120");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    burst: u32,
    /// In nanoseconds.
    period: u64,
    /// Nanoseconds in which a whole burst may happen; `None` when nothing is ever allowed.
    whole: Option<u64>,
}

impl Rate {
    /// 60 a minute, 10 at once.
    pub const FREE: Rate = Rate::new(60, Duration::from_secs(60), 10);
    /// 600 a minute, 100 at once.
    pub const PRO: Rate = Rate::new(600, Duration::from_secs(60), 100);
    /// 6000 a minute, 1000 at once.
    pub const ENTERPRISE: Rate = Rate::new(6000, Duration::from_secs(60), 1000);

    /// `count` in each `period` in the long run, and up to `burst` at once after a pause.
    ///
    /// With a `count` or `burst` of 0 nothing is ever allowed.
    pub const fn new(count: u32, period: Duration, burst: u32) -> Rate {
        // Longer than five centuries is for ever.
        let nanos = period.as_nanos();
        let period = if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 };
        let rate = Rate { count, burst, period, whole: None };
        Rate { whole: rate.span_of(burst), ..rate }
    }

    /// How many in each period.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The period.
    pub const fn period(self) -> Duration {
        Duration::from_nanos(self.period)
    }

    /// How many at once.
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// Nanoseconds in which `amount` may happen; `None` when nothing is ever allowed.
    ///
    /// Divided once for the whole amount: of a rate of bytes, a rounded interval between two would be percents off.
    const fn span_of(self, amount: u32) -> Option<u64> {
        if self.count == 0 || self.burst == 0 {
            return None;
        }
        // Wide divisions are slow, and hardly ever needed.
        if let Some(product) = self.period.checked_mul(amount as u64) {
            return Some(product / self.count as u64);
        }
        let span = self.period as u128 * amount as u128 / self.count as u128;
        Some(if span > u64::MAX as u128 { u64::MAX } else { span as u64 })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?} burst {}", self.count, self.period(), self.burst)
    }
}

/// Why something may not happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// How long to wait until it may. [`Duration::MAX`]: for ever, it is more than the burst.
    pub retry_after: Duration,
}

/// A token bucket, in the form of the generic cell rate algorithm (ITU-T I.371): one number instead of a level and a time.
///
/// It is full at first. Whatever is denied costs nothing.
///
/// ```
/// use lobbyd::{Bucket, Rate, Time};
/// use std::time::Duration;
///
/// let rate = Rate::new(2, Duration::from_secs(1), 3);
/// let mut bucket = Bucket::default();
/// for _ in 0..3 {
///     assert!(bucket.take(Time::ZERO, 1, rate).is_ok(), "a burst of three");
/// }
/// let denied = bucket.take(Time::ZERO, 1, rate).unwrap_err();
/// assert_eq!(denied.retry_after, Duration::from_millis(500));
/// assert!(bucket.take(Time::ZERO + denied.retry_after, 1, rate).is_ok());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When the bucket is full again, in nanoseconds since the start.
    full_at: u64,
}

impl Bucket {
    /// Takes `amount` out of the bucket, or says how long to wait until that is possible.
    ///
    /// # Errors
    ///
    /// [`Denied`]; nothing was taken.
    pub fn take(&mut self, now: Time, amount: u32, rate: Rate) -> Result<(), Denied> {
        self.full_at = self.after(now, amount, rate)?;
        Ok(())
    }

    /// When the bucket would be full again if `amount` was taken.
    #[inline]
    fn after(&self, now: Time, amount: u32, rate: Rate) -> Result<u64, Denied> {
        let for_ever = Denied { retry_after: Duration::MAX };
        let (Some(cost), Some(whole)) = (rate.span_of(amount), rate.whole) else { return Err(for_ever) };
        if amount > rate.burst {
            return Err(for_ever);
        }
        let now = nanos(now);
        let full_at = self.full_at.max(now).saturating_add(cost);
        let allowed_at = full_at.saturating_sub(whole);
        if allowed_at > now {
            // Rounded up to the engine's microseconds: whoever waits that long is not denied again.
            return Err(Denied { retry_after: Duration::from_micros((allowed_at - now).div_ceil(1000)) });
        }
        Ok(full_at)
    }

    /// Takes the same amount out of all buckets or out of none, so that what one of them denies costs nothing in another.
    /// Never more than a bucket can hold. Without a rate there is no bucket.
    pub(crate) fn take_from_all<const N: usize>(
        now: Time,
        amount: u32,
        buckets: [(&mut Bucket, Option<Rate>); N],
    ) -> Result<(), Denied> {
        let mut longest = None;
        let mut full_at = [0; N];
        for ((bucket, rate), full_at) in buckets.iter().zip(&mut full_at) {
            *full_at = bucket.full_at;
            let Some(rate) = rate else { continue };
            match bucket.after(now, amount.min(rate.burst), *rate) {
                Ok(after) => *full_at = after,
                Err(denied) => longest = longest.max(Some(denied.retry_after)),
            }
        }
        match longest {
            Some(retry_after) => Err(Denied { retry_after }),
            None => {
                buckets.into_iter().zip(full_at).for_each(|((bucket, _), full_at)| bucket.full_at = full_at);
                Ok(())
            }
        }
    }

    /// Makes it no fuller than `other`.
    pub(crate) fn lower_to(&mut self, other: Bucket) {
        self.full_at = self.full_at.max(other.full_at);
    }

    /// How many could be taken now.
    pub fn remaining(&self, now: Time, rate: Rate) -> u32 {
        if rate.count == 0 || rate.period == 0 {
            return if rate.count == 0 { 0 } else { rate.burst };
        }
        let missing = u128::from(self.full_at.saturating_sub(nanos(now)));
        let missing = (missing * u128::from(rate.count)).div_ceil(u128::from(rate.period));
        rate.burst.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// All there is to it, for a journal.
    pub(crate) fn full_at_nanos(self) -> u64 {
        self.full_at
    }

    /// The bucket of which [`full_at_nanos`](Self::full_at_nanos) gave that.
    pub(crate) fn from_full_at_nanos(full_at: u64) -> Bucket {
        Bucket { full_at }
    }

    /// When the bucket is full.
    pub(crate) fn full_at(&self) -> Time {
        Time::from_micros(self.full_at.div_ceil(1000))
    }

    /// How long until the bucket is full.
    pub fn full_after(&self, now: Time) -> Duration {
        Duration::from_nanos(self.full_at.saturating_sub(nanos(now)))
    }
}

/// What users or addresses that are gone had used up, so that coming back does not fill their buckets.
///
/// An entry lasts until its buckets are full, since from then on it says nothing. Their number is bounded: beyond it the one
/// whose buckets are full first is forgotten, as it loses the least. So whoever wants its own entry forgotten has to bring in
/// as many others that have used up more.
#[derive(Debug)]
pub(crate) struct Remembered<K, V> {
    bound: usize,
    /// Each with its place in the order.
    entries: HashMap<K, (Place, V)>,
    order: BTreeMap<Place, K>,
    ever: u64,
}

/// When the buckets of an entry are full, and its number.
type Place = (Time, u64);

impl<K: Hash + Eq + Clone, V> Remembered<K, V> {
    pub(crate) fn new(bound: u32) -> Remembered<K, V> {
        Remembered { bound: bound as usize, entries: HashMap::new(), order: BTreeMap::new(), ever: 0 }
    }

    /// Remembers somebody until `full_at`, in place of what was remembered of it.
    pub(crate) fn put(&mut self, now: Time, key: K, value: V, full_at: Time) {
        self.forget_full(now);
        if full_at <= now {
            return;
        }
        self.ever += 1;
        let place = (full_at, self.ever);
        self.order.insert(place, key.clone());
        // A returning user's entry is taken out, so only a forged journal remembers a user twice.
        if let Some((before, _)) = self.entries.insert(key, (place, value)) {
            self.order.remove(&before);
        }
        if self.order.len() > self.bound {
            self.forget_first();
        }
    }

    /// All entries that still say something at `now`, the one that is full first at the front.
    pub(crate) fn entries(&self, now: Time) -> impl Iterator<Item = (&K, &V)> {
        let unfull = self.order.iter().filter(move |&(&(full_at, _), _)| full_at > now);
        unfull.map(|(_, key)| (key, &self.entries[key].1))
    }

    pub(crate) fn take(&mut self, key: &K) -> Option<V> {
        let (place, value) = self.entries.remove(key)?;
        self.order.remove(&place);
        Some(value)
    }

    fn forget_full(&mut self, now: Time) {
        while self.order.first_key_value().is_some_and(|(&(full_at, _), _)| full_at <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let (_, key) = self.order.pop_first().expect("there is one");
        self.entries.remove(&key);
    }
}

fn nanos(time: Time) -> u64 {
    time.as_micros().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever asks all the time gets the burst and then the rate, to within one percent over a minute.
    #[test]
    fn a_minute_of_asking_yields_burst_and_rate() {
        for (count, period, burst) in
            [(60, 1, 120), (60, 60, 10), (600, 60, 100), (6000, 60, 1000), (65_536, 1, 131_072)]
        {
            let rate = Rate::new(count, Duration::from_secs(period), burst);
            let mut bucket = Bucket::default();
            let (mut now, mut allowed) = (Time::ZERO, 0u64);
            let end = Time::ZERO + Duration::from_secs(60);
            while now <= end {
                match bucket.take(now, 1, rate) {
                    Ok(()) => allowed += 1,
                    Err(denied) => now = now + denied.retry_after,
                }
            }
            let expected = u64::from(burst) + u64::from(count) * 60 / period;
            assert!(allowed.abs_diff(expected) * 100 <= expected, "{rate}: {allowed} instead of {expected}");
        }
    }

    /// Also where there is less than a nanosecond, or not a whole number of them, for each.
    #[test]
    fn high_rates_are_as_exact_as_low_ones() {
        for count in [15_000_000, 67_108_864, 300_000_000, 4_000_000_000] {
            let rate = Rate::new(count, Duration::from_secs(1), 100_000);
            let mut bucket = Bucket::default();
            let (mut now, mut allowed) = (Time::ZERO, 0u64);
            assert!(bucket.take(now, 100_000, rate).is_ok());
            while now < Time::ZERO + Duration::from_millis(100) {
                match bucket.take(now, 1400, rate) {
                    Ok(()) => allowed += 1400,
                    Err(denied) => now = now + denied.retry_after,
                }
            }
            let expected = u64::from(count) / 10;
            assert!(allowed.abs_diff(expected) * 100 <= expected, "{rate}: {allowed}");
        }
    }

    /// Also with ever new names nothing is kept longer than it means something, and no more than the bound.
    #[test]
    fn what_is_remembered_is_forgotten_when_it_is_made_up() {
        let seconds = |n| Time::ZERO + Duration::from_secs(n);
        let mut remembered = Remembered::new(10);
        (0..1000u64).for_each(|n| remembered.put(seconds(n), n, (), seconds(n + 2)));
        assert_eq!((remembered.entries.len(), remembered.order.len()), (2, 2));
        remembered.put(seconds(1000), 1000, (), seconds(1000));
        assert_eq!(remembered.take(&1000), None, "a full bucket is as good as none");
        assert_eq!((remembered.entries.len(), remembered.order.len()), (1, 1));
        // Those that have used up less give way.
        (2000..2100).for_each(|n| remembered.put(seconds(1000), n, (), seconds(n)));
        (0..1000).for_each(|n| remembered.put(seconds(1000), 10_000 + n, (), seconds(1001)));
        assert_eq!((remembered.entries.len(), remembered.order.len()), (10, 10));
        assert!((2090..2100).all(|n| remembered.take(&n).is_some()));
        assert_eq!((remembered.entries.len(), remembered.order.len()), (0, 0));
    }

    #[test]
    fn what_is_denied_costs_nothing_and_may_happen_when_promised() {
        let rate = Rate::new(3, Duration::from_secs(1), 5);
        let mut bucket = Bucket::default();
        assert!(bucket.take(Time::ZERO, 4, rate).is_ok());
        assert_eq!(bucket.remaining(Time::ZERO, rate), 1);
        let denied = bucket.take(Time::ZERO, 2, rate).expect_err("one is left");
        for _ in 0..100 {
            assert_eq!(bucket.take(Time::ZERO, 2, rate), Err(denied));
        }
        let early = Time::from_micros(denied.retry_after.as_micros() as u64 - 1);
        assert!(bucket.take(early, 2, rate).is_err());
        assert!(bucket.take(Time::ZERO + denied.retry_after, 2, rate).is_ok());
    }

    #[test]
    fn more_than_the_burst_and_a_rate_of_nothing_are_denied_for_ever() {
        let for_ever = Err(Denied { retry_after: Duration::MAX });
        assert_eq!(Bucket::default().take(Time::ZERO, 6, Rate::new(3, Duration::from_secs(1), 5)), for_ever);
        assert_eq!(Bucket::default().take(Time::ZERO, 1, Rate::new(0, Duration::from_secs(1), 5)), for_ever);
    }
}
