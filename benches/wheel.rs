//! Cost of timers: arming, re-arming and expiry must not grow with their number.
//!
//! `wheel/arm/N`: one more timer beside N others is armed and disarmed.
//! `wheel/rearm/N`: one timer of N, another every time, is moved to another deadline.
//! `wheel/expire/N`: time passes; the time for each timer of N that fires and is armed again 20 seconds later.
//!
//! Where a curve rises, memory is the cause. A timer takes 16 bytes: 100,000 of them are 1.6 MB and fit in the processor's
//! cache, and a million, 16 MB, do not. Moving a timer touches its old neighbours and its new one, anywhere in that memory.
//! Timers that expire together form a linked list through it, so that each access waits for the one before it: 120 ns
//! with a million timers, 14 ns with 100,000. With 1,000 timers `arm` and `rearm` cost more than with more timers, because they
//! alternate between empty and full slots, which the processor cannot predict.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use lobbyd::{Random, Time};

use self::bencher::each;
use self::wheel::TimerWheel;

#[path = "common/each.rs"]
mod bencher;

// The wheel is not public, so its source is compiled here once more, with these names from the crate.
mod base {
    pub(crate) mod random {
        pub(crate) use lobbyd::Random;
    }
    pub(crate) mod time {
        pub(crate) use lobbyd::Time;
    }
}

#[allow(dead_code, unused_imports, reason = "the engine uses more of it than the bench")]
#[path = "../src/engine/state/wheel.rs"]
mod wheel;

const COUNTS: [usize; 3] = [1_000, 100_000, 1_000_000];
const INTERVAL_MICROS: u64 = 20_000_000;

/// A wheel with `count` timers spread over 20 seconds, as keep-alive spreads them.
fn wheel_with(count: usize, random: &mut Random) -> TimerWheel {
    let mut wheel = TimerWheel::new(Duration::from_millis(10));
    for key in 0..count {
        wheel.arm(key, Time::from_micros(random.below(INTERVAL_MICROS)));
    }
    wheel
}

fn arm(c: &mut Criterion) {
    for count in COUNTS {
        let mut random = Random::new(1);
        let mut wheel = wheel_with(count, &mut random);
        c.bench_function(&format!("wheel/arm/{count}"), |b| {
            b.iter(|| {
                wheel.arm(black_box(count), Time::from_micros(random.below(INTERVAL_MICROS)));
                assert!(wheel.is_armed(count));
                wheel.disarm(count);
            });
        });
        assert_eq!(wheel.len(), count, "the extra timer is disarmed");
    }
}

fn rearm(c: &mut Criterion) {
    for count in COUNTS {
        let mut random = Random::new(1);
        let mut wheel = wheel_with(count, &mut random);
        c.bench_function(&format!("wheel/rearm/{count}"), |b| {
            b.iter(|| {
                let key = random.below(count as u64) as usize;
                wheel.arm(black_box(key), Time::from_micros(random.below(INTERVAL_MICROS)));
            });
        });
        assert_eq!(wheel.len(), count, "every key has one timer");
    }
}

fn expire(c: &mut Criterion) {
    for count in COUNTS {
        let mut wheel = wheel_with(count, &mut Random::new(1));
        let (mut now, mut due) = (0, Vec::new());
        // Long enough that some 500 timers are due in each turn, whatever their number.
        let step = INTERVAL_MICROS * 500 / count as u64;
        c.bench_function(&format!("wheel/expire/{count}"), |b| {
            each(b, || {
                now += step;
                wheel.expire(Time::from_micros(now), &mut due);
                for &key in &due {
                    wheel.arm(key, Time::from_micros(now + INTERVAL_MICROS));
                }
                due.drain(..).len() as u64
            });
        });
        assert_eq!(wheel.len(), count, "every expired timer was armed again");
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .nresamples(10_000);
    targets = arm, rearm, expire
}
criterion_main!(benches);
