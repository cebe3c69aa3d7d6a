//! The checkpoint with which a segment may begin.

use std::net::IpAddr;

use super::read::{BadEntry, EntryReader, Read};
use super::write::Put;
use crate::base::codes::ErrorCode;
use crate::base::rate::Bucket;
use crate::base::time::Time;
use crate::engine::recording::Checkpoint;
use crate::engine::state::counters::Counters;

pub(crate) fn put_checkpoint(to: &mut Vec<u8>, checkpoint: &Checkpoint) {
    let Checkpoint { now, unix_at_zero, random, wheel, seats_created, last_epoch, closes_started, last_ticket, .. } =
        checkpoint;
    for number in [now.as_micros(), *unix_at_zero, *wheel, *seats_created, *last_epoch, *closes_started, *last_ticket] {
        to.put_number(number);
    }
    random.iter().for_each(|word| to.put_number(*word));
    let Checkpoint { batch: (closes_left, next), counters, ticks, users, addresses, .. } = checkpoint;
    to.put_number(u64::from(*closes_left));
    to.put_number(next.as_micros());
    let mut counters = counters.clone();
    to.put_number(counters.all_mut().count() as u64);
    counters.all_mut().for_each(|count| to.put_number(*count));
    to.put_number(ticks.len() as u64);
    ticks.iter().for_each(|number| to.put_number(*number));
    to.put_number(users.len() as u64);
    for (user, buckets) in users {
        to.put_slice(user.as_bytes());
        buckets.iter().for_each(|bucket| to.put_number(bucket.full_at_nanos()));
    }
    put_buckets(to, addresses);
}

pub(crate) fn read_checkpoint(from: &mut EntryReader<'_>) -> Read<Checkpoint> {
    let mut checkpoint = Checkpoint {
        now: Time::from_micros(from.count()?),
        unix_at_zero: from.count()?,
        wheel: from.count()?,
        seats_created: from.count()?,
        last_epoch: from.count()?,
        closes_started: from.count()?,
        last_ticket: from.count()?,
        random: [from.number()?, from.number()?, from.number()?, from.number()?],
        batch: (from.number_as()?, Time::from_micros(from.count()?)),
        counters: Counters::default(),
        ticks: Vec::new(),
        users: Vec::new(),
        addresses: Vec::new(),
        guesses: Vec::new(),
        lists: Vec::new(),
        is_node: false,
    };
    let count: usize = from.number_as()?;
    let layout = Counters::LAYOUTS.into_iter().find(|layout| layout.count() == count).ok_or(BadEntry)?;
    for counter in checkpoint.counters.all_mut_of(layout) {
        *counter = from.count()?;
    }
    checkpoint.ticks = (0..from.number()?).map(|_| from.count()).collect::<Read<_>>()?;
    for _ in 0..from.number()? {
        let user = from.text()?.into();
        checkpoint.users.push((user, [read_bucket(from)?, read_bucket(from)?]));
    }
    checkpoint.addresses = read_buckets(from)?;
    Ok(checkpoint)
}

/// Appends the buckets of addresses.
pub(crate) fn put_buckets(to: &mut Vec<u8>, buckets: &[(IpAddr, Bucket)]) {
    to.put_number(buckets.len() as u64);
    for (address, bucket) in buckets {
        to.put_ip(*address);
        to.put_number(bucket.full_at_nanos());
    }
}

pub(crate) fn read_buckets(from: &mut EntryReader<'_>) -> Read<Vec<(IpAddr, Bucket)>> {
    (0..from.number()?).map(|_| Ok((from.ip()?, read_bucket(from)?))).collect()
}

/// Appends the counts of the application's close and error codes.
pub(crate) fn put_app_codes(to: &mut Vec<u8>, counters: &Counters) {
    to.put_number(counters.app_closes.len() as u64);
    for (code, count) in counters.app_closes.iter() {
        to.put_close_code(code);
        to.put_number(count);
    }
    to.put_number(counters.app_rejects.len() as u64);
    for (code, count) in counters.app_rejects.iter() {
        to.put_slice(code.word().as_bytes());
        to.put_number(count);
    }
}

