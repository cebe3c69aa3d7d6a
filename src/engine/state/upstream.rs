//! Integer `ref`s of the requests of a session. They rise, so that a request that is sent again is recognized.

use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter};

/// Numbers up to [`done`](Upstream::done) whose outcome is known.
const KNOWN: u64 = u64::BITS as u64;

/// The numbers that a session has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// Highest number used; 0 if there is none.
    done: u64,
    /// The refused numbers among the last 64: bit 0 is `done`, bit `i` is `done - i`.
    refused: u64,
}

/// What a number shows about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It is to be executed. Its number is used up from now on, whatever the answer is.
    New,
    /// It was executed before.
    RepeatedDone,
    /// It was refused before, or skipped, or its number is not positive. It will not be executed.
    RepeatedRefused,
}

impl Upstream {
    /// Judges the number of a request when it is read. The numbers that it skips count as refused. Of numbers that are
    /// more than 63 below the highest one the outcome is not known, and they count as executed.
    pub(crate) fn judge(&mut self, number: i64) -> Judged {
        let Some(number) = u64::try_from(number).ok().filter(|&number| number > 0) else {
            return Judged::RepeatedRefused;
        };
        if number <= self.done {
            return if self.is_refused(number) { Judged::RepeatedRefused } else { Judged::RepeatedDone };
        }
        let step = number - self.done;
        self.refused = if step < KNOWN {
            let skipped = (1 << step) - 2;
            self.refused << step | skipped
        } else {
            !1
        };
        self.done = number;
        Judged::New
    }

    /// Whether a number is not above the highest one used.
    pub(crate) fn has_used(&self, number: i64) -> bool {
        u64::try_from(number).is_ok_and(|number| number <= self.done)
    }

    /// Records that the answer to a number was an `error`.
    pub(crate) fn note_refused(&mut self, number: i64) {
        if let Some(age) = u64::try_from(number).ok().and_then(|number| self.age(number)) {
            self.refused |= 1 << age;
        }
    }

    /// Highest number used; 0 if there is none.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// The refused numbers among the last 64 as lower-case hexadecimal digits: bit 0 is [`done`](Self::done), bit `i`
    /// is `done - i`.
    pub(crate) fn refused_hex(&self) -> String {
        format!("{:x}", self.refused)
    }

    pub(crate) fn write(self, to: &mut SnapshotWriter) {
        to.number(self.done);
        to.number(self.refused);
    }

    pub(crate) fn read(from: &mut SnapshotReader<'_>) -> Result<Upstream, SnapshotError> {
        Ok(Upstream { done: from.count()?, refused: from.number()? })
    }

    fn is_refused(&self, number: u64) -> bool {
        self.age(number).is_some_and(|age| self.refused >> age & 1 == 1)
    }

    /// Distance from the highest number, if the outcome is known.
    fn age(&self, number: u64) -> Option<u64> {
        self.done.checked_sub(number).filter(|&age| number > 0 && age < KNOWN)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::random::Random;

    /// Every number that was read, with whether it was refused.
    #[derive(Default)]
    struct Model(BTreeMap<i64, bool>);

    impl Model {
        fn done(&self) -> i64 {
            self.0.last_key_value().map_or(0, |(&number, _)| number)
        }

        fn is_refused(&self, number: i64) -> bool {
            number <= 0 || (self.done() - number < 64 && self.0.get(&number).copied().unwrap_or(true))
        }

        fn judge(&mut self, number: i64) -> Judged {
            if number > self.done() {
                self.0.insert(number, false);
                Judged::New
            } else if self.is_refused(number) {
                Judged::RepeatedRefused
            } else {
                Judged::RepeatedDone
            }
        }
    }

    fn check(upstream: Upstream, model: &Model) {
        assert_eq!(upstream.done(), model.done() as u64);
        let bits = u64::from_str_radix(&upstream.refused_hex(), 16).expect("hexadecimal digits");
        for age in 0..64 {
            let number = model.done() - age;
            assert_eq!(bits >> age & 1 == 1, number > 0 && model.is_refused(number), "{number} of {upstream:?}");
        }
    }

    #[test]
    fn every_number_is_judged_once_and_its_outcome_is_remembered() {
        let mut random = Random::new(3);
        for run in 0..400 {
            let (mut upstream, mut model) = (Upstream::default(), Model::default());
            let max_step = [2, 3, 10, 62, 63, 64, 65, 66, 130, 1 << 40][run % 10];
            for _ in 0..100 {
                let number = match random.below(4) {
                    0 => random.below(80) as i64 - 5,
                    1 => model.done() - random.below(70) as i64,
                    _ => model.done() + 1 + random.below(max_step) as i64,
                };
                let judged = upstream.judge(number);
                assert_eq!(judged, model.judge(number), "{number} of {upstream:?}");
                check(upstream, &model);
                if random.below(3) == 0 {
                    let refused = if judged == Judged::New { number } else { model.done() - random.below(70) as i64 };
                    upstream.note_refused(refused);
                    model.0.entry(refused).and_modify(|outcome| *outcome = true);
                    check(upstream, &model);
                }
            }
        }
    }

    #[test]
    fn all_short_sequences_are_judged_as_by_a_list() {
        // Every sequence of four of these numbers, each one answered with success or an error.
        let numbers = [-1, 0, 1, 2, 63, 64, 65, 66, 127, 128, (1 << 53) - 1];
        for sequence in 0..22_usize.pow(4) {
            let (mut upstream, mut model) = (Upstream::default(), Model::default());
            for place in 0..4 {
                let choice = sequence / 22_usize.pow(place) % 22;
                let number = numbers[choice / 2];
                let judged = upstream.judge(number);
                assert_eq!(judged, model.judge(number));
                if judged == Judged::New && choice % 2 == 1 {
                    upstream.note_refused(number);
                    model.0.insert(number, true);
                }
            }
            check(upstream, &model);
        }
    }

    #[test]
    fn the_bitmap_begins_with_the_highest_number() {
        let mut upstream = Upstream::default();
        assert_eq!((upstream.done(), &*upstream.refused_hex()), (0, "0"));
        upstream.judge(1);
        upstream.judge(5);
        assert_eq!((upstream.done(), &*upstream.refused_hex()), (5, "e"), "2, 3 and 4 were skipped");
        upstream.note_refused(5);
        assert_eq!(&*upstream.refused_hex(), "f");
        assert_eq!(size_of::<Upstream>(), 16);
    }
}
