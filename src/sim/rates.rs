//! How much clients may do: rates that are drawn, clients that wait when told to, and whether both sides keep to it.

use std::time::Duration;

use super::client::Link;
use super::limit_model::{limit, pick};
use super::swarm::Behaviour;
use super::transcript::What;
use super::view::{Question, write_number};
use super::world::World;
use crate::config::{Config, Limit, PerUser};
use crate::engine::app::App;
use crate::random::Random;
use crate::rate::Rate;
use crate::time::Time;

/// The lowest rate of messages that is drawn, so that there is an end to waiting for the next.
const LEAST: u32 = 10;
/// Nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whoever was refused waits, and then tries again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    until: Time,
    /// What it had sent by then, and how many connections its user had made.
    sent: u64,
    connections: usize,
    /// The `ref` of the second attempt.
    retried: Option<u32>,
}

/// Draws the rates of a run.
pub(super) fn draw(config: &mut Config, random: &mut Random) {
    config.messages_per_second = limit(random, &[0, LEAST, LEAST, 2 * LEAST, 100, 5000]);
    config.message_burst = pick(random, &[1, 3, 20, 1000]);
    let own = |n: u32| PerUser::Own(if n == 0 { Limit::UNLIMITED } else { Limit::at_most(n) });
    config.user_messages_per_second = pick(random, &[PerUser::Same, PerUser::Same, own(0), own(LEAST), own(5000)]);
    config.user_message_burst = pick(random, &[PerUser::Same, PerUser::Own(1), PerUser::Own(5), PerUser::Own(1000)]);
    // What the server itself asks for must fit, or it ends whoever answers.
    let in_a_second = |span: Duration| (1000 / span.as_millis().max(1)) as u32 + 1;
    let answers = in_a_second(config.ping_interval) + config.health_interval.map_or(0, in_a_second) + 2;
    config.control_per_second = limit(random, &[0, answers, 10 * answers]);
    config.control_burst = pick(random, &[4, 20, 1000]);
    let whole = config.max_message_bytes.0 as u32 + 14;
    let least = LEAST * whole + 80 * answers;
    config.bytes_per_second = limit(random, &[0, 0, 0, 0, 0, 0, least, 10 * least]);
    config.byte_burst = whole + pick(random, &[0, 300, 100_000]);
    let same = PerUser::Same;
    config.user_bytes_per_second = pick(random, &[own(0), own(0), own(0), same, same, same, same, own(least)]);
    let (small, large) = (PerUser::Own(whole), PerUser::Own(whole + 100_000));
    config.user_byte_burst = pick(random, &[PerUser::Same, small, PerUser::Own(whole + 300), large]);
    config.max_rate_strikes = pick(random, &[0, 5, 32, 32, 1000]);
}

/// A rate of a connection's own.
pub(super) fn draw_tier(random: &mut Random) -> Rate {
    Rate::new(pick(random, &[LEAST, 30, 5000]), Duration::from_secs(1), pick(random, &[1, 2, 10, 1000]))
}

/// Whether anybody may be refused for its rate.
pub(super) fn are_limited(config: &Config) -> bool {
    let users = [config.user_message_rate(), config.user_byte_rate()];
    let own = [config.message_rate(), config.byte_rate(), config.control_rate()];
    own.iter().chain(&users).any(Option::is_some)
}

impl<A: App> World<A> {
    /// After which a message is not refused, when there is one at a time.
    pub(super) fn calm_wait(&self) -> Duration {
        Duration::from_secs(1) / LEAST + self.engine.config().wheel_granule
    }

    fn tier_of(&self, link: &Link) -> Option<Rate> {
        let identities = &self.engine.app().seen.identities;
        link.conn.and_then(|conn| identities.get(&conn)).and_then(|identity| identity.tier).or(link.tier)
    }

    /// A client has read something: it can have been refused, or served, only so often.
    pub(super) fn check_rates(&mut self, place: usize) -> Result<(), String> {
        let Some(link) = &mut self.links[place] else { return Ok(()) };
        let refusal = link.view.refusal.take();
        let patience = link.patience.filter(|patience| patience.retried.is_some());
        if let Some(patience) = patience {
            let answered = link.view.unanswered().is_none();
            if refusal.is_some_and(|(reference, _)| reference == patience.retried) {
                let same = self.connections_of(place) == patience.connections;
                let link = self.link(place);
                if same && link.asked_at == link.pipe.sent {
                    return Err("refused again, after it had waited as long as it was told".into());
                }
            } else if answered && refusal.is_none() {
                self.count(Behaviour::Patient);
            }
            if answered || refusal.is_some() {
                self.link(place).patience = None;
            }
        }
        let Some(link) = &self.links[place] else { return Ok(()) };
        let (config, tier) = (self.engine.config(), self.tier_of(link));
        let elapsed = self.now - link.opened;
        let earned = |rate: Rate| u128::from(rate.count()) * elapsed.as_micros() / rate.period().as_micros();
        let bound = |rate: Rate| u128::from(rate.burst()) + earned(rate) + 1;
        let view = &link.view;
        for rate in [tier.or(config.message_rate()), tier.or(config.user_message_rate())].into_iter().flatten() {
            if u128::from(view.served) > bound(rate) {
                return Err(format!("{} messages were served in {elapsed:?}, of which {rate}", view.served));
            }
        }
        let Some((reference, retry_after)) = refusal else {
            self.hold_back(place, None);
            return Ok(());
        };
        let seconds = elapsed.as_secs() + 1;
        // Whoever has said too much for one tick is no offender.
        let full = self.common.has_full_inboxes;
        if !full && view.refusals > u64::from(config.max_rate_strikes) + seconds {
            return Err(format!("refused {} times in {elapsed:?}, and not closed", view.refusals));
        }
        if view.unasked > seconds {
            return Err(format!("told {} times in {elapsed:?} of what had no ref", view.unasked));
        }
        // Other connections of its user spend from the same buckets, also those that are gone.
        let has_user_rate = config.user_message_rate().is_some() || config.user_byte_rate().is_some();
        let is_shared = tier.is_some() || (has_user_rate && self.connections_of(place) > 1);
        let within = |rate: Option<Rate>, count: u64| rate.is_none_or(|rate| count <= u64::from(rate.burst()));
        if !is_shared
            && !full
            && within(config.message_rate(), link.pipe.sends)
            && within(config.control_rate(), link.pipe.sends)
            && within(config.byte_rate(), link.pipe.sent)
            && within(config.user_message_rate(), link.pipe.sends)
            && within(config.user_byte_rate(), link.pipe.sent)
        {
            return Err(format!("refused, after {} frames of {} bytes in all", link.pipe.sends, link.pipe.sent));
        }
        self.count(Behaviour::Rates);
        self.hold_back(place, reference.zip(Some(Duration::from_millis(retry_after))));
        Ok(())
    }

