//! Draws the configuration of a run: tiny limits, no limits, or anything between.
//!
//! Knows only the fields of the configuration and which values are worth trying; checks nothing.

use std::time::Duration;

use super::behaviour::Behaviour;
use super::parameters::Swarm;
use super::pick::{limit, pick};
use crate::base::random::Random;
use crate::base::rate::Rate;
use crate::config::{ByteSize, Config, DuplicateLogin, Flush, ForwardedHeader, Limit, PerUser};

/// Lowest message rate that is drawn, so that the waits stay short.
const MIN_RATE: u32 = 10;
/// An inbox limit that no client reaches, so that no message is refused.
const VAST: ByteSize = ByteSize(1 << 30);

/// Draws a configuration: tiny limits, no limits, or anything between.
pub(crate) fn draw_config(random: &mut Random) -> Config {
    let mut config = Config::default();
    // No rates here: the clients would count a refused message as lost.
    for field in ["messages_per_second", "bytes_per_second", "control_per_second"] {
        let field = Config::FIELDS.iter().find(|known| known.name == field).expect("a field of the table");
        (field.set)(&mut config, "unlimited").expect("a rate may be unlimited");
    }
    if random.percent(10) {
        for field in ["max_connections", "max_per_lobby", "max_lobbies", "max_per_user"] {
            let field = Config::FIELDS.iter().find(|known| known.name == field).expect("a field of the table");
            (field.set)(&mut config, "unlimited").expect("a limit may be unlimited");
        }
        config.duplicate_login = DuplicateLogin::Allow;
        return config;
    }
    config.max_connections = limit(random, &[1, 3, 5, 8, 12, 0, 0, 0]);
    config.max_per_lobby = limit(random, &[1, 2, 4, 8, 8, 0, 0, 0]);
    config.max_lobbies = limit(random, &[1, 2, 0, 0, 0]);
    config.duplicate_login = pick(random, &[DuplicateLogin::Replace, DuplicateLogin::Reject, DuplicateLogin::Allow]);
    config.max_per_user = limit(random, &[1, 2, 0]);
    config.max_pending = pick(random, &[1, 4, 8, 256, 256]);
    config.max_closing = pick(random, &[1, 2, 256]);
    config.max_header_bytes = pick(random, &[ByteSize(512), ByteSize::kib(1), ByteSize::kib(8)]);
    config.max_message_bytes = pick(random, &[ByteSize(125), ByteSize(300), ByteSize(2000), ByteSize::kib(64)]);
    config.presence_max = pick(random, &[0, 1, 2, 4, 500]);
    if config.max_per_lobby == Limit::UNLIMITED && random.percent(70) {
        config.presence_max = config.presence_max.min(4);
    }
    config.max_outbound_bytes = ByteSize(config.largest_frame() + pick(random, &[0, 0, 300, 5000, 100_000]));
    // The rest of the outbox is for both histories. A byte of them counts up to four with the overhead.
    let rest = config.max_outbound_bytes.0 - config.largest_welcome();
    config.history_bytes = config.history_bytes.min(ByteSize(rest / 6));
    config.direct_bytes = config.direct_bytes.min(ByteSize(rest / 18));
    config.max_strikes = pick(random, &[0, 1, 3, 32]);
    config.wheel_granule = millis(random, &[1, 10, 10, 100, 1000]);
    draw_timeouts(&mut config, random);
    config
}

/// Draws the timeouts and what depends on them. Timeouts of similar size coincide more often.
fn draw_timeouts(config: &mut Config, random: &mut Random) {
    let scale = pick(random, &[20, 200, 2000]);
    config.handshake_timeout = millis(random, &[scale, 2 * scale, 5 * scale]);
    config.auth_timeout = millis(random, &[scale, 2 * scale, 5 * scale]);
    config.ping_interval = millis(random, &[4 * scale, 10 * scale, 30 * scale]);
    config.pong_timeout = config.ping_interval / pick(random, &[2, 4, 10]);
    config.health_timeout = millis(random, &[scale, 2 * scale, 5 * scale]);
    config.health_interval = random.percent(30).then(|| config.health_timeout * pick(random, &[1, 3, 10]));
    config.max_health_pings = pick(random, &[1, 2, 8]);
    let interval = millis(random, &[scale, 3 * scale]);
    config.presence_count_interval = pick(random, &[None, Some(interval), Some(interval)]);
    config.close_timeout = millis(random, &[scale, 2 * scale]);
    config.linger_timeout = millis(random, &[scale, 2 * scale]);
    config.drain_batch = pick(random, &[1, 2, 500]);
    config.drain_batch_interval = config.wheel_granule;
    // Time for 16 batches: a run has at most 16 seats, at worst one in each batch.
    config.drain_deadline = millis(random, &[scale, 10 * scale]) + config.drain_batch_interval * 16;
    // Every timeout is at least one granule long.
    let granule = config.wheel_granule;
    for span in [
        &mut config.handshake_timeout,
        &mut config.auth_timeout,
        &mut config.pong_timeout,
        &mut config.health_timeout,
        &mut config.close_timeout,
        &mut config.linger_timeout,
        &mut config.drain_deadline,
    ] {
        *span = (*span).max(granule);
    }
    config.ping_interval = config.ping_interval.max(config.pong_timeout * 2);
    config.health_interval = config.health_interval.map(|interval| interval.max(config.health_timeout));
}

