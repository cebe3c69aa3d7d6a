//! The configuration of rates.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::config::{ByteSize, Limit};
use lobbyd::sim::wire;

use super::{bytes_delivered, no_rates};
use crate::common::scenario::World;
use crate::common::witness::Witness;

#[test]
fn bursts_that_are_too_small_are_refused() {
    #[track_caller]
    fn check_problem(config: Config, field: &str, rule: &str) {
        let problems = config.check().expect_err("the configuration is invalid");
        let [problem] = &problems[..] else { panic!("one problem: {problems:?}") };
        assert_eq!(problem.field, field);
        assert!(problem.rule.contains(rule), "{problem}");
    }
    let limited = Limit::at_most(100);
    check_problem(Config { message_burst: 0, ..Config::default() }, "message_burst", "messages_per_second");
    check_problem(
        Config { user_messages_per_second: limited.into(), user_message_burst: 0.into(), ..Config::default() },
        "user_message_burst",
        "user_messages_per_second",
    );
    check_problem(Config { control_burst: 0, ..Config::default() }, "control_burst", "control_per_second");
    check_problem(
        Config { attempts_per_minute: limited, attempt_burst: 0, ..Config::default() },
        "attempt_burst",
        "attempts_per_minute",
    );
    // The header of a frame, and the head of a POST.
    let longest = 65_536 + 14 + 256;
    check_problem(Config { byte_burst: ByteSize(longest - 1), ..Config::default() }, "byte_burst", "65806");
    check_problem(
        Config {
            user_bytes_per_second: limited.into(),
            user_byte_burst: ByteSize(longest - 1).into(),
            ..Config::default()
        },
        "user_byte_burst",
        "max_message_bytes (64KiB)",
    );
    // The burst of a rate that is not used can have any value.
    let unused = Config { message_burst: 0, control_burst: 0, byte_burst: ByteSize(0), attempt_burst: 0, ..no_rates() };
    assert_eq!(unused.check().err(), None);
    // The longest message fits into the smallest bucket. Without sessions there are no POSTs.
    let longest = 65_536 + 14;
    let tight = Config {
        byte_burst: ByteSize(longest),
        bytes_per_second: Limit::at_most(1000),
        seat_grace: Duration::ZERO,
        ..no_rates()
    };
    check_problem(Config { byte_burst: ByteSize(longest - 1), ..tight.clone() }, "byte_burst", "65550");
    let mut world = World::new(tight, Witness::<false>::default());
    world.run("ann > connect chess\nann < upgrade\nadvance 1s");
    world.send("ann", &wire::text(&"x".repeat(65_536)));
    assert_eq!(bytes_delivered(&mut world), longest as u64);
}

#[test]
fn remembered_rates_count_in_the_worst_case_memory() {
    let with = |max_remembered_rates| Config { max_remembered_rates, ..Config::default() }.worst_case_memory();
    assert!(with(1 << 20) > with(0).map(|bytes| bytes + (256 << 20)), "some hundred bytes for each");
}
