//! The check of the configuration: every rule, its text, and the order in which problems are reported.

use std::fmt::Write as _;
use std::time::Duration;

use lobbyd::Config;
use lobbyd::config::{ByteSize, Limit};

use crate::common::scenario::set;

/// Returns a configuration in which each field has the first of `texts` that it accepts, apart from `exceptions`.
fn config_of(texts: &[&str], exceptions: &[(&str, &str)]) -> Config {
    let mut config = Config::default();
    for field in Config::FIELDS {
        let _ = texts.iter().find(|text| (field.set)(&mut config, text).is_ok());
    }
    exceptions.iter().for_each(|(name, text)| set(&mut config, name, text).expect("a valid text"));
    config
}

#[track_caller]
fn check(config: &Config, expected: &str) {
    let mut reported = String::new();
    for problem in config.clone().check().expect_err("the configuration is invalid") {
        writeln!(reported, "{problem}").expect("a String takes everything");
    }
    assert_eq!(reported, expected);
}

#[test]
fn values_that_are_too_small_are_reported_in_order() {
    let exceptions = [
        ("admin", "127.0.0.1:9001"),
        ("listen", "127.0.0.1:9001"),
        ("journal", "folder/"),
        ("max_connections", "2"),
        ("messages_per_second", "1"),
        ("user_messages_per_second", "1"),
        ("bytes_per_second", "1"),
        ("user_bytes_per_second", "1"),
        ("control_per_second", "1"),
        ("attempts_per_minute", "1"),
        ("tick_hz", "off"),
        ("flush", "tick"),
    ];
    check(&config_of(&["0s", "0"], &exceptions), TOO_SMALL);
}

#[test]
fn values_that_are_too_large_are_reported_in_order() {
    let exceptions = [("listen", "127.0.0.1:9001"), ("admin_token_file", "off"), ("max_per_lobby", "10")];
    check(&config_of(&["20000h", "4000000000", "0.0.0.0:0"], &exceptions), TOO_LARGE);
}

#[test]
fn timeouts_below_the_resolution_and_overlapping_checks_are_reported() {
    let mut config = config_of(&["5ms"], &[("wheel_granule", "10ms"), ("stats_interval", "60s")]);
    set(&mut config, "health_interval", "4ms").expect("a valid text");
    check(&config, TOO_SHORT);
}

