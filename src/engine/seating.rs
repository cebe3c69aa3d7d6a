//! Seats an admitted connection: which seat it gets, what becomes of the connection or the seat that it replaces, and what
//! it is sent first.

use log::info;

use super::core::Core;
use super::member::{Identity, Member, Protocol};
use super::state::events::AppEvent;
use super::state::timers::Expiry;
use crate::base::close::{CloseReason, LeaveReason};
use crate::base::event_kind::EventKind;
use crate::base::id::{AddressKey, ConnId, ConnKey, SeatKey};
use crate::base::session::{Position, SessionHash};
use crate::base::time::Time;
use crate::lobby::directory::{Plan, SeatRequest};
use crate::lobby::entering::Wanted;

/// The seat that a connection gets or frees, as it was before.
struct Previous {
    member: Member,
    /// `None` if the seat was away.
    conn: Option<ConnId>,
    address: AddressKey,
    /// Whether the seat kept its address from being forgotten.
    has_hold: bool,
    session: Option<SessionHash>,
}

/// How a member has got its seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// With a seat of its own.
    Joined,
    /// With the seat that its user had.
    TookOver,
    /// With the seat of its session. The position is that of the client, if it has one.
    Resumed { position: Option<Position>, continuity: Continuity },
}

/// What a client knows of the session to whose seat it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Continuity {
    /// It has its state.
    Same,
    /// Its page was loaded anew.
    Reloaded,
    /// Its position is of an earlier session of this name: it had not read the `welcome` of this one.
    Unread,
}

impl Core {
    /// Seats a connection whose upgrade was accepted, or closes it with the reason.
    pub(super) fn seat_or_refuse(&mut self, key: ConnKey, wanted: Wanted<'_>, identity: &Identity) {
        match self.seat(key, wanted, identity) {
            Ok(()) => self.egress.mark_dirty(key),
            Err(reason) => self.refuse_login(key, wanted, &identity.user, reason),
        }
    }

    /// Closes a connection that gets no seat. If another seat of its user is the reason, that one is pinged. If only away
    /// seats are the reason, the client is asked to come back when the first of them is free.
    pub(super) fn refuse_login(&mut self, key: ConnKey, wanted: Wanted<'_>, user: &str, reason: CloseReason) {
        let wait = match reason {
            CloseReason::UserLimit => self.ping_for_login(user),
            CloseReason::RateLimited => self.check_guesses(key).err().map(|(_, wait)| wait),
            _ => {
                let code = self.directory.resolve(&wanted, user, self.now());
                let (role, address) = (wanted.entry.role, self.address_of(key));
                let free_at = self.directory.room_after_away(&code, role, address, reason);
                free_at.map(|at| (at - self.now()) + self.config.wheel_granule)
            }
        };
        self.begin_close_for(key, reason, wait);
    }

    /// Seats a connection whose upgrade was accepted.
    fn seat(&mut self, key: ConnKey, wanted: Wanted<'_>, identity: &Identity) -> Result<(), CloseReason> {
        let code = self.directory.resolve(&wanted, &identity.user, self.now());
        let request = SeatRequest::new(&code, &identity.user, self.address_of(key), &wanted);
        let plan = self.plan_seat(&request);
        let plan = self.judge_guess(key, plan, wanted.entry)?;
        self.take_seat(key, request, plan, identity, |_, _| {});
        Ok(())
    }

    pub(super) fn plan_seat(&mut self, request: &SeatRequest<'_>) -> Result<Plan, CloseReason> {
        let plan = self.directory.plan(request, self.now())?;
        if let Plan::Resume(seat) | Plan::TakeOver(seat) = plan
            && self.directory.seat(seat).is_announced
        {
            // The older connection receives the presence changes that are still to flush. The newer one must receive
            // its `welcome` first, and then the presence state. That the member is back belongs to the changes before.
            self.directory.tell_back(seat, self.clock.now());
            self.flush_presence(self.directory.seat(seat).lobby);
            // The flush may have closed members as too slow.
            return self.directory.plan(request, self.now());
        }
        Ok(plan)
    }

