//! One row per bound of the configuration: a script reaches the bound and expects the close code or error that the
//! documentation of the field names.
//!
//! A field without a row fails the test.

use std::fs;
use std::path::Path;

use lobbyd::Config;
use lobbyd::sim::wire::{self, Opcode};

use crate::common::scenario::{World, set};
use crate::common::witness::Witness;
use crate::meta::tidy::rust_files;

/// The second message exceeds the bytes that a member may send.
const TWO_LONG_MESSAGES: &str = "ann > connect a, ann < upgrade; welcome; presence_state, ann > binary <500>, \
                                 ann > binary <500>, ann < error code=rate_limited";

/// Rows: a field with its value, then further fields the script needs; and the script. `<n>` stands for `n` bytes, and
/// `fragments n` sends `n` frames of one message. The application is a [`Witness`], which relays nothing.
const HIT: &[(&[(&str, &str)], &str)] = &[
    (&[("max_connections", "1")], "ann > connect a, bob > connect b, bob < upgrade; goodbye; close 4002 server_full"),
    (&[("max_per_lobby", "1")], "ann > connect a, bob > connect a, bob < upgrade; goodbye; close 4002 lobby_full"),
    (&[("max_lobbies", "1")], "ann > connect a, bob > connect b, bob < upgrade; goodbye; close 4002 lobby_limit"),
    (
        &[("duplicate_login", "reject")],
        "ann > connect a, ann:2 > connect b, ann:2 < upgrade; goodbye; close 4002 user_limit",
    ),
    (
        &[("max_per_user", "1"), ("duplicate_login", "allow")],
        "ann > connect a, ann:2 > connect b, ann:2 < upgrade; goodbye; close 4002 user_limit",
    ),
    (&[("max_per_ip", "1")], "ann > connect a, bob > connect b, bob < upgrade; goodbye; close 4002 ip_limit"),
    (
        &[("max_pending", "1")],
        "ann > open, bob > open, bob < nothing, bob > raw GET /ws/a HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n, bob < http 503; body; eof",
    ),
    (&[("max_overflow", "1"), ("max_pending", "1")], "ann > open, bob > open, cid > open, bob < http 503; body; eof"),
    (
        &[("max_closing", "1"), ("max_connections", "1"), ("max_pending", "1")],
        "ann > connect a, ann > {\"type\":\"leave\"}, bob > connect a, bob > {\"type\":\"leave\"}, cid > connect a, dan > open, \
         ann < upgrade; welcome; presence_state; goodbye; close 1000 left; cut",
    ),
    (
        &[("allowed_origin", "own")],
        "ann > get /ws/a?token=ann Origin: http://elsewhere.example, ann < upgrade; goodbye; close 4003 forbidden_origin",
    ),
    (
        &[("attempts_per_minute", "1"), ("attempt_burst", "1")],
        "ann > connect a, bob > connect a, bob < http 429; body; eof, advance 60s, cid > connect b, \
         cid < upgrade; welcome; presence_state",
    ),
    (
        &[("attempt_burst", "2"), ("attempts_per_minute", "1")],
        "ann > connect a, bob > connect b, cid > connect c, cid < http 429; body; eof",
    ),
    (&[("handshake_timeout", "1s")], "ann > open, advance 1100ms, ann < http 408; body; eof"),
    (
        &[("auth_timeout", "1s")],
        "ann > get /ws/a?token=ann&auth=later, advance 1100ms, ann < upgrade; goodbye; close 4101 auth_timeout",
    ),
    (
        &[("max_lifetime", "1s")],
        "ann > connect a, ann < upgrade; welcome; presence_state, advance 1100ms, ann < goodbye; close 4202 max_lifetime",
    ),
    (
        &[("max_identity_bytes", "3")],
        "ann > get /ws/a?token=ann&data=123, ann < upgrade; welcome; presence_state, bob > get /ws/a?token=bob&data=1234, \
         bob < upgrade; goodbye; close 1011 internal_error",
    ),
    (
        &[("token_grace", "1s")],
        "ann > get /ws/a?token=ann&expires=1000001000, ann < upgrade; welcome; presence_state, advance 1900ms, ann < nothing, \
         advance 200ms, ann < goodbye; close 4001 token_expired",
    ),
    (&[("max_header_bytes", "300")], "ann > open, ann > raw G<300>, ann < http 414; body; eof"),
    (&[("max_headers", "6")], "ann > get /ws/a?token=ann A: b | A: b, ann < http 431; body; eof"),
    (
        &[("max_message_bytes", "125")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > binary <126>, \
         ann < goodbye; close 1009 message_too_big; eof",
    ),
    (
        &[("max_fragments", "3")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > fragments 4, \
         ann < goodbye; close 1008 policy_violation; eof",
    ),
    (
        &[
            ("max_outbound_bytes", "5000"),
            ("max_message_bytes", "125"),
            ("max_per_lobby", "2"),
            ("history_bytes", "600"),
            ("direct_bytes", "100"),
        ],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > window 0, ann > presence 50, ann > read, \
         ann < goodbye; close 4102 slow_consumer",
    ),
    (
        &[("messages_per_second", "1"), ("message_burst", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > {\"type\":\"ping\"}, ann < pong, \
         ann > {\"type\":\"ping\"}, ann < error code=rate_limited retry_after_ms=1000",
    ),
    (
        &[("message_burst", "1"), ("messages_per_second", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > {\"type\":\"ping\"}, ann < pong, \
         ann > {\"type\":\"ping\"}, ann < error code=rate_limited",
    ),
    (
        &[("user_messages_per_second", "1"), ("user_message_burst", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > {\"type\":\"ping\"}, ann < pong, \
         ann > {\"type\":\"ping\"}, ann < error code=rate_limited retry_after_ms=1000",
    ),
    (
        &[("user_message_burst", "1"), ("user_messages_per_second", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > {\"type\":\"ping\"}, ann < pong, \
         ann > {\"type\":\"ping\"}, ann < error code=rate_limited",
    ),
    (&[("bytes_per_second", "100"), ("byte_burst", "870"), ("max_message_bytes", "600")], TWO_LONG_MESSAGES),
    (&[("byte_burst", "870"), ("bytes_per_second", "100"), ("max_message_bytes", "600")], TWO_LONG_MESSAGES),
    (&[("user_bytes_per_second", "100"), ("user_byte_burst", "870"), ("max_message_bytes", "600")], TWO_LONG_MESSAGES),
    (&[("user_byte_burst", "870"), ("user_bytes_per_second", "100"), ("max_message_bytes", "600")], TWO_LONG_MESSAGES),
    (
        &[("control_per_second", "1"), ("control_burst", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > ping, ann < pong, ann > ping, \
         ann < pong; error code=rate_limited",
    ),
    (
        &[("control_burst", "1"), ("control_per_second", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > pong, ann > pong, ann < error code=rate_limited",
    ),
    (
        &[("max_rate_strikes", "1"), ("messages_per_second", "1"), ("message_burst", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > {\"type\":\"ping\"}, ann > {\"type\":\"ping\"}, \
         ann > {\"type\":\"ping\"}, ann > {\"type\":\"ping\"}, ann < pong; error code=rate_limited; goodbye; close 4009 rate_limited",
    ),
    (
        &[("max_strikes", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > text x, ann < error code=bad_message, ann > text x, \
         ann < goodbye; close 4005 bad_message",
    ),
    (
        &[("max_json_depth", "2")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > {\"type\":\"move\",\"at\":[]}, ann < nothing, \
         ann > {\"type\":\"move\",\"at\":[[]]}, ann < error code=bad_message",
    ),
    (
        &[("presence_max", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state users=ann, bob > connect a, \
         bob < upgrade; welcome; presence_state count=2 !users",
    ),
    (
        &[("presence_count_interval", "3s"), ("presence_max", "1")],
        "ann > connect a, bob > connect a, cid > connect a, ann < upgrade; welcome; presence_state; presence_state count=2, \
         advance 2900ms, ann < nothing, advance 100ms, ann < presence_state count=3",
    ),
    (
        &[("ping_interval", "2s"), ("pong_timeout", "1s")],
        "ann > connect a, ann < upgrade; welcome; presence_state, advance 2100ms, ann < ping, advance 1s, \
         ann < goodbye; close 4201 stale",
    ),
    (
        &[("pong_timeout", "1s"), ("ping_interval", "2s")],
        "ann > connect a, ann < upgrade; welcome; presence_state, advance 2100ms, ann < ping, advance 1s, \
         ann < goodbye; close 4201 stale",
    ),
    (
        &[("health_interval", "2s"), ("health_timeout", "1s")],
        "ann > connect a, ann < upgrade; welcome; presence_state, advance 2100ms, ann < health_ping, told join ann, advance 1s, \
         told health ann unhealthy",
    ),
    (
        &[("health_timeout", "1s"), ("health_interval", "2s")],
        "ann > connect a, ann < upgrade; welcome; presence_state, advance 2100ms, ann < health_ping, told join ann, advance 1s, \
         told health ann unhealthy",
    ),
    (
        &[("max_health_pings", "1")],
        "ann > connect a, ann < upgrade; welcome; presence_state, told join ann, check ann, check ann, \
         advance 10ms, told health ann unhealthy, ann < health_ping; health_ping",
    ),
    (
        &[("close_timeout", "1s")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > {\"type\":\"leave\"}, ann < goodbye; close 1000 left, \
         advance 1100ms, ann < eof",
    ),
    (
        &[("linger_timeout", "1s")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > raw <10>, ann < goodbye; close 1002 protocol_error; eof, open ann, \
         advance 1100ms, gone ann",
    ),
    (
        &[("max_linger_bytes", "100")],
        "ann > connect a, ann < upgrade; welcome; presence_state, ann > raw <10>, ann < goodbye; close 1002 protocol_error; eof, ann > raw <80>, open ann, \
         ann > raw <30>, gone ann",
    ),
    (
        &[("drain_deadline", "1s"), ("close_timeout", "20s")],
        "ann > connect a, ann < upgrade; welcome; presence_state, drain, ann < goodbye; close 1001 server_shutdown, \
         advance 1100ms, ann < cut",
    ),
    (
        &[("drain_batch", "1"), ("drain_batch_interval", "1s"), ("max_connections", "2")],
        "ann > connect a, bob > connect b, ann < upgrade; welcome; presence_state, bob < upgrade; welcome; presence_state, drain, \
         ann < goodbye; close 1001 server_shutdown, bob < nothing, advance 1s, bob < goodbye; close 1001 server_shutdown",
    ),
    (
        &[("drain_batch_interval", "1s"), ("drain_batch", "1"), ("max_connections", "2")],
        "ann > connect a, bob > connect b, drain, bob < upgrade; welcome; presence_state, bob < nothing, advance 1s, \
         bob < goodbye; close 1001 server_shutdown",
    ),
    (
        &[("outbound_high_mark", "300"), ("outbound_low_mark", "100")],
        "ann > connect a, told join ann, told pressure ann high, told pressure ann low",
    ),
    (
        &[("outbound_low_mark", "100"), ("outbound_high_mark", "300")],
        "ann > connect a, told join ann, told pressure ann high, told pressure ann low",
    ),
];

/// Fields whose bound needs sockets or operators, each with the test that reaches it.
const HIT_ELSEWHERE: &[(&[&str], &str)] = &[
    (&["max_admin_connections"], "stalled_operators_make_room_for_another"),
    (&["max_admin_pending"], "strangers_displace_strangers_only"),
    (&["max_seats_ttl"], "a_match_that_nobody_joins_is_gone"),
    (&["max_idempotency_keys"], "a_lobby_keeps_its_last_keys_as_long_as_it_exists"),
    (&["admin_timeout"], "slow_requests_and_slow_readers_are_timed_out"),
    (&["max_remembered_rates"], "the_user_whose_buckets_are_full_first_is_forgotten"),
    (&["accept_per_turn", "events_per_turn"], "the_accept_budget_leaves_no_connection_waiting"),
    (&["work_per_turn", "work_per_receive"], "a_flood_delays_only_its_senders"),
    // With the feature `tls`.
    (&["tls_handshakes_per_turn"], "a_flood_of_hellos_leaves_the_others_their_turns"),
    (&["max_deferred_turns"], "timers_wait_for_unread_input"),
    (&["receive_buffer_bytes"], "more_than_a_receive_buffer_is_read_to_its_end"),
    (&["socket_receive_bytes"], "socket_receive_bytes_bounds_unread_input"),
    (&["max_catch_up_ticks"], "late_ticks_are_caught_up_to_a_bound_and_the_rest_are_skipped"),
    (&["max_inbox_bytes"], "a_full_inbox_refuses_without_taking_tokens"),
    (&["journal_max_bytes"], "segments_that_begin_without_connections_replay_alone"),
    (&["journal_on_error"], "a_full_disk_stops_unrecorded_output_or_ends_the_journal"),
    (&["seat_grace", "away_after"], "a_seat_is_kept_when_its_connection_is_lost_and_freed_after_the_grace"),
    (&["history_frames", "direct_frames"], "recovered_is_false_when_anything_is_missing"),
    (&["history_bytes", "direct_bytes"], "what_does_not_fit_is_missing"),
    (&["max_unanswered"], "at_most_max_unanswered_requests_of_a_session_wait_for_a_tick"),
    (&["host_grace"], "a_host_that_is_away_stays_the_host_for_the_grace"),
    (
        &["max_lobby_keys", "max_lobby_data", "max_member_keys", "max_member_data", "max_members_data"],
        "data_that_exceeds_a_bound_is_refused_and_changes_nothing",
    ),
    (&["max_watchers"], "watchers_have_seats_of_their_own_kind"),
    (&["guesses_per_minute"], "an_address_guesses_ten_passwords_a_minute"),
    (&["lists_per_minute"], "an_address_may_ask_a_number_of_times_per_minute"),
    (&["max_list_watchers"], "limits_and_origins_are_those_of_all_connections"),
    (&["max_bans"], "the_oldest_ban_ends_when_there_are_too_many"),
    (&["max_empty_ttl"], "a_lobby_is_kept_without_members_for_its_time"),
    (&["cluster_lease"], "a_node_that_is_silent_for_a_lease_ends_unless_all_are_silent"),
    (&["cluster_log_entries", "cluster_log_bytes"], "what_is_no_longer_kept_cannot_be_restored"),
    (&["cluster_queue_bytes"], "more_than_the_queue_gives_up_the_place"),
    (&["node_url"], "a_lobby_of_a_game_with_state_has_one_home"),
    (&["cluster_state_bytes"], "a_state_beyond_its_bound_is_not_passed_on"),
    (&["max_kept_events"], "a_reader_that_reads_nothing_costs_nothing_and_is_told_what_it_lost"),
    (&["max_event_readers"], "events_need_the_token_and_have_a_bound_on_readers"),
    (&["hook_timeout"], "a_question_is_given_up_after_its_timeout_and_answered_once"),
    (&["max_hook_questions"], "a_full_queue_answers_at_once"),
    (&["max_hook_calls"], "questions_wait_for_a_free_call_and_keep_their_order"),
    (&["hook_batch_events", "hook_batch_wait"], "a_batch_is_sent_when_it_is_full_or_its_first_event_has_waited"),
    (&["jwt_jwks_refresh"], "the_keys_are_fetched_at_the_start_and_then_once_in_each_interval"),
    (&["max_commands"], "a_full_queue_of_commands_returns_them"),
];

/// Fields that set no bound.
const NO_BOUNDS: &[&str] = &[
    "listen",
    "admin",
    "listen_mode",
    "tls_cert",
    "tls_key",
    "admin_token_file",
    "admin_host",
    "proxy_protocol",
    "trusted_proxies",
    "forwarded_header",
    "tick_hz",
    "journal",
    "journal_sync",
    "journal_secrets",
    "flush",
    "binary_sender",
    "deflate",
    "lobby_control",
    "serve_client",
    "playground",
    "cluster",
    "node",
    "cluster_namespace",
    "hook",
    "hook_secret_file",
    "hook_ca_file",
    "hook_events",
    "hook_headers",
    "hook_on_failure",
    "jwt_jwks_url",
    "wheel_granule",
    "stats_interval",
];

#[test]
fn every_bound_ends_in_its_documented_close_or_error() {
    for (fields, script) in HIT {
        let mut config = Config::default();
        for (name, value) in *fields {
            set(&mut config, name, value).expect("a value of its kind");
        }
        println!("{}: {script}", fields[0].0);
        let mut world = World::new(config, Witness::<true>::default());
        script.split(", ").for_each(|line| run(&mut world, &spelled_out(line)));
    }
}

fn run(world: &mut World<Witness<true>>, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["told", ..] => {
            let log = &mut world.engine.app_mut().log;
            assert!(!log.is_empty(), "no event is left for: {line}");
            let event = log.remove(0);
            assert!(event.starts_with(line.trim_start_matches("told ")), "{line}: {event}");
        }
        ["check", user] => drop(world.app(|_, cx| cx.ping_user(user, std::time::Duration::from_secs(1)))),
        ["open", user] => assert!(world.is_open(user)),
        ["gone", user] => assert!(!world.is_open(user)),
        [user, ">", "fragments", count] => {
            let mut bytes = wire::frame(Opcode::BINARY, false, b"", [1; 4]);
            let rest = wire::frame(Opcode::CONTINUATION, false, b"", [1; 4]);
            bytes.extend(rest.repeat(count.parse::<usize>().expect("a number") - 1));
            world.send(user, &bytes);
            world.flush();
        }
        [user, ">", "presence", count] => {
            (0..count.parse().expect("a number"))
                .for_each(|_| world.steps(&format!("{user} > {{\"type\":\"presence\"}}")));
        }
        _ => world.steps(&line.replace("; ", ", ")),
    }
}

/// Replaces `<n>` with `n` bytes.
fn spelled_out(line: &str) -> String {
    match line.split_once('<').and_then(|(front, rest)| Some((front, rest.split_once('>')?.0))) {
        Some((front, count)) if count.parse::<usize>().is_ok() => {
            front.to_owned() + &"x".repeat(count.parse().expect("the pattern holds a number"))
        }
        _ => line.to_owned(),
    }
}

#[test]
fn every_field_has_one_row() {
    let folders = ["tests/it", "src/sim", "src/hook"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let files = folders.iter().flat_map(|folder| rust_files(folder));
    let sources: String = files.map(|path| fs::read_to_string(path).expect("a source is readable")).collect();
    for (fields, test) in HIT_ELSEWHERE {
        assert!(sources.contains(&format!("fn {test}()")), "{fields:?} name the test {test}, which does not exist");
    }
    let known = HIT.iter().map(|(fields, _)| fields[0].0);
    let mut known: Vec<&str> = known
        .chain(HIT_ELSEWHERE.iter().flat_map(|(fields, _)| fields.iter().copied()))
        .chain(NO_BOUNDS.iter().copied())
        .collect();
    let mut fields: Vec<&str> = Config::FIELDS.iter().map(|field| field.name).collect();
    known.sort_unstable();
    fields.sort_unstable();
    assert_eq!(known, fields, "each field of the configuration has one row");
}
