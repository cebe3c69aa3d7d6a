//! Clients post the messages for their event streams, on connections of their own.
//!
//! A client has one POST at a time under way. If it is not told that the messages were taken, it gives up its event stream.
//! It learns what became of them when it comes back to its session.

use super::connect::open_post;
use crate::base::close::CloseReason;
use crate::engine::app::App;
use crate::sim::client::link::Link;
use crate::sim::client::pipe::Side;
use crate::sim::client::request;
use crate::sim::client::sessions::session_name;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::world::World;

/// Lets all clients with event streams take the answers to their POSTs, and post what they have to say. Returns whether any
/// has done so.
pub(crate) fn run<A: App>(world: &mut World<A>) -> Result<bool, String> {
    let mut has_acted = false;
    for index in world.clients.indices() {
        if world.clients.get(index).is_some_and(Link::is_post) {
            has_acted |= take_answer(world, index)?;
        }
    }
    for index in world.clients.indices() {
        let posts = |link: &Link| link.may_say() && !link.to_post.is_empty();
        if world.clients.get(index).is_some_and(posts) {
            has_acted |= post(world, index);
        }
    }
    Ok(has_acted)
}

/// Takes the answer to a POST, on the link at `index`.
fn take_answer<A: App>(world: &mut World<A>, index: usize) -> Result<bool, String> {
    let World { server, clients, transcript, .. } = world;
    let link = clients.link(index);
    let (number, is_open, reason) = (link.number, link.pipe.client == Side::Open, link.reason);
    let posting = link.posting.as_mut().expect("the caller has checked");
    if !posting.waits {
        return Ok(false);
    }
    let (stream, answer) = (posting.stream, posting.answer.take());
    let at = clients.indices().find(|&at| clients.get(at).is_some_and(|link| link.number == stream));
    let reads = at.and_then(|at| clients.get(at)).is_some_and(Link::may_say);
    let is_over = at.and_then(|at| clients.get(at)).is_none_or(|link| link.reason.is_some());
    if let Some(Some(status)) = answer {
        let is_allowed = match status {
            202 | 408 | 503 => true,
            // The connection was ended by the application or an operator, or the network has lost its end.
            _ if reason.is_some_and(|reason| reason != CloseReason::HttpRefused) => true,
            404 => is_over,
            429 => clients.shared.may_refuse || server.models.addresses.limits_attempts(),
            _ => false,
        };
        if !is_allowed {
            transcript.current_client = number;
            return Err(format!("a POST for the event stream of client #{stream} is answered {status}"));
        }
    }
    let posting = clients.link(index).posting.as_mut().expect("the caller has checked");
    let is_done = answer == Some(Some(202));
    if is_done {
        posting.waits = false;
        if !posting.keeps {
            clients.link(index).pipe.end(Side::Ended);
        }
        return Ok(true);
    }
    if answer.is_none() && is_open && reads {
        return Ok(false);
    }
    posting.waits = false;
    // Nothing of it may arrive later.
    clients.link(index).pipe.end(Side::Reset);
    if let Some(stream) = at.and_then(|at| clients.get_mut(at)) {
        stream.pipe.end(Side::Ended);
    }
    Ok(true)
}

/// Posts what the client of the event stream at `index` has to say. Returns whether it was possible.
fn post<A: App>(world: &mut World<A>, index: usize) -> bool {
    let number = world.clients.link(index).number;
    let is_own = |link: &&Link| link.posting.as_ref().is_some_and(|posting| posting.stream == number);
    if world.clients.iter().filter(is_own).any(|link| link.posting.as_ref().is_some_and(|posting| posting.waits)) {
        return false;
    }
    let is_idle = |link: &Link| {
        is_own(&link)
            && link.posting.as_ref().is_some_and(|posting| posting.keeps)
            && link.pipe.client == Side::Open
            && !link.pipe.is_at_server_end()
            && link.pipe.sent > 0
    };
    let idle = world.clients.indices().find(|&at| world.clients.get(at).is_some_and(is_idle));
    let Some(at) = idle.or_else(|| open_post(world, index)) else { return false };
    world.count(Behaviour::Post);
    let max_body = world.server.config().max_message_bytes.0 * 2;
    let World { clients, random, .. } = world;
    let random = &mut random.clients;
    let stream = clients.link(index);
    let session = stream.view.answers.session.expect("only clients in a session post");
    let mut body = String::new();
    let line_end = if random.percent(20) { "\r\n" } else { "\n" };
    let most = 1 + random.below(6);
    for _ in 0..most {
        let has_room = |text: &String| body.is_empty() || body.len() + text.len() + 2 <= max_body;
        if !stream.to_post.front().is_some_and(has_room) {
            break;
        }
        let text = stream.to_post.pop_front().expect("there is a first one");
        body.push_str(&text);
        body.push_str(line_end);
        stream.posted.0 += 1;
    }
    // The last line may lack its end.
    if body.len() > max_body || random.percent(50) {
        body.truncate(body.trim_end().len());
    }
    // 256 bytes are charged for the request.
    stream.posted.1 += 256 + body.len() as u64 + most;
    let (user, lobby) = (stream.user, stream.lobby);
    // In the final phase no idle socket takes the room of another client.
    let keeps = random.percent(70) && !clients.shared.is_final_phase;
    let (user, lobby) = (&clients.shared.users[user], &clients.shared.lobbies[lobby]);
    let name = session_name(clients.shared.sessions.all[session].name);
    let request = request::post_request(user, lobby, &name, keeps, &body);
    let link = clients.link(at);
    let posting = link.posting.as_mut().expect("a connection for POSTs");
    (posting.waits, posting.keeps) = (true, keeps);
    link.pipe.send(&request);
    true
}
