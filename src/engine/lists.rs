//! The list of lobbies: answers requests for a part of it, and tells the connections that follow it of changes.
//!
//! Connections with the same filter form a group, which shares the work and the text. A group is told of its first lobbies
//! once, and then of the changes among them, at most once a second. A connection whose socket takes no more is
//! skipped, and gets the whole window again later, so that nothing piles up for it.

use std::time::Duration;

use log::debug;

use super::core::Core;
use super::state::lists::Shown;
use crate::base::close::{CloseReason, Reject};
use crate::base::id::{ConnKey, ListKey};
use crate::base::list_query::{ListFilter, ListQuery};
use crate::base::time::Time;
use crate::egress::Priority;
use crate::http::response::JsonResponse;
use crate::http::{Cors, PlainResponse};
use crate::lobby::control::listed::ListPart;
use crate::protocol::{self, ClientRequest, Envelope, MalformedMessage};
use crate::ws::frame::{Frame, Outgoing};
use crate::ws::handshake::{Acceptance, Facts, Page, Request};

/// Most lobbies in one answer, and of which a group is told.
const MAX_SHOWN: usize = 100;
/// Most lobbies that are looked at for one answer or update. Looking at one takes about 100 ns, so it is about a
/// millisecond. Only a filter with several tags needs more than `MAX_SHOWN`, because each tag has an index of its own.
const MAX_LOOKED_AT: usize = 10_000;
/// Lobbies looked at, and connections told, after which updates go on in a later turn: at most ten times a second. So clients
/// with many different filters delay each other, and take a bounded share of the time of the server.
const MAX_WORK: usize = 10_000;
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes that may be queued for a connection that is told of a change: pongs, and the answer to a request.
const MAX_QUEUED: usize = 1024;

impl Core {
    // ---- requests ----

    /// Answers a request for a part of the list.
    ///
    /// # Errors
    ///
    /// The answer that is no list.
    pub(super) fn answer_list_request(
        &mut self,
        key: ConnKey,
        list: Result<ListQuery, PlainResponse>,
        cors: Option<Cors>,
        with_body: bool,
    ) -> Result<(), PlainResponse> {
        let ListQuery { filter, after } = list?;
        self.charge_list(key).map_err(|(response, _)| response)?;
        let part = self.list_part(&filter, after);
        let body = protocol::lobbies_json(part.lobbies.iter().map(|&(.., lobby)| lobby), part.next);
        let response = JsonResponse::text("application/json", body).with_cors(cors);
        self.close_with_json(key, &response, with_body);
        Ok(())
    }

    fn charge_list(&mut self, key: ConnKey) -> Result<(), (PlainResponse, Duration)> {
        let (address, now) = (self.address_of(key), self.now());
        self.rates.list.map_or(Ok(()), |rate| self.addresses.charge_list(address, now, rate))
    }

