//! Model of the rates: draws rates, lets patient clients retry after the wait that the server asked for, and checks
//! that the engine neither serves nor refuses too many messages.

use std::time::Duration;

use super::client::Link;
use super::limit_model::{limit, pick};
use super::swarm::Behaviour;
use super::transcript::EventKind;
use super::view::{RequestKind, write_number};
use super::world::World;
use crate::base::random::Random;
use crate::base::rate::Rate;
use crate::base::time::Time;
use crate::config::{Config, Limit, PerUser};
use crate::engine::app::App;

/// Lowest message rate that is drawn, so that the waits stay short.
const MIN_RATE: u32 = 10;
/// Longest wait after which a client retries.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// A retry of a refused client: scheduled, or sent and not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    until: Time,
    /// Bytes that the client had sent when the retry was scheduled.
    sent: u64,
    /// Connections that the user had made by then.
    connections: usize,
    /// The `ref` of the retry, once it was sent.
    retried: Option<u32>,
}

/// Draws the rates of a run.
pub(super) fn draw(config: &mut Config, random: &mut Random) {
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
    let whole = config.max_message_bytes.0 as u32 + 14;
    let least = MIN_RATE * whole + 80 * answers;
    config.bytes_per_second = limit(random, &[0, 0, 0, 0, 0, 0, least, 10 * least]);
    config.byte_burst = whole + pick(random, &[0, 300, 100_000]);
    let same = PerUser::Same;
    config.user_bytes_per_second = pick(random, &[own(0), own(0), own(0), same, same, same, same, own(least)]);
    let (small, large) = (PerUser::Own(whole), PerUser::Own(whole + 100_000));
    config.user_byte_burst = pick(random, &[PerUser::Same, small, PerUser::Own(whole + 300), large]);
    config.max_rate_strikes = pick(random, &[0, 5, 32, 32, 1000]);
}

/// Draws the own rate of an identity.
pub(super) fn draw_tier(random: &mut Random) -> Rate {
    Rate::new(pick(random, &[MIN_RATE, 30, 5000]), Duration::from_secs(1), pick(random, &[1, 2, 10, 1000]))
}

/// Whether `config` limits any rate of a connection or a user.
pub(super) fn has_rate_limits(config: &Config) -> bool {
    let users = [config.user_message_rate(), config.user_byte_rate()];
    let own = [config.message_rate(), config.byte_rate(), config.control_rate()];
    own.iter().chain(&users).any(Option::is_some)
}

impl<A: App> World<A> {
    /// Returns the wait between two messages after which none is refused.
    pub(super) fn final_wait(&self) -> Duration {
        Duration::from_secs(1) / MIN_RATE + self.engine.config().wheel_granule
    }

    fn tier_of(&self, link: &Link) -> Option<Rate> {
        let identities = &self.engine.app().observed.identities;
        link.conn.and_then(|conn| identities.get(&conn)).and_then(|identity| identity.tier).or(link.tier)
    }

    /// Checks, after a client has read, that the server did not serve more messages than the rates allow, and did not
    /// refuse a message that they allow.
    pub(super) fn check_rates(&mut self, index: usize) -> Result<(), String> {
        let Some(link) = &mut self.links[index] else { return Ok(()) };
        let refusal = link.view.refusal.take();
        let retry = link.retry.filter(|retry| retry.retried.is_some());
        if let Some(retry) = retry {
            let answered = link.view.unanswered().is_none();
            if refusal.is_some_and(|(reference, _)| reference == retry.retried) {
                let same = self.connections_of(index) == retry.connections;
                let link = self.link(index);
                if same && link.request_end == link.pipe.sent {
                    return Err("refused again after the client waited as long as the server asked for".into());
                }
            } else if answered && refusal.is_none() {
                self.count(Behaviour::Patient);
            }
            if answered || refusal.is_some() {
                self.link(index).retry = None;
            }
        }
        let Some(link) = &self.links[index] else { return Ok(()) };
        let (config, tier) = (self.engine.config(), self.tier_of(link));
        let elapsed = self.now - link.opened;
        let earned = |rate: Rate| u128::from(rate.count()) * elapsed.as_micros() / rate.period().as_micros();
        let bound = |rate: Rate| u128::from(rate.burst()) + earned(rate) + 1;
        let view = &link.view;
        for rate in [tier.or(config.message_rate()), tier.or(config.user_message_rate())].into_iter().flatten() {
            if u128::from(view.served) > bound(rate) {
                return Err(format!("{} messages were served in {elapsed:?}, more than {rate} allows", view.served));
            }
        }
        let Some((reference, retry_after)) = refusal else {
            self.note_refusal(index, None);
            return Ok(());
        };
        let seconds = elapsed.as_secs() + 1;
        // Refusals for a full inbox do not count as rate strikes.
        let full = self.shared.has_inbox_limit;
        if !full && view.refusals > u64::from(config.max_rate_strikes) + seconds {
            return Err(format!("refused {} times in {elapsed:?} without being closed", view.refusals));
        }
        if view.refusals_without_ref > seconds {
            return Err(format!(
                "{} refusals without a ref in {elapsed:?}, more than one a second",
                view.refusals_without_ref
            ));
        }
        // Other connections of the user share its buckets, including closed ones.
        let has_user_rate = config.user_message_rate().is_some() || config.user_byte_rate().is_some();
        let is_shared = tier.is_some() || (has_user_rate && self.connections_of(index) > 1);
        let within = |rate: Option<Rate>, count: u64| rate.is_none_or(|rate| count <= u64::from(rate.burst()));
        if !is_shared
            && !full
            && within(config.message_rate(), link.pipe.sends)
            && within(config.control_rate(), link.pipe.sends)
            && within(config.byte_rate(), link.pipe.sent)
            && within(config.user_message_rate(), link.pipe.sends)
            && within(config.user_byte_rate(), link.pipe.sent)
        {
            return Err(format!("refused after only {} frames with {} bytes", link.pipe.sends, link.pipe.sent));
        }
        self.count(Behaviour::Rates);
        self.note_refusal(index, reference.zip(Some(Duration::from_millis(retry_after))));
        Ok(())
    }

