//! Refusals for a rate or a full inbox: checks each refusal that a client reads, and schedules the retry of a patient
//! client.

use std::time::Duration;

use super::client::clients::Clients;
use super::client::link::Link;
use super::client::retry::Retry;
use super::models::feed::Models;
use super::models::rates::Usage;
use super::swarm::behaviour::Behaviour;
use super::swarm::parameters::Swarm;
use crate::base::rate::Rate;
use crate::base::time::Time;

/// Longest wait after which a client retries.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// Largest padding with which a message arrives in one piece.
const MAX_WHOLE_PADDING: usize = 60;

/// Checks, after the client at `index` has read, that the server did not serve more messages than the rates allow, and
/// did not refuse a message that they allow.
pub(super) fn check(
    models: &mut Models,
    clients: &mut Clients,
    swarm: &Swarm,
    index: usize,
    now: Time,
) -> Result<(), String> {
    let Some(link) = clients.get_mut(index) else { return Ok(()) };
    let refusal = link.view.answers.refusal.take();
    let user = link.user;
    let connections = clients.connections_of(user);
    let link = clients.link(index);
    check_retry(models, link, connections, refusal)?;
    let usage = usage(models, link, connections, now);
    models.rates.check_served(&usage)?;
    let refused = match refusal {
        None => None,
        Some((reference, retry_after)) => {
            models.rates.check_refusal(&usage)?;
            models.behaviours.add(Behaviour::Rates);
            reference.zip(Some(Duration::from_millis(retry_after)))
        }
    };
    if let Some(wait) = note_refusal(link, refused) {
        schedule_retry(models, clients, swarm, index, wait);
    }
    Ok(())
}

/// Checks the answer to a retry: it must not be refused again.
fn check_retry(
    models: &mut Models,
    link: &mut Link,
    connections: usize,
    refusal: Option<(Option<u32>, u64)>,
) -> Result<(), String> {
    let Some(retry) = link.retry.filter(|retry| retry.retried.is_some()) else { return Ok(()) };
    let answered = link.view.answers.unanswered().is_none();
    if refusal.is_some_and(|(reference, _)| reference == retry.retried) {
        if connections == retry.connections && link.request_end == link.pipe.sent {
            return Err("refused again after the client waited as long as the server asked for".into());
        }
    } else if answered && refusal.is_none() {
        models.behaviours.add(Behaviour::Patient);
    }
    if answered || refusal.is_some() {
        link.retry = None;
    }
    Ok(())
}

fn usage(models: &Models, link: &Link, connections: usize, now: Time) -> Usage {
    let answers = &link.view.answers;
    Usage {
        elapsed: now - link.opened,
        tier: tier_of(models, link),
        connections,
        frames: link.pipe.sends + link.posted.0,
        bytes: link.pipe.sent + link.posted.1 + link.growth,
        served: answers.served,
        served_growth: answers.served_growth,
        refusals: answers.refusals,
        refusals_without_ref: answers.refusals_without_ref,
    }
}

fn tier_of(models: &Models, link: &Link) -> Option<Rate> {
    link.conn.and_then(|conn| models.tokens.tier_of(conn)).or(link.tier)
}

/// Records a refusal of a patient client, which then sends nothing until all requests are answered. If the last request
/// was refused, returns the wait before a retry.
fn note_refusal(link: &mut Link, refused: Option<(u32, Duration)>) -> Option<Duration> {
    // A client with an event stream does not know when its message arrives, so it does not wait.
    if link.traits.is_patient && link.retry.is_none() && !link.has_events() {
        link.refused = refused.or(link.refused);
    }
    if link.view.answers.unanswered().is_some() {
        return None;
    }
    link.refused.take().filter(|&(reference, _)| reference == link.last_ref).map(|(_, wait)| wait)
}

/// Schedules a retry of a patient client, if the wait alone guarantees that it is served.
fn schedule_retry(models: &Models, clients: &mut Clients, swarm: &Swarm, index: usize, wait: Duration) {
    let Some(link) = clients.get(index) else { return };
    let connections = clients.connections_of(link.user);
    // Other connections of the user share its buckets.
    let is_alone = !clients.iter().any(|it| it.number != link.number && it.user == link.user && it.conn.is_some());
    let is_waiting = link.traits.is_patient
        && !link.has_events()
        && link.retry.is_none()
        && link.may_send()
        && link.pipe.unread_by_server() == 0
        && link.request_end == link.pipe.sent
        && link.view.answers.unanswered().is_none();
    let is_whole = swarm.weight(Behaviour::Chunk) == 0 && swarm.padding <= MAX_WHOLE_PADDING;
    let is_enough = models.rates.is_wait_enough(tier_of(models, link), is_whole);
    if is_waiting && is_alone && is_enough && wait <= MAX_WAIT {
        let link = clients.link(index);
        let until = link.last_delivery + wait;
        link.retry = Some(Retry { until, sent: link.pipe.sent, connections, retried: None });
    }
}