pub(crate) fn read_app_codes(from: &mut EntryReader<'_>, counters: &mut Counters) -> Read<()> {
    for _ in 0..from.number()? {
        let (code, count) = (from.close_code()?, from.count()?);
        counters.app_closes.restore(code, count).then_some(()).ok_or(BadEntry)?;
    }
    for _ in 0..from.number()? {
        let (code, count) = (ErrorCode::new(&from.text()?).ok_or(BadEntry)?, from.count()?);
        counters.app_rejects.restore(code, count).then_some(()).ok_or(BadEntry)?;
    }
    Ok(())
}

fn read_bucket(from: &mut EntryReader<'_>) -> Read<Bucket> {
    from.number().map(Bucket::from_full_at_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::close::{CloseReason, Reject};

    fn checkpoint() -> Checkpoint {
        let mut checkpoint = Checkpoint {
            now: Time::from_micros(1),
            unix_at_zero: 2,
            random: [3; 4],
            wheel: 4,
            seats_created: 5,
            last_epoch: 6,
            closes_started: 7,
            last_ticket: 8,
            batch: (9, Time::from_micros(10)),
            counters: Counters::default(),
            ticks: Vec::new(),
            users: Vec::new(),
            addresses: Vec::new(),
            guesses: Vec::new(),
            lists: Vec::new(),
            is_node: false,
        };
        // Each counter has another value.
        checkpoint.counters.all_mut().zip(100..).for_each(|(counter, value)| *counter = value);
        checkpoint
    }

    #[test]
    fn a_checkpoint_survives_a_round_trip() {
        let mut bytes = Vec::new();
        put_checkpoint(&mut bytes, &checkpoint());
        let mut from = EntryReader::new(&bytes);
        assert_eq!((read_checkpoint(&mut from), from.is_empty()), (Ok(checkpoint()), true));
    }

    /// A checkpoint that names fewer counters: the others have not counted anything.
    #[test]
    fn a_checkpoint_of_an_earlier_build_lacks_the_newer_counters() {
        let whole = checkpoint();
        let mut bytes = Vec::new();
        put_checkpoint(&mut bytes, &whole);
        let mut counters = whole.counters.clone();
        let values: Vec<u64> = counters.all_mut().map(|counter| *counter).collect();
        let put_all = |values: &[u64]| {
            let mut bytes = Vec::new();
            bytes.put_number(values.len() as u64);
            values.iter().for_each(|&value| bytes.put_number(value));
            bytes
        };
        let new_form = put_all(&values);
        let start = bytes.windows(new_form.len()).position(|window| window == new_form).expect("the counters");
        for layout in Counters::LAYOUTS {
            let mut earlier = Counters::default();
            let mut values = Vec::new();
            for (counter, original) in earlier.all_mut_of(layout).zip(counters.all_mut_of(layout)) {
                *counter = *original;
                values.push(*original);
            }
            let mut bytes = bytes.clone();
            bytes.splice(start..start + new_form.len(), put_all(&values));
            let mut from = EntryReader::new(&bytes);
            let read = read_checkpoint(&mut from).expect("a layout that is known");
            assert!(from.is_empty());
            assert_eq!(read, Checkpoint { counters: earlier, ..whole.clone() });
            assert_eq!(read.counters.closed(CloseReason::Hangup), whole.counters.closed(CloseReason::Hangup));
            assert_eq!(read.counters.rejected(Reject::NotAllowed), whole.counters.rejected(Reject::NotAllowed));
        }
        let other = put_all(&values[3..]);
        bytes.splice(start..start + new_form.len(), other);
        assert_eq!(read_checkpoint(&mut EntryReader::new(&bytes)), Err(BadEntry));
    }

    #[test]
    fn the_number_of_counters_identifies_their_layout() {
        let counts = Counters::LAYOUTS.map(|layout| layout.count());
        assert!(counts.is_sorted_by(|newer, older| newer > older), "{counts:?}");
        assert_eq!(counts[0], Counters::default().all_mut().count());
    }
}
