//! A histogram of durations: log-linear buckets in a fixed array.

/// Buckets per power of two, all of the same width: a bucket's bound is at most 1/16 above any value in it.
const PER_OCTAVE: usize = 16;
/// Each value below 2^`LINEAR_BITS`, which is 16, has a bucket of its own.
const LINEAR_BITS: u32 = PER_OCTAVE.ilog2();
/// Values up to 2^36 microseconds, about 19 hours, are distinguished. Larger values go into the last bucket.
const MAX_BITS: u32 = 36;
const BUCKETS: usize = (MAX_BITS - LINEAR_BITS + 1) as usize * PER_OCTAVE;

/// Counts whole numbers by their highest bit and the four bits below it.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: Box::new([0; BUCKETS]), total: 0, max: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// The whole state as numbers, to write it to a checkpoint and to restore it.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let Histogram { counts, total, max } = self;
        counts.iter_mut().chain([total, max])
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The given percentile: a bound at or below which `percent` % of the values lie. 0 if there are no values.
    pub(crate) fn quantile(&self, percent: u64) -> u64 {
        let rank = (u128::from(self.total) * u128::from(percent)).div_ceil(100) as u64;
        let mut seen = 0;
        let found = self.counts.iter().position(|&count| {
            seen += count;
            count > 0 && seen >= rank
        });
        found.map_or(0, |index| bound(index).min(self.max))
    }
}

fn bucket(value: u64) -> usize {
    let bits = (value | 1).ilog2();
    if bits < LINEAR_BITS {
        return value as usize;
    }
    if bits >= MAX_BITS {
        return BUCKETS - 1;
    }
    let shift = bits - LINEAR_BITS;
    (shift as usize + 1) * PER_OCTAVE + (value >> shift) as usize - PER_OCTAVE
}

/// The largest number in a bucket.
fn bound(index: usize) -> u64 {
    match (index / PER_OCTAVE).checked_sub(1) {
        None => index as u64,
        Some(shift) => ((PER_OCTAVE + index % PER_OCTAVE + 1) as u64 * (1 << shift)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_where_the_next_begins() {
        for index in 0..BUCKETS - 1 {
            assert_eq!((bucket(bound(index)), bucket(bound(index) + 1)), (index, index + 1));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!((17..100_000).all(|value| bound(bucket(value)) - value <= value / 16));
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_exact_ones() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(50), histogram.max()), (0, 0));
        (1..=1000).for_each(|value| histogram.record(value));
        let (p50, p99) = (histogram.quantile(50), histogram.quantile(99));
        assert!((500..=531).contains(&p50) && (990..=1000).contains(&p99), "{p50} {p99}");
        assert_eq!(histogram.max(), 1000);
        histogram.record(u64::MAX);
        assert_eq!(histogram.quantile(100), (1 << MAX_BITS) - 1);
    }
}
