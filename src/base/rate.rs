//! Rate limits: rates, token buckets, and the buckets remembered for disconnected users and addresses.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use crate::base::time::Time;

/// A rate: a count per period, and a burst.
///
/// ```
/// use lobbyd::admission::Rate;
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
    /// Nanoseconds in which an empty bucket fills completely; `None` if nothing is ever allowed.
    fill_time: Option<u64>,
}

impl Rate {
    /// 60 per minute, burst 10.
    pub const FREE: Rate = Rate::new(60, Duration::from_secs(60), 10);
    /// 600 per minute, burst 100.
    pub const PRO: Rate = Rate::new(600, Duration::from_secs(60), 100);
    /// 6000 per minute, burst 1000.
    pub const ENTERPRISE: Rate = Rate::new(6000, Duration::from_secs(60), 1000);

    /// Returns the rate of a tier: `free`, `pro` or `enterprise`.
    ///
    /// ```
    /// use lobbyd::admission::Rate;
    ///
    /// assert_eq!(Rate::of_tier("pro"), Some(Rate::PRO));
    /// assert_eq!(Rate::of_tier("gold"), None);
    /// ```
    pub fn of_tier(name: &str) -> Option<Rate> {
        match name {
            "free" => Some(Rate::FREE),
            "pro" => Some(Rate::PRO),
            "enterprise" => Some(Rate::ENTERPRISE),
            _ => None,
        }
    }

    /// Creates a rate of `count` per `period` in the long run, and up to `burst` at once after a pause.
    ///
    /// With a `count` or `burst` of 0 nothing is ever allowed. A `period` beyond `u64::MAX` nanoseconds is cut to that.
    pub const fn new(count: u32, period: Duration, burst: u32) -> Rate {
        // u64::MAX nanoseconds are more than five centuries.
        let nanos = period.as_nanos();
        let period = if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 };
        let rate = Rate { count, burst, period, fill_time: None };
        Rate { fill_time: rate.span_of(burst), ..rate }
    }

    /// Returns the count per period.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Returns the period.
    pub const fn period(self) -> Duration {
        Duration::from_nanos(self.period)
    }

    /// Returns the burst: the capacity of the bucket.
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// Returns the nanoseconds in which `amount` tokens are refilled; `None` if nothing is ever allowed.
    ///
    /// Divides once for the whole amount. At high rates such as bytes per second, a rounded interval per token would be
    /// wrong by some percent.
    const fn span_of(self, amount: u32) -> Option<u64> {
        if self.count == 0 || self.burst == 0 {
            return None;
        }
        // A 128-bit division is slow and rarely needed.
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

/// The bucket has too few tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    /// Time until the bucket has enough tokens. [`Duration::MAX`] if it never will: the amount is larger than the
    /// burst, or the rate allows nothing.
    pub(crate) retry_after: Duration,
}

/// A token bucket, implemented as the generic cell rate algorithm (ITU-T I.371): one number replaces the level and a
/// timestamp.
///
/// A new bucket is full. A denied request takes no tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Time at which the bucket is full again, in nanoseconds since the start.
    full_at: u64,
}

impl Bucket {
    /// Takes `amount` tokens.
    ///
    /// # Errors
    ///
    /// [`Denied`] with the time to wait, if the bucket has fewer tokens. No tokens are taken then.
    pub(crate) fn take(&mut self, now: Time, amount: u32, rate: Rate) -> Result<(), Denied> {
        self.full_at = self.full_at_after(now, amount, rate)?;
        Ok(())
    }

    /// Returns the time at which the bucket is full again if `amount` is taken now, in nanoseconds since the start.
    #[inline]
    fn full_at_after(&self, now: Time, amount: u32, rate: Rate) -> Result<u64, Denied> {
        let never = Denied { retry_after: Duration::MAX };
        let (Some(cost), Some(fill_time)) = (rate.span_of(amount), rate.fill_time) else { return Err(never) };
        if amount > rate.burst {
            return Err(never);
        }
        let now = nanos(now);
        let full_at = self.full_at.max(now).saturating_add(cost);
        let allowed_at = full_at.saturating_sub(fill_time);
        if allowed_at > now {
            // Rounded up to the engine's microseconds, so that a retry after this wait is not denied.
            return Err(Denied { retry_after: Duration::from_micros((allowed_at - now).div_ceil(1000)) });
        }
        Ok(full_at)
    }

    /// Takes `amount` tokens, or the burst if that is smaller. A bucket without a rate is skipped.
    ///
    /// # Errors
    ///
    /// [`Denied`] if the bucket has not enough tokens. None are taken then.
    #[inline]
    pub(crate) fn take_up_to(&mut self, now: Time, amount: u32, rate: Option<Rate>) -> Result<(), Denied> {
        rate.map_or(Ok(()), |rate| self.take(now, amount.min(rate.burst), rate))
    }