    /// Gives a connection its seat. `register` is called when it has the seat, before anybody is told.
    pub(super) fn take_seat(
        &mut self,
        key: ConnKey,
        request: SeatRequest<'_>,
        plan: Plan,
        identity: &Identity,
        register: impl FnOnce(&mut Core, SeatKey),
    ) {
        let id = self.conns[key].id;
        let SeatRequest { code, user, .. } = request;
        let (seat, arrival, previous_conn) = self.fill_seat(id, request, plan);
        register(self, seat);
        let lobby_key = self.directory.seat(seat).lobby;
        info!("conn={id} peer={} user={user:?} lobby={code} joined{}", self.conns.remote(key), arrival.log_suffix());
        self.charge_head_to_user(key, seat);
        self.conns.set_seated(key, seat);
        self.begin_stay(key, identity);
        let member = self.member(key).expect("it has just been seated");
        self.egress.subscribe(key, lobby_key);
        self.rearm(key);
        if let Some(old) = previous_conn.filter(|_| !matches!(plan, Plan::Move(_))) {
            self.inherit_queued_close(old, id);
        }
        self.apply_orders(key, user, code);
        self.announce_seat(&member, arrival);
    }

    /// Gives a seat to a connection of another node. Returns the seat.
    pub(super) fn take_seat_elsewhere(
        &mut self,
        request: SeatRequest<'_>,
        plan: Plan,
        register: impl FnOnce(&mut Core, SeatKey),
    ) -> SeatKey {
        let (seat, arrival, _) = self.fill_seat(ConnId::ELSEWHERE, request, plan);
        register(self, seat);
        let lobby = self.directory.seat(seat).lobby;
        self.note_arrival(self.member_in(seat), arrival);
        // As the connection's own node does it when it sends the `welcome`.
        if self.directory.seat(seat).is_announced {
            self.flush_members(lobby);
            self.note_presence_state(seat, lobby);
            if self.config.lobby_control {
                self.unflushed_lobbies.push(lobby);
            }
        } else {
            self.unflushed_lobbies.push(lobby);
        }
        seat
    }

    /// Joins, takes over or resumes a seat for the connection `id`, and ends what it replaces. Returns the seat, and the
    /// connection that it had.
    fn fill_seat(&mut self, id: ConnId, request: SeatRequest<'_>, plan: Plan) -> (SeatKey, Arrival, Option<ConnId>) {
        let (unix, now) = (self.clock.unix_micros(), self.now());
        let claim = request.claim;
        // The seat is read while it is as it was.
        let previous = plan.seat().map(|seat| self.previous(seat));
        let seat = self.directory.join(request, plan, id, now, unix);
        let previous_conn = previous.as_ref().and_then(|previous| previous.conn);
        let session_before = previous.as_ref().and_then(|previous| previous.session);
        if let Some(previous) = previous {
            self.end_previous(id, plan, seat, previous);
        }
        let arrival = match plan {
            Plan::Move(_) | Plan::Join => Arrival::Joined,
            Plan::TakeOver(_) => Arrival::TookOver,
            Plan::Resume(_) => {
                let position = claim.and_then(|claim| claim.position);
                let continuity = if session_before != claim.map(|claim| claim.session) {
                    Continuity::Reloaded
                } else if self.is_of_earlier_session(seat, position) {
                    Continuity::Unread
                } else {
                    Continuity::Same
                };
                Arrival::Resumed { position, continuity }
            }
        };
        self.begin_session(seat, arrival, claim.as_ref());
        (seat, arrival, previous_conn)
    }

    fn previous(&self, key: SeatKey) -> Previous {
        let seat = self.directory.seat(key);
        Previous {
            member: self.member_in(key),
            conn: self.directory.conn_of(key),
            address: seat.address,
            has_hold: self.has_address_hold(key),
            session: self.directory.session_of(key),
        }
    }