/// Draws the configuration fields that belong to behaviours of the run. Each behaviour has its own generator, so that
/// excluding one does not change the others.
pub(crate) fn draw_for_behaviours(config: &mut Config, swarm: &Swarm, seed: u64) {
    let generator = |behaviour| (swarm.weight(behaviour) > 0).then(|| generator_of(behaviour, seed));
    config.deflate = cfg!(feature = "deflate") && swarm.weight(Behaviour::Compress) > 0;
    if let Some(random) = &mut generator(Behaviour::Rates) {
        draw_rates(config, random);
    }
    if let Some(random) = &mut generator(Behaviour::Expiry) {
        config.token_grace = pick(random, &[Duration::ZERO, Duration::from_millis(100), config.ping_interval]);
    }
    if let Some(random) = &mut generator(Behaviour::Lifetime) {
        let least = Duration::from_secs(1);
        config.max_lifetime = Some(pick(random, &[1, 10, 50, 200]) * config.ping_interval.max(least));
    }
    if let Some(random) = &mut generator(Behaviour::Addresses) {
        config.max_per_ip = limit(random, &[0, 0, 1, 2, 4]);
        config.attempts_per_minute = limit(random, &[0, 6, 60, 6000]);
        config.attempt_burst = pick(random, &[1, 3, 10, 60]);
        config.max_remembered_rates = pick(random, &[0, 1, 65_536]);
        config.trusted_proxies = pick(random, &[0, 0, 1]);
        let headers = [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded, ForwardedHeader::XRealIp];
        config.forwarded_header = pick(random, &headers);
    }
    if let Some(random) = &mut generator(Behaviour::OperatorSay) {
        config.max_idempotency_keys = pick(random, &[1, 2, 4, 64]);
    }
    if let Some(random) = &mut generator(Behaviour::BadRequest) {
        config.serve_client = random.percent(60);
        config.playground = random.percent(30);
    }
    if let Some(random) = &mut generator(Behaviour::Unread) {
        config.max_deferred_turns = pick(random, &[0, 1, 3, 1000]);
    }
    if let Some(random) = &mut generator(Behaviour::Probe) {
        config.max_overflow = pick(random, &[0, 1, 2, 64]);
    }
    if let Some(random) = &mut generator(Behaviour::Ticks) {
        draw_ticks(config, random);
    }
    if let Some(random) = &mut generator(Behaviour::Session) {
        draw_sessions(config, random);
    }
    if let Some(random) = &mut generator(Behaviour::LobbyControl)
        && swarm.weight(Behaviour::Session) > 0
    {
        draw_lobby_control(config, random);
    }
    if let Some(random) = &mut generator(Behaviour::Pressure) {
        config.outbound_high_mark = pick(random, &[ByteSize(1), ByteSize(100), ByteSize(1000), ByteSize(20_000)]);
        config.outbound_low_mark =
            ByteSize(pick(random, &[0, config.outbound_high_mark.0 / 4, config.outbound_high_mark.0 - 1]));
    }
}

/// Returns the random numbers for the configuration fields of a behaviour.
fn generator_of(behaviour: Behaviour, seed: u64) -> Random {
    Random::new(seed ^ 0x7e_12_35 ^ (behaviour as u64) << 40)
}

/// Draws the configuration fields of an application that has lobby control, whatever the behaviours of the run are.
pub(crate) fn draw_for_lobby_control(config: &mut Config, seed: u64) {
    let random = &mut generator_of(Behaviour::LobbyControl, seed);
    if config.seat_grace.is_zero() {
        config.seat_grace = millis(random, &[100, 2000, 30_000]);
    }
    draw_lobby_control(config, random);
}

/// Draws the rates of a run.
fn draw_rates(config: &mut Config, random: &mut Random) {
    config.messages_per_second = limit(random, &[0, MIN_RATE, MIN_RATE, 2 * MIN_RATE, 100, 5000]);
    config.message_burst = pick(random, &[1, 3, 20, 1000]);
    let own = |n: u32| PerUser::Own(if n == 0 { Limit::UNLIMITED } else { Limit::at_most(n) });
    config.user_messages_per_second = pick(random, &[PerUser::Same, PerUser::Same, own(0), own(MIN_RATE), own(5000)]);
    config.user_message_burst = pick(random, &[PerUser::Same, PerUser::Own(1), PerUser::Own(5), PerUser::Own(1000)]);
    // The control rate must allow the answers to the server's own pings, or answering them would end the connection.
    let in_a_second = |span: Duration| (1000 / span.as_millis().max(1)) as u32 + 1;
    let answers = in_a_second(config.ping_interval) + config.health_interval.map_or(0, in_a_second) + 2;
    config.control_per_second = limit(random, &[0, answers, 10 * answers]);
    config.control_burst = pick(random, &[4, 20, 1000]);
    let bytes = |n: u32| ByteSize(n as usize);
    let max_message = config.max_message_bytes.0;
    let max_received = if config.deflate { Config::max_compressed_bytes(max_message) } else { max_message };
    // A POST is charged for its head, too.
    let whole = max_received as u32 + 14 + 256;
    let least = MIN_RATE * whole + 80 * answers;
    config.bytes_per_second = limit(random, &[0, 0, 0, 0, 0, 0, least, 10 * least]);
    config.byte_burst = bytes(whole + pick(random, &[0, 300, 100_000]));
    let same = PerUser::Same;
    config.user_bytes_per_second = pick(random, &[own(0), own(0), own(0), same, same, same, same, own(least)]);
    let own_burst = |n: u32| PerUser::Own(bytes(n));
    let bursts = [PerUser::Same, own_burst(whole), own_burst(whole + 300), own_burst(whole + 100_000)];
    config.user_byte_burst = pick(random, &bursts);
    config.max_rate_strikes = pick(random, &[0, 5, 32, 32, 1000]);
}

