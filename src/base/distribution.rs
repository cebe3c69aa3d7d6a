//! How often measured values fell into fixed ranges, for monitoring: the histogram of Prometheus.

/// Upper bounds of the ranges of durations, in microseconds: from 10 µs to 10 s, three for each power of ten.
const DURATIONS: &[u64] = &[
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];
/// Upper bounds of the ranges of sizes, in bytes: powers of two from 256 bytes to 16 MiB.
const SIZES: &[u64] = &[
    1 << 8,
    1 << 9,
    1 << 10,
    1 << 11,
    1 << 12,
    1 << 13,
    1 << 14,
    1 << 15,
    1 << 16,
    1 << 17,
    1 << 18,
    1 << 19,
    1 << 20,
    1 << 21,
    1 << 22,
    1 << 23,
    1 << 24,
];
/// Most ranges that a distribution has, with the one above the largest bound.
const MAX_RANGES: usize = 20;

static MICROS: Scale = Scale::new(Unit::Micros, DURATIONS);
static BYTES: Scale = Scale::new(Unit::Bytes, SIZES);

/// Unit of the values of a [`Distribution`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Micros,
    Bytes,
}

/// The ranges of a distribution. Each bound is at least twice the one before.
#[derive(Debug, PartialEq, Eq)]
struct Scale {
    unit: Unit,
    bounds: &'static [u64],
    /// By the number of bits of a value: the first range in which such a value may be.
    first: [u8; 65],
}

impl Scale {
    const fn new(unit: Unit, bounds: &'static [u64]) -> Scale {
        let (mut first, mut bits) = ([0; 65], 1);
        while bits <= 64 {
            // Values of this many bits are at least 2^(bits - 1).
            let mut range = first[bits - 1];
            while (range as usize) < bounds.len() && bounds[range as usize] < 1 << (bits - 1) {
                range += 1;
            }
            first[bits] = range;
            bits += 1;
        }
        Scale { unit, bounds, first }
    }

    /// The range of a value. At most one bound has as many bits as the value, so one comparison is enough.
    fn range(&self, value: u64) -> usize {
        let range = usize::from(self.first[(u64::BITS - value.leading_zeros()) as usize]);
        range + usize::from(self.bounds.get(range).is_some_and(|&bound| bound < value))
    }
}

/// A histogram with fixed ranges: the number of values in each, and the sum of all values.
///
/// Durations are counted in ranges from 10 µs to 10 s, sizes in ranges from 256 bytes to 16 MiB. Each range includes its
/// upper bound; the last one has none.
///
/// ```
/// use lobbyd::stats::Distribution;
///
/// let mut durations = Distribution::of_durations();
/// durations.record(20);
/// durations.record(30);
/// assert_eq!((durations.count(), durations.sum()), (2, 50));
/// let ranges: Vec<(Option<u64>, u64)> = durations.cumulative().collect();
/// assert_eq!(ranges[..3], [(Some(10), 0), (Some(25), 1), (Some(50), 2)]);
/// assert_eq!(ranges.last(), Some(&(None, 2)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distribution {
    scale: &'static Scale,
    /// By index of the upper bound; the last one used has none. The others are 0.
    counts: [u64; MAX_RANGES],
    sum: u64,
}

impl Distribution {
    /// Creates an empty distribution of durations, in microseconds.
    pub const fn of_durations() -> Distribution {
        Distribution { scale: &MICROS, counts: [0; MAX_RANGES], sum: 0 }
    }

    /// Creates an empty distribution of sizes, in bytes.
    pub const fn of_sizes() -> Distribution {
        Distribution { scale: &BYTES, counts: [0; MAX_RANGES], sum: 0 }
    }

    /// Counts a value, in microseconds or bytes.
    pub fn record(&mut self, value: u64) {
        self.counts[self.scale.range(value)] += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// Returns the number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of all values, in microseconds or bytes.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Returns each upper bound in increasing order with the number of values up to it, and at last `None` with the
    /// number of all values.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = self.scale.bounds.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }

    pub(crate) fn unit(&self) -> Unit {
        self.scale.unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_their_upper_bound() {
        for empty in [Distribution::of_durations(), Distribution::of_sizes()] {
            let bounds = empty.scale.bounds;
            assert!(bounds.windows(2).all(|pair| pair[0] * 2 <= pair[1]) && bounds.len() < MAX_RANGES);
            assert_eq!((empty.count(), empty.sum()), (0, 0));
            for (index, &bound) in bounds.iter().enumerate() {
                let mut distribution = empty;
                [bound, bound + 1].into_iter().for_each(|value| distribution.record(value));
                let up_to: Vec<u64> = distribution.cumulative().map(|(_, count)| count).collect();
                assert_eq!(up_to[index], 1, "{bound}");
                assert_eq!(up_to[index + 1..], vec![2; up_to.len() - index - 1], "{bound}");
            }
        }
    }

    #[test]
    fn the_range_of_a_value_is_the_first_that_includes_it() {
        let near = |exponent: u32| [(1_u64 << exponent) - 1, 1 << exponent, (1 << exponent) + 1];
        let bounds = DURATIONS.iter().chain(SIZES).flat_map(|&bound| [bound - 1, bound, bound + 1]);
        for value in (0..64).flat_map(near).chain(bounds).chain([u64::MAX]) {
            for scale in [&MICROS, &BYTES] {
                assert_eq!(scale.range(value), scale.bounds.partition_point(|&bound| bound < value), "{value}");
            }
        }
    }

    #[test]
    fn the_largest_values_are_counted_and_the_sum_does_not_overflow() {
        let mut distribution = Distribution::of_durations();
        [0, u64::MAX, u64::MAX].into_iter().for_each(|value| distribution.record(value));
        let last: Vec<_> = distribution.cumulative().skip(DURATIONS.len() - 1).collect();
        assert_eq!(last, [(Some(10_000_000), 1), (None, 3)]);
        assert_eq!((distribution.count(), distribution.sum()), (3, u64::MAX));
    }
}