    /// Takes `amount` tokens from all buckets or from none: if one bucket denies, the others keep their tokens. From a
    /// bucket whose burst is smaller than `amount`, takes the burst. A bucket without a rate is skipped.
    ///
    /// # Errors
    ///
    /// [`Denied`] with the longest wait of all buckets.
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
            match bucket.full_at_after(now, amount.min(rate.burst), *rate) {
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

    /// Lowers the level to that of `other`, if that is lower.
    pub(crate) fn lower_to(&mut self, other: Bucket) {
        self.full_at = self.full_at.max(other.full_at);
    }

    /// Returns the number of tokens in the bucket.
    pub(crate) fn remaining(&self, now: Time, rate: Rate) -> u32 {
        if rate.count == 0 || rate.period == 0 {
            return if rate.count == 0 { 0 } else { rate.burst };
        }
        let missing = u128::from(self.full_at.saturating_sub(nanos(now)));
        let missing = (missing * u128::from(rate.count)).div_ceil(u128::from(rate.period));
        rate.burst.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// Returns the whole state of the bucket, for a journal.
    pub(crate) fn full_at_nanos(self) -> u64 {
        self.full_at
    }

    /// Restores a bucket from [`full_at_nanos`](Self::full_at_nanos).
    pub(crate) fn from_full_at_nanos(full_at: u64) -> Bucket {
        Bucket { full_at }
    }

    /// Returns the time at which the bucket is full.
    pub(crate) fn full_at(&self) -> Time {
        Time::from_micros(self.full_at.div_ceil(1000))
    }

    /// Returns the time until the bucket is full.
    pub(crate) fn full_after(&self, now: Time) -> Duration {
        Duration::from_nanos(self.full_at.saturating_sub(nanos(now)))
    }
}

/// Buckets of disconnected users or addresses, so that a reconnect does not refill them.
///
/// An entry is removed when its buckets are full, since it then equals a new one. The number of entries is bounded;
/// beyond the bound, the entry whose buckets are full first is removed, because it has the fewest missing tokens. To
/// evict its own entry, a client would have to add as many other entries that have used up more.
#[derive(Debug)]
pub(crate) struct Remembered<K, V> {
    bound: usize,
    /// Entries with their keys in `order`.
    entries: HashMap<K, (OrderKey, V)>,
    order: BTreeMap<OrderKey, K>,
    /// Number of entries added so far.
    sequence: u64,
}

/// The time at which the buckets of an entry are full, and a sequence number that makes the key unique.
type OrderKey = (Time, u64);

impl<K: Hash + Eq + Clone, V> Remembered<K, V> {
    pub(crate) fn new(bound: u32) -> Remembered<K, V> {
        Remembered { bound: bound as usize, entries: HashMap::new(), order: BTreeMap::new(), sequence: 0 }
    }

    /// Adds or replaces the entry of `key`, which lasts until `full_at`.
    pub(crate) fn put(&mut self, now: Time, key: K, value: V, full_at: Time) {
        self.remove_full(now);
        if full_at <= now {
            return;
        }
        self.sequence += 1;
        let order_key = (full_at, self.sequence);
        self.order.insert(order_key, key.clone());
        // take() removes the entry of a returning user, so only a forged journal adds a key twice.
        if let Some((previous, _)) = self.entries.insert(key, (order_key, value)) {
            self.order.remove(&previous);
        }
        if self.order.len() > self.bound {
            self.remove_first();
        }
    }

    /// Returns the entries whose buckets are not full at `now`, ordered by the time at which they are full.
    pub(crate) fn entries(&self, now: Time) -> impl Iterator<Item = (&K, &V)> {
        let unfull = self.order.iter().filter(move |&(&(full_at, _), _)| full_at > now);
        unfull.map(|(_, key)| (key, &self.entries[key].1))
    }

    /// Returns the entry of `key`.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Removes and returns the entry of `key`.
    pub(crate) fn take(&mut self, key: &K) -> Option<V> {
        let (order_key, value) = self.entries.remove(key)?;
        self.order.remove(&order_key);
        Some(value)
    }

    /// Removes the entries whose buckets are full at `now`.
    fn remove_full(&mut self, now: Time) {
        while self.order.first_key_value().is_some_and(|(&(full_at, _), _)| full_at <= now) {
            self.remove_first();
        }
    }

    /// Removes the entry that is full first.
    fn remove_first(&mut self) {
        let (_, key) = self.order.pop_first().expect("the callers have checked that there is an entry");
        self.entries.remove(&key);
    }
}

fn nanos(time: Time) -> u64 {
    time.as_micros().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Continuous requests during one minute are granted the burst plus the rate, to within one percent.
    #[test]
    fn continuous_requests_get_burst_and_rate() {
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

    /// Includes rates at which a token takes less than one nanosecond, or a fractional number of nanoseconds.
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

    /// Even with new keys all the time, no entry outlives the refill of its buckets, and their number stays bounded.
    #[test]
    fn remembered_entries_are_removed_when_full_and_bounded_in_number() {
        let seconds = |n| Time::ZERO + Duration::from_secs(n);
        let mut remembered = Remembered::new(10);
        (0..1000u64).for_each(|n| remembered.put(seconds(n), n, (), seconds(n + 2)));
        assert_eq!((remembered.entries.len(), remembered.order.len()), (2, 2));
        remembered.put(seconds(1000), 1000, (), seconds(1000));
        assert_eq!(remembered.take(&1000), None, "a full bucket is not remembered");
        assert_eq!((remembered.entries.len(), remembered.order.len()), (1, 1));
        // Entries that have used up less are removed.
        (2000..2100).for_each(|n| remembered.put(seconds(1000), n, (), seconds(n)));
        (0..1000).for_each(|n| remembered.put(seconds(1000), 10_000 + n, (), seconds(1001)));
        assert_eq!((remembered.entries.len(), remembered.order.len()), (10, 10));
        assert!((2090..2100).all(|n| remembered.take(&n).is_some()));
        assert_eq!((remembered.entries.len(), remembered.order.len()), (0, 0));
    }

    #[test]
    fn denied_requests_take_no_tokens_and_retry_after_is_exact() {
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
    fn more_than_the_burst_and_a_zero_rate_are_always_denied() {
        let never = Err(Denied { retry_after: Duration::MAX });
        assert_eq!(Bucket::default().take(Time::ZERO, 6, Rate::new(3, Duration::from_secs(1), 5)), never);
        assert_eq!(Bucket::default().take(Time::ZERO, 1, Rate::new(0, Duration::from_secs(1), 5)), never);
    }
}