    fn list_part(&self, filter: &ListFilter, after: u64) -> ListPart<'_> {
        let nothing = || ListPart { lobbies: Vec::new(), next: None, looked_at: 0 };
        self.directory.listed().map_or_else(nothing, |listed| listed.part(filter, after, MAX_SHOWN, MAX_LOOKED_AT))
    }

    /// Lets a connection follow the list. It needs no authorization: the list is public.
    ///
    /// # Errors
    ///
    /// The HTTP response to a request that begins nothing.
    pub(super) fn follow_list(
        &mut self,
        key: ConnKey,
        request: Option<&Request<'_>>,
        facts: Facts,
        filter: Option<ListFilter>,
    ) -> Result<(), PlainResponse> {
        if matches!(facts.form, Ok(Acceptance::Post(_))) {
            return Err(PlainResponse::new(404, "the list of lobbies takes no messages by POST"));
        }
        if facts.form.is_ok()
            && let Err((response, wait)) = self.charge_list(key)
        {
            return self.refuse_early(key, &facts, response, CloseReason::RateLimited, Some(wait));
        }
        let Facts { form, cors, is_origin_allowed, .. } = facts;
        let (form, page) = (form?, Page { cors, session: None });
        let admitted =
            if is_origin_allowed { self.admit_to_list(key, filter) } else { Err(CloseReason::ForbiddenOrigin) };
        match admitted {
            Ok(filter) => {
                self.accept_form(key, &form, &page);
                self.begin_listing(key, filter);
                Ok(())
            }
            Err(reason) => {
                if let Some(request) = request.filter(|_| reason == CloseReason::ForbiddenOrigin) {
                    self.log_refused_origin(request);
                }
                self.refuse_form(key, &form, &page, reason)
            }
        }
    }

    fn admit_to_list(&self, key: ConnKey, filter: Option<ListFilter>) -> Result<ListFilter, CloseReason> {
        let filter = filter.ok_or(CloseReason::BadMessage)?;
        if self.lists.len() >= self.config.max_list_watchers as usize {
            return Err(CloseReason::ServerFull);
        }
        if !self.lists.has_room_for(self.address_of(key), self.config.max_per_ip) {
            return Err(CloseReason::IpLimit);
        }
        Ok(filter)
    }

    fn begin_listing(&mut self, key: ConnKey, filter: ListFilter) {
        let (now, address) = (self.now(), self.address_of(key));
        let (list, is_new) = self.lists.join(filter, key, address, now);
        self.conns.set_listing(key, list);
        let slot = &mut self.conns[key];
        slot.deadline = self.config.max_lifetime.map_or(Time::NEVER, |age| now + age);
        slot.ends_at_max_lifetime = true;
        debug!("conn={} peer={} follows the list of lobbies", self.conns[key].id, self.conns.remote(key));
        self.rearm(key);
        let part = self.list_part(&self.lists.group(list).filter, 0);
        let whole = whole_frame(&part);
        if is_new {
            let window = shown(&part);
            self.set_window(list, window);
        }
        let is_stale = self.lists.group(list).seen != self.list_changes();
        self.lists.set_stale(list, key, is_stale);
        self.send_unbounded(key, Outgoing::Frame(&whole), Priority::Normal);
        self.egress.mark_dirty(key);
    }

    // ---- updates ----

    pub(super) fn list_changes(&self) -> u64 {
        self.directory.listed().map_or(0, |listed| listed.changes())
    }

    /// Returns when connections are to be told of changes.
    pub(super) fn next_list_update(&self) -> Option<Time> {
        if self.lists.len() == 0 { None } else { self.lists.next(self.list_changes()) }
    }

    /// Tells the connections that follow the list of changes, where it is time to.
    pub(super) fn expire_lists(&mut self) {
        if self.lists.len() == 0 {
            return;
        }
        let (now, changes) = (self.now(), self.list_changes());
        let mut work = 0;
        while let Some(list) = self.lists.take_due(changes, now) {
            work += self.update_group(list);
            if work >= MAX_WORK {
                return self.lists.pause_until(now + PAUSE);
            }
        }
    }

    /// Tells a group of changes. Returns the work that it took.
    fn update_group(&mut self, list: ListKey) -> usize {
        let watchers: Vec<(ConnKey, bool)> = self.lists.watchers(list).collect();
        let is_slow = |key| self.egress.is_blocked(key) || self.egress.queued_size(key).bytes > MAX_QUEUED;
        let (slow, ready): (Vec<_>, Vec<_>) = watchers.into_iter().partition(|&(key, _)| is_slow(key));
        let mut work = slow.len() + ready.len();
        slow.into_iter().for_each(|(key, _)| self.lists.set_stale(list, key, true));
        if ready.is_empty() {
            return work;
        }
        let group = self.lists.group(list);
        let part = self.list_part(&group.filter, 0);
        work += part.looked_at;
        let (diff, whole) = (
            ready.iter().any(|&(_, is_stale)| !is_stale).then(|| diff_frame(&group.window, &part)).flatten(),
            ready.iter().any(|&(_, is_stale)| is_stale).then(|| whole_frame(&part)),
        );
        let window = shown(&part);
        self.set_window(list, window);
        for (key, is_stale) in ready {
            let frame = if is_stale { &whole } else { &diff };
            if let Some(frame) = frame {
                self.send_unbounded(key, Outgoing::Frame(frame), Priority::Normal);
            }
            self.lists.set_stale(list, key, false);
        }
        work
    }

    fn set_window(&mut self, list: ListKey, window: Vec<Shown>) {
        let seen = self.list_changes();
        let group = self.lists.group_mut(list);
        (group.window, group.seen) = (window, seen);
    }

    // ---- messages ----

    /// Handles a message of a connection that follows the list: its text, or `None` for a binary one. Messages of
    /// connections that are closing are ignored.
    pub(super) fn on_list_message(&mut self, key: ConnKey, text: Option<&str>) {
        if !self.conns[key].is_listing() {
            return;
        }
        self.counters.messages_in += 1;
        let read = text.map(|text| protocol::read(text, self.config.max_json_depth, || false));
        let (request, reference, why) = match read {
            Some(Ok(Envelope { request, reference })) => (Some(request), reference, ""),
            Some(Err(MalformedMessage { reference, why, .. })) => (None, reference, why),
            None => (None, None, "only text is understood here"),
        };
        let is_health_pong = matches!(request, Some(ClientRequest::HealthPong { .. }));
        let charged = match text {
            Some(text) if is_health_pong => self.charge_health_pong(key, text.len()),
            _ => self.charge_message(key),
        };
        if let Err(denied) = charged {
            return self.rate_limited(key, reference, denied);
        }
        let ack = |core: &mut Core| {
            if let Some(reference) = reference {
                protocol::write_ack(&mut core.buffers.text, reference, None);
                core.reply(key);
            }
        };
        match request {
            None => self.strike(key, reference, Reject::BadMessage, why),
            Some(ClientRequest::Ping) => {
                let server_time = self.unix_millis();
                protocol::write_pong(&mut self.buffers.text, reference, server_time);
                self.reply(key);
            }
            Some(ClientRequest::HealthPong { .. }) => ack(self),
            Some(ClientRequest::Leave) => {
                ack(self);
                self.begin_close(key, CloseReason::Left);
            }
            Some(_) => {
                let why = "you follow the list of lobbies: only ping, health_pong and leave are understood here";
                self.strike(key, reference, Reject::NotAllowed, why);
            }
        }
    }
}