    /// Closes the connection that has lost its seat, and ends a seat in another lobby.
    fn end_previous(&mut self, id: ConnId, plan: Plan, seat: SeatKey, previous: Previous) {
        let Previous { member, conn, address, has_hold, .. } = previous;
        let is_moved = matches!(plan, Plan::Move(_));
        if let Some(old) = conn {
            self.record_close_reason_of(old.key(), Some(&member), CloseReason::Replaced);
        }
        let (old_seat, old_lobby) = (member.seat_key, member.lobby_key);
        if is_moved {
            self.forget_session(old_seat, old_lobby);
            self.note_left(member, LeaveReason::Replaced);
        } else {
            // Before the older connection is sent its close.
            self.note_directs_before(conn, seat, member.is_away);
            self.note_undelivered(&member);
        }
        if let Some(old) = conn {
            // The directory has already taken the seat away, so `leave_seat` is not called.
            self.set_closing(old.key());
            self.send_close(old.key(), CloseReason::Replaced, None);
        }
        if self.is_clustered() {
            return;
        }
        let needs_hold = !is_moved && self.directory.seat(seat).address != self.address_of(id.key());
        match (has_hold, needs_hold) {
            (true, false) => self.addresses.left(address, self.now()),
            (false, true) => self.addresses.hold(address),
            _ => {}
        }
    }

    /// Returns the key of the address that the connection counts for.
    pub(super) fn address_of(&self, key: ConnKey) -> AddressKey {
        self.conns[key].address.expect("charge_attempt() has set it before the application was asked")
    }

    /// Sets the deadlines and the rate of a connection that has just been seated.
    fn begin_stay(&mut self, key: ConnKey, identity: &Identity) {
        let now = self.clock.own();
        let slot = &mut self.conns[key];
        slot.meter.set_tier(identity.tier);
        let max_lifetime_end = self.config.max_lifetime.map_or(Time::NEVER, |age| now + age);
        slot.deadline = max_lifetime_end;
        slot.ends_at_max_lifetime = true;
        if let Some(interval) = self.config.health_interval {
            slot.health.schedule_check(now + interval);
        }
        self.identity_data.set(key, identity.data.clone());
        if let Some(unix_millis) = identity.expires {
            self.timers.expiries.insert(key, Expiry { unix_millis, max_lifetime_end });
            self.set_expiry_deadline(key);
        }
    }

    /// Queues the event for a member that has just been seated, and sends its `welcome`.
    fn announce_seat(&mut self, member: &Member, arrival: Arrival) {
        // The event precedes the welcome, which may close a connection whose outbox is too small.
        self.note_arrival(member.clone(), arrival);
        if self.protocol == Protocol::Json {
            self.welcome(member, arrival);
        } else {
            // A raw protocol sends no presence, so all members count as announced.
            self.discard_presence_changes(member.lobby_key);
        }
    }

    fn note_arrival(&mut self, member: Member, arrival: Arrival) {
        match arrival {
            Arrival::Joined => {
                self.counters.joined += 1;
                self.feed_member(EventKind::Joined, &member, None);
                self.events.push_back(AppEvent::Joined(member));
            }
            Arrival::TookOver => {
                self.counters.taken_over += 1;
                self.feed_member(EventKind::Rejoined, &member, None);
                self.events.push_back(AppEvent::Rejoined(member));
            }
            Arrival::Resumed { .. } => {
                self.counters.resumed += 1;
                self.feed_member(EventKind::Back, &member, None);
                self.events.push_back(AppEvent::Back(member));
            }
        }
    }
}

impl Arrival {
    /// Suffix of the log message of a join.
    fn log_suffix(self) -> &'static str {
        match self {
            Arrival::Joined => "",
            Arrival::TookOver => " (took over)",
            Arrival::Resumed { .. } => " (came back)",
        }
    }
}