const TOO_SMALL: &str = "\
wheel_granule = 0s: must be from 1ms to 1s
pong_timeout = 0s: must be shorter than ping_interval (0ns), or a ping is sent while the previous one is unanswered
max_lifetime = 0s: must be at least 1s, or off
presence_count_interval = 0s: must be at least 1ms, or off
flush = tick: must be turn while tick_hz is off, since no tick would send the frames
stats_interval = 0s: must be above 0, or off
max_pending = 0: must be from 1 to 1048576; with 0 the server could not work
max_closing = 0: must be from 1 to 1048576; with 0 the server could not work
max_headers = 0: must be from 1 to 1048576; with 0 the server could not work
accept_per_turn = 0: must be from 1 to 1048576; with 0 the server could not work
tls_handshakes_per_turn = 0: must be from 1 to 1048576; with 0 the server could not work
events_per_turn = 0: must be from 1 to 1048576; with 0 the server could not work
max_commands = 0: must be from 1 to 1048576; with 0 the server could not work
max_health_pings = 0: must be from 1 to 1048576; with 0 the server could not work
drain_batch = 0: must be from 1 to 1048576; with 0 the server could not work
max_admin_connections = 0: must be from 1 to 1048576; with 0 the server could not work
max_admin_pending = 0: must be from 1 to 1048576; with 0 the server could not work
max_json_depth = 0: must be at least 1, since every message is an object
max_unanswered = 0: must be from 1 to 64, the number of requests whose outcome a client that comes back is told
listen_mode = 000: must be from 002 to 777 and permit somebody to write, which connecting needs
max_idempotency_keys = 0: must be from 1 to 4096; with 0 no repeated message would be recognized
admin = 127.0.0.1:9001: must differ from listen: the admin API needs an address of its own
max_kept_events = 0: must be from 1 to 1048576
max_event_readers = 0: must be from 1 to 1024
max_hook_questions = 0: must be from 1 to 1048576
max_hook_calls = 0: must be from 1 to 256
hook_batch_events = 0: must be from 1 to 10000
hook_timeout = 0s: must be from 10ms to 60s
jwt_jwks_refresh = 0s: must be from 60s to 24h
max_header_bytes = 0: must be from 256 to 1MiB; a browser's request head has about 600 bytes
max_message_bytes = 0: must be from 125, the longest control frame, to 1024MiB
receive_buffer_bytes = 0: must be from 1KiB to 1024MiB
work_per_turn = 0: must be from 1KiB to 1024MiB
work_per_receive = 0: must be from 1KiB to 1024MiB
socket_receive_bytes = 0: must be from 4KiB to 1024MiB, or off
journal: must name a file, not a folder: the segments of a journal `session` are session.000001 and so on
journal_max_bytes = 0: must be at least 16KiB, or off: the header of each segment takes part of it
outbound_low_mark = 0: must be below outbound_high_mark (0), or a frame could cross both
message_burst = 0: must be at least 1 while messages_per_second is limited
user_message_burst = 0: must be at least 1 while user_messages_per_second is limited
control_burst = 0: must be at least 1 while control_per_second is limited
attempt_burst = 0: must be at least 1 while attempts_per_minute is limited
byte_burst = 0: must be at least 14 while bytes_per_second is limited, or a message of max_message_bytes (0) would always be refused
user_byte_burst = 0: must be at least 14 while user_bytes_per_second is limited, or a message of max_message_bytes (0) would always be refused
drain_deadline = 0s: must be longer than 0ns, the time to close max_connections (2) in batches of drain_batch (0) every drain_batch_interval (0ns)
max_outbound_bytes = 0: must be at least 2048, the space for the largest frame: a message of max_message_bytes (0), or the presence of a full lobby (max_per_lobby 0, presence_max 0)
cluster_lease = 0s: must be from 1s to 60s
cluster_log_entries = 0: must be from 64 to 1048576
cluster_log_bytes = 0: must be from 1MiB to 2048MiB
cluster_queue_bytes = 0: must be from 16MiB to 2048MiB
cluster_state_bytes = 0: must be from 1MiB to 2048MiB
";
const TOO_LARGE: &str = "\
handshake_timeout = 20000h: must be at most 24h
auth_timeout = 20000h: must be at most 24h
ping_interval = 20000h: must be at most 24h
pong_timeout = 20000h: must be at most 24h
close_timeout = 20000h: must be at most 24h
linger_timeout = 20000h: must be at most 24h
health_timeout = 20000h: must be at most 24h
drain_deadline = 20000h: must be at most 24h
admin_timeout = 20000h: must be at most 24h
drain_batch_interval = 20000h: must be at most 24h
wheel_granule = 20000h: must be from 1ms to 1s
pong_timeout = 20000h: must be shorter than ping_interval (72000000s), or a ping is sent while the previous one is unanswered
max_lifetime = 20000h: must be at most 8760h (one year)
token_grace = 20000h: must be at most 8760h (one year)
health_interval = 20000h: must be at most 8760h (one year)
presence_count_interval = 20000h: must be at most 8760h (one year)
stats_interval = 20000h: must be at most 8760h (one year)
tick_hz = 4000000000: must be from 1 to 1000, or off
max_catch_up_ticks = 4000000000: must be at most 1000, since late ticks run in one turn of the loop
max_pending = 4000000000: must be from 1 to 1048576; with 0 the server could not work
max_closing = 4000000000: must be from 1 to 1048576; with 0 the server could not work
max_headers = 4000000000: must be from 1 to 1048576; with 0 the server could not work
accept_per_turn = 4000000000: must be from 1 to 1048576; with 0 the server could not work
tls_handshakes_per_turn = 4000000000: must be from 1 to 1048576; with 0 the server could not work
events_per_turn = 4000000000: must be from 1 to 1048576; with 0 the server could not work
max_commands = 4000000000: must be from 1 to 1048576; with 0 the server could not work
max_health_pings = 4000000000: must be from 1 to 1048576; with 0 the server could not work
drain_batch = 4000000000: must be from 1 to 1048576; with 0 the server could not work
max_admin_connections = 4000000000: must be from 1 to 1048576; with 0 the server could not work
max_admin_pending = 4000000000: must be from 1 to 1048576; with 0 the server could not work
trusted_proxies = 4000000000: must be at most 65536
max_overflow = 4000000000: must be at most 1048576
max_remembered_rates = 4000000000: must be at most 16777216
max_outbound_bytes = 3906250KiB: must be at most 2048MiB
outbound_high_mark = 3906250KiB: must be at most 2048MiB
max_inbox_bytes = 3906250KiB: must be at most 2048MiB
max_linger_bytes = 3906250KiB: must be at most 2048MiB
seat_grace = 20000h: must be at most 24h
away_after = 20000h: must be at most 24h
history_frames = 4000000000: must be at most 65536
direct_frames = 4000000000: must be at most 4096
history_bytes = 3906250KiB: must be at most 64MiB
direct_bytes = 3906250KiB: must be at most 64MiB
max_unanswered = 4000000000: must be from 1 to 64, the number of requests whose outcome a client that comes back is told
host_grace = 20000h: must be at most 24h
max_empty_ttl = 20000h: must be at most 24h
max_lobby_keys = 4000000000: must be at most 4096
max_member_keys = 4000000000: must be at most 4096
max_bans = 4000000000: must be at most 4096
max_lobby_data = 3906250KiB: must be at most 64MiB
max_member_data = 3906250KiB: must be at most 64MiB
max_members_data = 3906250KiB: must be at most 64MiB
max_watchers = 4000000000: must be at most 65535
max_list_watchers = 4000000000: must be at most 1048576
listen_mode = 4000000000: must be from 002 to 777 and permit somebody to write, which connecting needs
max_admin_connections = 4000000000: must be at most 1024
max_admin_pending = 4000000000: must be at most 1024
max_seats_ttl = 20000h: must be at most 24h
max_idempotency_keys = 4000000000: must be from 1 to 4096; with 0 no repeated message would be recognized
admin = 0.0.0.0:0: must be loopback addresses such as 127.0.0.1:9002, or socket files, or admin_token_file must be set: without a token, every client that reaches the address can kick all members
max_kept_events = 4000000000: must be from 1 to 1048576
max_event_readers = 4000000000: must be from 1 to 1024
max_hook_questions = 4000000000: must be from 1 to 1048576
max_hook_calls = 4000000000: must be from 1 to 256
hook_batch_events = 4000000000: must be from 1 to 10000
hook_timeout = 20000h: must be from 10ms to 60s
hook_batch_wait = 20000h: must be at most 60s
jwt_jwks_refresh = 20000h: must be from 60s to 24h
max_headers = 4000000000: must be at most 256
max_header_bytes = 3906250KiB: must be from 256 to 1MiB; a browser's request head has about 600 bytes
max_message_bytes = 3906250KiB: must be from 125, the longest control frame, to 1024MiB
max_identity_bytes = 3906250KiB: must be at most 1MiB
receive_buffer_bytes = 3906250KiB: must be from 1KiB to 1024MiB
work_per_turn = 3906250KiB: must be from 1KiB to 1024MiB
work_per_receive = 3906250KiB: must be from 1KiB to 1024MiB
socket_receive_bytes = 3906250KiB: must be from 4KiB to 1024MiB, or off
receive_buffer_bytes = 3906250KiB: must be at most 16MiB while journal is on
outbound_low_mark = 3906250KiB: must be below outbound_high_mark (3906250KiB), or a frame could cross both
byte_burst = 3906250KiB: must be at least 4000000270 while bytes_per_second is limited, or a message of max_message_bytes (3906250KiB) that is posted to an event stream would always be refused
user_byte_burst = 3906250KiB: must be at least 4000000270 while user_bytes_per_second is limited, or a message of max_message_bytes (3906250KiB) that is posted to an event stream would always be refused
max_outbound_bytes = 3906250KiB: must be at least 4000002048, the space for the largest frame: a message of max_message_bytes (3906250KiB), or the presence of a full lobby (max_per_lobby 10, presence_max 4000000000)
cluster_lease = 20000h: must be from 1s to 60s
cluster_log_entries = 4000000000: must be from 64 to 1048576
cluster_log_bytes = 3906250KiB: must be from 1MiB to 2048MiB
cluster_queue_bytes = 3906250KiB: must be from 16MiB to 2048MiB
cluster_state_bytes = 3906250KiB: must be from 1MiB to 2048MiB
";
const TOO_SHORT: &str = "\
handshake_timeout = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
auth_timeout = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
ping_interval = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
pong_timeout = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
close_timeout = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
linger_timeout = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
health_timeout = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
drain_deadline = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
admin_timeout = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
drain_batch_interval = 5ms: must be at least wheel_granule (10ms), the resolution of all timeouts
pong_timeout = 5ms: must be shorter than ping_interval (5ms), or a ping is sent while the previous one is unanswered
health_interval = 4ms: must be at least health_timeout (5ms), or checks of a page overlap
max_lifetime = 5ms: must be at least 1s, or off
hook_timeout = 5ms: must be from 10ms to 60s
jwt_jwks_refresh = 5ms: must be from 60s to 24h
cluster_lease = 5ms: must be from 1s to 60s
";