/// Draws the own rate of an identity.
pub(crate) fn draw_tier(random: &mut Random) -> Rate {
    Rate::new(pick(random, &[MIN_RATE, 30, 5000]), Duration::from_secs(1), pick(random, &[1, 2, 10, 1000]))
}

/// Whether `config` limits any rate of a connection or a user.
pub(crate) fn has_rate_limits(config: &Config) -> bool {
    let users = [config.user_message_rate(), config.user_byte_rate()];
    let own = [config.message_rate(), config.byte_rate(), config.control_rate()];
    own.iter().chain(&users).any(Option::is_some)
}

/// Draws how long seats are kept, and how much is kept for them.
fn draw_sessions(config: &mut Config, random: &mut Random) {
    config.seat_grace = millis(random, &[0, 100, 500, 2000, 10_000, 30_000, 30_000]);
    config.away_after = millis(random, &[0, 1, 100, 1000]);
    config.history_frames = pick(random, &[0, 1, 2, 4, 16, 256]);
    let bytes = |random: &mut Random| pick(random, &[ByteSize(0), ByteSize(300), ByteSize(2000), ByteSize::kib(16)]);
    config.history_bytes = bytes(random);
    config.direct_frames = pick(random, &[0, 1, 2, 32]);
    config.direct_bytes = bytes(random);
    config.max_unanswered = pick(random, &[1, 3, 16, 16, 16]);
    config.max_outbound_bytes = config.max_outbound_bytes.max(ByteSize(config.largest_replay()));
}

/// Draws the bounds of lobby control, which needs that seats are kept.
fn draw_lobby_control(config: &mut Config, random: &mut Random) {
    if config.seat_grace.is_zero() {
        return;
    }
    config.lobby_control = true;
    config.host_grace = millis(random, &[0, 1, 100, 500, 5000]);
    config.max_lobby_keys = pick(random, &[0, 1, 3, 32]);
    config.max_member_keys = pick(random, &[0, 1, 2, 16]);
    config.max_lobby_data = pick(random, &[ByteSize(0), ByteSize(40), ByteSize(200), ByteSize::kib(1)]);
    config.max_member_data = pick(random, &[ByteSize(0), ByteSize(40), ByteSize(100), ByteSize(400)]);
    config.max_members_data = pick(random, &[ByteSize(0), ByteSize(60), ByteSize(200), ByteSize::kib(2)]);
    config.max_bans = pick(random, &[0, 1, 2, 64]);
    config.max_watchers = pick(random, &[0, 1, 3, 32]);
    config.max_empty_ttl = millis(random, &[0, 0, 100, 2000, 20_000]);
    let least = config.largest_replay().max(config.largest_frame());
    config.max_outbound_bytes = config.max_outbound_bytes.max(ByteSize(least));
}

/// Whether a message of a session may be refused because too many of its requests wait for the next tick.
pub(crate) fn has_unanswered_limit(config: &Config, swarm: &Swarm) -> bool {
    config.tick_hz.is_some() && swarm.weight(Behaviour::Session) > 0 && config.max_unanswered < 16
}

/// Draws the tick configuration of a run.
fn draw_ticks(config: &mut Config, random: &mut Random) {
    config.tick_hz = Some(pick(random, &[1, 3, 10, 30, 60, 144, 1000]));
    config.flush = if random.percent(40) { Flush::Tick } else { Flush::Turn };
    config.max_catch_up_ticks = pick(random, &[0, 1, 5, 20]);
    config.max_inbox_bytes =
        pick(random, &[ByteSize(0), ByteSize(500), ByteSize(5000), ByteSize::kib(64), VAST, VAST, VAST]);
}

/// Whether a message may be refused because the inbox for the next tick is full.
pub(crate) fn has_inbox_limit(config: &Config) -> bool {
    config.tick_hz.is_some() && config.max_inbox_bytes < VAST
}

/// Returns the wait between two messages of a user after which none is refused.
pub(crate) fn wait_between_messages(config: &Config) -> Duration {
    Duration::from_secs(1) / MIN_RATE + config.wheel_granule
}

fn millis(random: &mut Random, values: &[u64]) -> Duration {
    Duration::from_millis(pick(random, values))
}
