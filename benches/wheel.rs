//! What timers cost: arming, re-arming and expiry must not grow with their number.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lobbyd::{Random, Time, TimerWheel};

/// A wheel with `count` timers spread over 20 seconds, as keep-alive spreads them.
fn wheel_with(count: usize, random: &mut Random) -> TimerWheel {
    let mut wheel = TimerWheel::new(Duration::from_millis(10));
    for key in 0..count {
        wheel.arm(key, Time::from_micros(random.below(20_000_000)));
    }
    wheel
}

/// One timer is moved to another deadline.
fn rearm(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/rearm");
    for count in [1_000, 100_000, 1_000_000] {
        let mut random = Random::new(1);
        let mut wheel = wheel_with(count, &mut random);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let key = random.below(count as u64) as usize;
                wheel.arm(black_box(key), Time::from_micros(random.below(20_000_000)));
            });
        });
        assert_eq!(wheel.len(), count, "every key has one timer");
    }
    group.finish();
}

/// Time moves on by one granule; what fires is armed again 20 seconds later. The time is that of one granule, the
/// throughput that of the timers that fire in it on the average.
fn expire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/expire");
    for count in [1_000, 100_000, 1_000_000] {
        let mut wheel = wheel_with(count, &mut Random::new(1));
        let (mut now, mut due) = (0, Vec::new());
        group.throughput(Throughput::Elements((count as u64).div_ceil(2000)));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                now += 10_000;
                wheel.expire(Time::from_micros(now), &mut due);
                for key in due.drain(..) {
                    wheel.arm(key, Time::from_micros(now + 20_000_000));
                }
            });
        });
        assert_eq!(wheel.len(), count, "what fired was armed again");
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = rearm, expire
}
criterion_main!(benches);