/// What a member that comes back is sent at once must not close its connection as too slow.
#[test]
fn a_full_history_and_a_full_presence_fit_into_the_outbox() {
    // A frame counts its text, a header of 10 bytes and an overhead of 64. Ten members of 312 bytes, and the rest.
    let needed = (65_536 + 256 * 74) + (16_384 + 32 * 74) + (10 * 312 + 1024);
    let with = |bytes| Config { max_outbound_bytes: ByteSize(bytes), ..Config::default() };
    with(needed).check().expect("all of it fits");
    let problems = with(needed - 1).check().expect_err("a byte is missing");
    assert_eq!(
        problems.to_string(),
        format!(
            "invalid configuration\n  max_outbound_bytes = {}: must be at least {needed}, the space for what a member that \
             comes back is sent at once: a full history (history_bytes 64KiB), its direct messages (direct_bytes 16KiB) and \
             the presence of a full lobby (max_per_lobby 10, presence_max 500); raise it, or lower history_bytes",
            needed - 1
        )
    );
    // The ways out.
    for config in [
        Config { history_bytes: ByteSize::kib(63), ..with(needed - 1) },
        Config { history_frames: 255, ..with(needed - 1) },
        Config { direct_bytes: ByteSize::kib(15), ..with(needed - 1) },
        Config { direct_frames: 31, ..with(needed - 1) },
        Config { max_per_lobby: Limit::at_most(9), ..with(needed - 1) },
        Config { seat_grace: Duration::ZERO, ..with(needed - 1) },
    ] {
        config.check().expect("it fits");
    }
    // A history of few bytes never has all its frames.
    let small = Config { history_bytes: ByteSize(240), direct_bytes: ByteSize(0), ..with(0) };
    let needed = 240 + 10 * 74 + 10 * 312 + 1024;
    let smallest =
        |bytes| Config { max_message_bytes: ByteSize(125), max_outbound_bytes: ByteSize(bytes), ..small.clone() };
    assert!(smallest(needed).check().is_ok() && smallest(needed - 1).check().is_err());
}

#[test]
fn without_a_grace_the_other_fields_of_sessions_have_no_effect() {
    let config = Config { seat_grace: Duration::ZERO, history_frames: 7, max_unanswered: 8, ..Config::default() };
    let shown: Vec<String> = config.without_effect().iter().map(ToString::to_string).collect();
    let expected =
        ["history_frames = 7", "max_unanswered = 8"].map(|f| format!("{f}: has no effect while seat_grace is 0"));
    assert_eq!(shown, expected);
}