    /// Records a refusal of a patient client, which then sends nothing until all requests are answered. If the last
    /// request was refused, schedules a retry.
    fn note_refusal(&mut self, index: usize, refused: Option<(u32, Duration)>) {
        let Some(link) = &mut self.links[index] else { return };
        if link.traits.is_patient && link.retry.is_none() {
            link.refused = refused.or(link.refused);
        }
        if link.view.unanswered().is_none()
            && let Some((reference, wait)) = link.refused.take()
            && reference == link.last_ref
        {
            self.schedule_retry(index, wait);
        }
    }

    /// Schedules a retry of a patient client, if the wait alone guarantees that it is served.
    fn schedule_retry(&mut self, index: usize, wait: Duration) {
        let connections = self.connections_of(index);
        let Some(link) = &self.links[index] else { return };
        let (config, tier) = (self.engine.config(), self.tier_of(link));
        // Other connections of the user share its buckets.
        let is_alone = !self
            .links
            .iter()
            .flatten()
            .any(|it| it.number != link.number && it.user == link.user && it.conn.is_some());
        let messages = config.message_rate().or(config.user_message_rate()).or(tier).is_some();
        let bytes = config.byte_rate().or(config.user_byte_rate()).is_some();
        // A message that arrives in pieces may be refused because of the last piece.
        let is_whole = !bytes || (self.swarm.weight(Behaviour::Chunk) == 0 && self.swarm.padding <= 60);
        let is_waiting = link.traits.is_patient
            && link.retry.is_none()
            && link.may_send()
            && link.pipe.unread_by_server() == 0
            && link.request_end == link.pipe.sent
            && link.view.unanswered().is_none();
        // With several kinds of limits, the wait for one may be too short for another.
        let reasons = [messages, bytes, self.shared.has_inbox_limit].into_iter().filter(|&reason| reason).count();
        if is_waiting && is_alone && is_whole && reasons < 2 && wait <= MAX_WAIT {
            let link = self.link(index);
            let until = link.last_delivery + wait;
            link.retry = Some(Retry { until, sent: link.pipe.sent, connections, retried: None });
        }
    }

    fn connections_of(&self, index: usize) -> usize {
        let user = self.links[index].as_ref().map(|link| link.user);
        self.shared.link_users.iter().filter(|&&other| Some(other) == user).count()
    }

    /// Returns the time of the next scheduled retry.
    pub(super) fn next_retry(&self) -> Option<Time> {
        let waiting = self.links.iter().flatten().filter_map(|link| link.retry);
        waiting.filter(|retry| retry.retried.is_none()).map(|retry| retry.until).min()
    }

    /// Sends the retries that are due and delivers them at once.
    pub(super) fn send_due_retries(&mut self) {
        for index in self.indices() {
            let Some(link) = &mut self.links[index] else { continue };
            let Some(mut retry) = link.retry.filter(|it| it.retried.is_none() && it.until <= self.now) else {
                continue;
            };
            link.retry = None;
            // The client may have sent an answer to a server's ping meanwhile.
            let is_silent = link.may_send() && link.conn.is_some() && link.pipe.sent == retry.sent;
            if !is_silent || self.connections_of(index) != retry.connections {
                continue;
            }
            self.note(index, EventKind::HasWaited, 0, &[]);
            let World { links, clients, .. } = self;
            let link = links[index].as_mut().expect("the loop checked that the link exists");
            link.traits.fragments = false;
            link.last_ref += 1;
            let reference = link.last_ref;
            let text = format!("{{\"type\":\"ping\",\"ref\":{}}}", write_number(reference.into()));
            link.send_request(RequestKind::Ping, Some(reference), &text, clients);
            retry.retried = Some(reference);
            link.retry = Some(retry);
            self.deliver(index, usize::MAX);
        }
    }

    /// Whether the connection can have been closed for exceeding a rate.
    pub(super) fn rates_allow(&self, link: &Link) -> bool {
        // 6 bytes: a frame has at least a header of 2 and a mask of 4.
        let frames = link.pipe.sent / 6;
        self.shared.has_rate_limits && frames > u64::from(self.engine.config().max_rate_strikes)
    }
}