    /// A patient client that was refused says nothing until all is answered; and when the last was refused too, it waits.
    fn hold_back(&mut self, place: usize, refused: Option<(u32, Duration)>) {
        let Some(link) = &mut self.links[place] else { return };
        if link.manners.is_patient && link.patience.is_none() {
            link.refused = refused.or(link.refused);
        }
        if link.view.unanswered().is_none()
            && let Some((reference, wait)) = link.refused.take()
            && reference == link.references
        {
            self.begin_to_wait(place, wait);
        }
    }

    /// Lets a patient client wait, if nothing but time stands between it and being served.
    fn begin_to_wait(&mut self, place: usize, wait: Duration) {
        let connections = self.connections_of(place);
        let Some(link) = &self.links[place] else { return };
        let (config, tier) = (self.engine.config(), self.tier_of(link));
        // Others of its user spend from the same.
        let is_alone = !self
            .links
            .iter()
            .flatten()
            .any(|it| it.number != link.number && it.user == link.user && it.conn.is_some());
        let messages = config.message_rate().or(config.user_message_rate()).or(tier).is_some();
        let bytes = config.byte_rate().or(config.user_byte_rate()).is_some();
        // What comes in several pieces may be refused for the last of them.
        let is_whole = !bytes || (self.swarm.weight(Behaviour::Chunk) == 0 && self.swarm.padding <= 60);
        let knows = link.manners.is_patient
            && link.patience.is_none()
            && link.may_speak()
            && link.pipe.upward() == 0
            && link.asked_at == link.pipe.sent
            && link.view.unanswered().is_none();
        // Whoever is refused because too much waits for the tick may find its rate used up when that is over.
        let reasons = [messages, bytes, self.common.has_full_inboxes].into_iter().filter(|&reason| reason).count();
        if knows && is_alone && is_whole && reasons < 2 && wait <= PATIENCE {
            let link = self.link(place);
            let until = link.last_heard + wait;
            link.patience = Some(Patience { until, sent: link.pipe.sent, connections, retried: None });
        }
    }

    fn connections_of(&self, place: usize) -> usize {
        let user = self.links[place].as_ref().map(|link| link.user);
        self.common.owners.iter().filter(|&&owner| Some(owner) == user).count()
    }

    /// When the next of those who wait tries again.
    pub(super) fn next_retry(&self) -> Option<Time> {
        let waiting = self.links.iter().flatten().filter_map(|link| link.patience);
        waiting.filter(|patience| patience.retried.is_none()).map(|patience| patience.until).min()
    }

    /// Whoever has waited long enough tries again, and is heard at once.
    pub(super) fn retry(&mut self) {
        for place in self.places() {
            let Some(link) = &mut self.links[place] else { continue };
            let Some(mut patience) = link.patience.filter(|it| it.retried.is_none() && it.until <= self.now) else {
                continue;
            };
            link.patience = None;
            // An answer to the server's own ping may have come between.
            let is_silent = link.may_speak() && link.conn.is_some() && link.pipe.sent == patience.sent;
            if !is_silent || self.connections_of(place) != patience.connections {
                continue;
            }
            self.note(place, What::HasWaited, 0, &[]);
            let World { links, clients, .. } = self;
            let link = links[place].as_mut().expect("just looked at");
            link.manners.fragments = false;
            link.references += 1;
            let reference = link.references;
            let text = format!("{{\"type\":\"ping\",\"ref\":{}}}", write_number(reference.into()));
            link.ask(Question::Ping, Some(reference), &text, clients);
            patience.retried = Some(reference);
            link.patience = Some(patience);
            self.deliver(place, usize::MAX);
        }
    }

    /// Whether a connection can have been ended for its rate.
    pub(super) fn may_be_struck(&self, link: &Link) -> bool {
        // No frame is shorter than a header and its mask.
        let frames = link.pipe.sent / 6;
        self.common.limited && frames > u64::from(self.engine.config().max_rate_strikes)
    }
}