fn shown(part: &ListPart<'_>) -> Vec<Shown> {
    let shown = part.lobbies.iter().map(|&(epoch, change, lobby)| Shown { epoch, change, code: lobby.code.clone() });
    shown.collect()
}

/// The frame with the whole window.
fn whole_frame(part: &ListPart<'_>) -> Frame {
    let mut text = String::new();
    protocol::write_lobbies(&mut text, part.lobbies.iter().map(|&(.., lobby)| lobby), part.next.is_some());
    Frame::text(&text)
}

/// The frame with the differences between the window before and now; `None` if there are none.
fn diff_frame(before: &[Shown], part: &ListPart<'_>) -> Option<Frame> {
    let find = |epoch: u64| before.binary_search_by_key(&epoch, |shown| shown.epoch).ok().map(|at| &before[at]);
    let is_new = |&&(epoch, change, _): &&(u64, u64, _)| find(epoch).is_none_or(|shown| shown.change != change);
    let is_gone = |shown: &&Shown| part.lobbies.binary_search_by_key(&shown.epoch, |&(epoch, ..)| epoch).is_err();
    let set: Vec<_> = part.lobbies.iter().filter(is_new).map(|&(.., lobby)| lobby).collect();
    // A lobby may have been created anew under its code.
    let is_back = |code: &&str| set.iter().any(|lobby| lobby.code == *code);
    let gone: Vec<&str> =
        before.iter().filter(is_gone).map(|shown| &*shown.code).filter(|code| !is_back(code)).collect();
    if set.is_empty() && gone.is_empty() {
        return None;
    }
    let mut text = String::new();
    protocol::write_lobbies_diff(&mut text, set.into_iter(), gone.into_iter());
    Some(Frame::text(&text))
}
