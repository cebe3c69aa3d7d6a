//! The state of the engine except the application: connections, directory, timers and pending output.
//!
//! Every change goes through [`Core`]. Events for the application are queued in `app_events` and dispatched after the
//! call that caused them, so that no callback runs inside another.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use log::{debug, info};
use slab::Slab;

use super::drain::{CloseQueue, Drain};
use super::inbox::Inboxes;
use super::member::{Identity, Member, Pressure, Protocol};
use super::observer::{ObservedEvent, Observer};
use super::operator::Pings;
use super::origins::LoggedOrigins;
use super::rates::{Addresses, Rates, network_of};
use super::recording::RecordMode;
use super::slot::{ConnState, Slot};
use super::stats::{Counters, Stats};
use super::tick::Ticks;
use super::unread::UnreadInput;
use super::wheel::TimerWheel;
use super::{Full, Start};
use crate::base::close::{CloseReason, LeaveReason, Reject};
use crate::base::id::{ConnId, remove_keyed};
use crate::base::random::Random;
use crate::base::time::Time;
use crate::config::{Config, Limit};
use crate::egress::broadcast_log::BroadcastLog;
use crate::egress::outbox::{Outbox, Outboxes};
use crate::http::Refusal;
use crate::lobby::directory::{Directory, Joined, LobbyKey, Reservation};

/// An event that has still to be dispatched to the application.
#[derive(Debug)]
pub(crate) enum AppEvent {
    /// The member has left its seat or lost it to a newer connection, but its inbox still has messages. They are
    /// delivered before its leave is dispatched.
    Undelivered(Member),
    Joined(Member),
    Rejoined(Member),
    Left(Member, LeaveReason),
    Health(Member, Option<Duration>),
    Pressure(Member, Pressure),
}

pub(crate) struct Core {
    pub(super) config: Config,
    pub(super) protocol: Protocol,
    pub(super) now: Time,
    /// Time of the last [`handle_timeout`](super::Engine::handle_timeout), in which timers expire.
    pub(super) last_timeout: Time,
    /// The wall time at [`Time::ZERO`], by the wall clock as it is set now, in microseconds since the Unix epoch.
    pub(super) unix_at_zero: u64,
    /// Expiry of members' identities, by the key of the connection.
    pub(super) expiries: BTreeMap<usize, Expiry>,
    pub(super) random: Random,
    pub(super) slots: Slab<Slot>,
    pub(super) directory: Directory,
    pub(super) wheel: TimerWheel,
    pub(super) unread: UnreadInput,
    pub(super) rates: Rates,
    pub(super) addresses: Addresses,
    pub(super) counters: Counters,
    /// `None` when `tick_hz` is off.
    pub(super) ticks: Option<Ticks>,
    pub(super) inboxes: Inboxes,
    pub(super) app_events: VecDeque<AppEvent>,
    /// Lobbies with presence changes to flush at the end of the turn.
    pub(super) unflushed_lobbies: Vec<LobbyKey>,
    /// Connections with output to write, in the order in which the output was queued.
    pub(super) dirty: VecDeque<ConnId>,
    /// Closed connections whose socket the driver has still to drop.
    pub(super) closed: VecDeque<ConnId>,
    /// Closing connections, in the order in which they began to close.
    pub(super) closing: BTreeMap<u64, ConnId>,
    pub(super) closes_started: u64,
    /// Connections that have no seat yet, oldest first.
    pub(super) pending: BTreeMap<u64, ConnId>,
    pub(super) draining: Option<Drain>,
    pub(super) close_queue: CloseQueue,
    pub(super) pings: Pings,
    pub(super) rejection: Option<(Reject, Cow<'static, str>)>,
    /// The connection whose message the application is handling, and the `seq` of the last `message` that the
    /// application has sent with this member as `from`, or 0. The `ack` carries the `seq`.
    pub(super) relayed: Option<(ConnId, u64)>,
    /// Buffer in which JSON is written before it becomes a frame.
    pub(super) text: String,
    /// The broadcasts of this turn.
    pub(super) broadcast_log: BroadcastLog,
    pub(super) outboxes: Outboxes,
    /// Whether the driver should write before it reads on: in this turn a writable outbox crossed the high-water mark,
    /// or the broadcasts of one lobby exceeded half of the smallest bound.
    pub(super) wants_flush: bool,
    /// Lobbies with frames in this turn's buffers, whose members must still be written to; in the order of their first
    /// frame.
    pub(super) lobbies_to_flush: VecDeque<LobbyKey>,
    /// Keys of the connections still to flush in one of these lobbies, in reverse order.
    pub(super) flush_targets: Vec<u32>,
    /// Connections with output that is corked until the next tick; may contain duplicates.
    pub(super) corked_conns: Vec<ConnId>,
    /// Whether corked output is being written.
    pub(super) is_uncorking: bool,
    /// Connections that `poll_writable` returned in this turn and that have not been written to since.
    pub(super) flushing: Vec<ConnId>,
    /// Buffer that joins small pieces into one write.
    pub(super) write_buffer: Vec<u8>,
    /// Buffer for a received message while it is processed.
    pub(super) scratch: Vec<u8>,
    /// Scratch list of receivers that need the frame queued individually. Copied first, because queueing may add
    /// lagging members.
    pub(super) receivers: Vec<u32>,
    pub(super) logged_origins: LoggedOrigins,
    /// Recorder or replayer of the engine's inputs, if any.
    pub(super) record_mode: RecordMode,
    /// Set while a method of [`Context`](super::app::Context) runs. If it is still set afterwards, the method has
    /// panicked.
    pub(super) in_call: Cell<bool>,
    pub(super) observer: Observer,
}

impl Core {
    pub(super) fn new(config: Config, protocol: Protocol, start: Start) -> Core {
        Core {
            directory: Directory::new(&config),
            rates: Rates::new(&config),
            addresses: Addresses::new(&config),
            ticks: Ticks::new(&config),
            inboxes: Inboxes::new(&config),
            wheel: TimerWheel::new(config.wheel_granule),
            config,
            protocol,
            now: Time::ZERO,
            last_timeout: Time::ZERO,
            unix_at_zero: start.unix_micros,
            expiries: BTreeMap::new(),
            unread: UnreadInput::default(),
            random: Random::new(start.seed),
            slots: Slab::new(),
            counters: Counters::default(),
            app_events: VecDeque::new(),
            unflushed_lobbies: Vec::new(),
            dirty: VecDeque::new(),
            closed: VecDeque::new(),
            closing: BTreeMap::new(),
            closes_started: 0,
            pending: BTreeMap::new(),
            draining: None,
            close_queue: CloseQueue::default(),
            pings: Pings::default(),
            rejection: None,
            relayed: None,
            text: String::new(),
            broadcast_log: BroadcastLog::default(),
            outboxes: Outboxes::default(),
            wants_flush: false,
            lobbies_to_flush: VecDeque::new(),
            flush_targets: Vec::new(),
            corked_conns: Vec::new(),
            is_uncorking: false,
            flushing: Vec::new(),
            write_buffer: Vec::new(),
            scratch: Vec::new(),
            receivers: Vec::new(),
            logged_origins: LoggedOrigins::default(),
            record_mode: RecordMode::Off,
            in_call: Cell::new(false),
            observer: Observer::default(),
        }
    }

    // ---- panics of the engine ----

    /// Marks the start of a call of the application into the engine.
    #[inline]
    pub(super) fn begin_call(&self) {
        self.assert_consistent();
        self.in_call.set(true);
    }

    #[inline]
    pub(super) fn end_call(&self) {
        self.in_call.set(false);
    }

    /// Whether the engine has panicked during such a call.
    pub(super) fn has_panicked(&self) -> bool {
        self.in_call.get()
    }

    /// Panics if the engine has panicked before. Its state may be inconsistent, even if the application caught the
    /// panic.
    #[inline]
    pub(super) fn assert_consistent(&self) {
        assert!(!self.in_call.get(), "the engine has panicked before, so its state may be inconsistent");
    }

    /// Notes an event that is about to be dispatched.
    pub(super) fn observe_event(&mut self, event: &AppEvent) {
        self.observer.note_all(self.now, || match event {
            // The messages of the inbox are noted one by one.
            AppEvent::Undelivered(_) => None,
            AppEvent::Joined(member) => Some(ObservedEvent::Joined(member.clone())),
            AppEvent::Rejoined(member) => Some(ObservedEvent::TookOver(member.clone())),
            AppEvent::Left(member, reason) => Some(ObservedEvent::Left(member.clone(), *reason)),
            AppEvent::Health(member, latency) => Some(ObservedEvent::Health(member.clone(), *latency)),
            AppEvent::Pressure(member, pressure) => Some(ObservedEvent::Pressure(member.clone(), *pressure)),
        });
    }

    // ---- time ----

    /// Advances the time. It never goes back, even if the driver passes an earlier time.
    pub(super) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn unix_micros(&self) -> u64 {
        self.unix_at_zero.saturating_add(self.now.as_micros())
    }

    /// Sets the current wall time. Deadlines that are points in wall time move with it.
    pub(super) fn set_wall_time(&mut self, unix_micros: u64) {
        self.unix_at_zero = unix_micros.saturating_sub(self.now.as_micros());
        let keys: Vec<usize> = self.expiries.keys().copied().collect();
        for key in keys {
            self.set_expiry_deadline(key);
            self.rearm(key);
        }
    }

    /// Sets the deadline of a member whose identity expires: the expiry, or the end of `max_lifetime` if that is
    /// earlier.
    fn set_expiry_deadline(&mut self, key: usize) {
        let Expiry { unix_millis, max_lifetime_end } = self.expiries[&key];
        // Adds the grace first: after a step of the wall clock the expiry may lie before `Time::ZERO`.
        let unix_end = Time::from_micros(unix_millis.saturating_mul(1000)) + self.config.token_grace;
        let expires = Time::from_micros(unix_end.as_micros().saturating_sub(self.unix_at_zero));
        let slot = &mut self.slots[key];
        slot.deadline = expires.min(max_lifetime_end);
        slot.ends_at_max_lifetime = max_lifetime_end < expires;
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let tick = self.ticks.as_ref().and_then(|ticks| ticks.next(self.now));
        [self.next_timer(), self.next_batch_at(), tick].into_iter().flatten().min()
    }

    /// Time of the next timer of a connection or of an operator's ping.
    pub(super) fn next_timer(&self) -> Option<Time> {
        [self.wheel.next(), self.unread.next(), self.pings.next()].into_iter().flatten().min()
    }

    /// Returns the keys of the connections whose timers are due and not deferred for unread input.
    pub(super) fn expire(&mut self) -> Vec<usize> {
        let mut fired = Vec::new();
        self.wheel.expire(self.now, &mut fired);
        let mut due = Vec::new();
        if self.unread.next().is_some_and(|at| at <= self.now) {
            for (conn, turns) in self.unread.take_waiting() {
                if self.slot(conn).is_some() && !self.defer(conn.index(), turns) {
                    due.push(conn.index());
                }
            }
        }
        for key in fired {
            if !self.defer(key, 0) {
                due.push(key);
            }
        }
        due
    }

    /// Defers a connection's timer if the connection may have unread input, or if it is closing and will be written to
    /// in this turn: its socket may have become writable only now. Returns false when the timer must act now.
    fn defer(&mut self, key: usize, turns: u32) -> bool {
        let Some(slot) = self.slots.get(key) else { return false };
        // No input can extend a member's token or lifetime.
        let is_over = slot.seat().is_some() && self.now >= slot.deadline;
        let will_write = slot.close_reason.is_some() && slot.dirty;
        let may_wait = will_write || self.unread.contains(slot.id);
        let defers = !is_over && turns < self.config.max_deferred_turns && may_wait;
        if defers {
            self.unread.wait(self.now, slot.id, turns + 1);
        }
        defers
    }

    pub(super) fn rearm(&mut self, key: usize) {
        self.wheel.arm(key, self.slots[key].deadline(&self.config));
    }

    // ---- sockets ----

    pub(super) fn accept(&mut self, peer: SocketAddr) -> Result<ConnId, Full> {
        let is_full = self.pending.len() >= self.config.max_pending as usize;
        let is_refused = is_full && !self.displace_pending(peer.ip());
        if self.is_crowded() {
            match self.closing.first_key_value() {
                // During a drain, flushing the closing connections takes precedence over new ones.
                Some((_, &oldest)) if self.draining.is_none() => self.mark_closed(oldest.index()),
                _ => {
                    self.counters.shed += 1;
                    return Err(Full);
                }
            }
        }
        let index = self.slots.vacant_key();
        let Some(id) = ConnId::new(index, self.counters.accepted + 1) else {
            self.counters.shed += 1;
            return Err(Full);
        };
        self.counters.accepted += 1;
        self.slots.insert(Slot::new(id, peer, self.now));
        self.pending.insert(id.generation(), id);
        debug!("conn={id} peer={peer} accepted");
        if is_refused {
            // A socket beyond the bound of pending sockets counts as closing, so that the bound holds.
            self.record_close_reason(index, CloseReason::HttpRefused);
            self.set_closing(index);
            self.refuse_http(index, &Refusal::new(503, "the server is busy; try again in a moment"));
        } else {
            self.slots[index].deadline = self.now + self.config.handshake_timeout;
            self.rearm(index);
        }
        Ok(id)
    }

    /// Makes room for a new socket from `address` when `max_pending` is reached. Returns whether there is room now.
    ///
    /// Aborts the oldest pending socket of the address that has most of them, if it has more than `address` would then
    /// have. So a client that opens sockets and sends nothing can only displace its own sockets.
    fn displace_pending(&mut self, address: IpAddr) -> bool {
        // Behind a proxy all sockets come from the same address, as far as is known before the request.
        if self.config.trusted_proxies > 0 {
            return false;
        }
        let mut pending: BTreeMap<IpAddr, (usize, ConnId)> = BTreeMap::new();
        for &id in self.pending.values() {
            pending.entry(network_of(self.slots[id.index()].peer.address().ip())).or_insert((0, id)).0 += 1;
        }
        let count = pending.get(&network_of(address)).map_or(0, |&(count, _)| count);
        match pending.into_values().max_by_key(|&(count, _)| count) {
            Some((most, oldest)) if most > count + 1 => {
                debug!("conn={oldest} displaced: its address has {most} sockets without a seat");
                self.abort(oldest.index(), CloseReason::HttpRefused);
                true
            }
            _ => false,
        }
    }

    /// Whether a further socket needs the room of one that is closing.
    fn is_crowded(&self) -> bool {
        match self.max_sockets().bound() {
            Some(_) => !self.max_sockets().has_room(self.slots.len() - self.closed.len()),
            // The number of seats is unlimited, so closing connections are bounded on their own.
            None => self.closing.len() >= self.config.max_closing as usize,
        }
    }

    /// Bound on all sockets together.
    fn max_sockets(&self) -> Limit {
        match self.config.max_connections.bound() {
            None => Limit::UNLIMITED,
            Some(seats) => {
                Limit::at_most(seats.saturating_add(self.config.max_pending).saturating_add(self.config.max_closing))
            }
        }
    }

    /// Returns the slot of a connection that is not closed.
    pub(super) fn slot(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index()).filter(|slot| slot.id == id && !slot.is_closed())
    }

    /// Closes a connection at once: nothing more is written to it or read from it.
    pub(super) fn abort(&mut self, key: usize, reason: CloseReason) {
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
        }
        self.mark_closed(key);
    }

    /// Marks a connection as closed, discards its queued output, and lets the driver drop its socket.
    pub(super) fn mark_closed(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        match std::mem::replace(&mut slot.state, ConnState::Closed) {
            ConnState::Pending(authorization) => {
                self.pending.remove(&slot.id.generation());
                debug_assert!(authorization.is_none(), "leave_seat() has cancelled the reservation");
            }
            ConnState::Closing(order) => {
                self.closing.remove(&order);
            }
            ConnState::Seated(..) => unreachable!("leave_seat() has freed the seat"),
            ConnState::Closed => return,
        }
        let id = slot.id;
        let dropped = slot.wire.queued_bytes();
        if let Some(outbox) = slot.wire.queued_mut() {
            self.counters.frames_dropped += outbox.discard_unsent(&self.broadcast_log) as u64;
        }
        slot.wire.release_outbox(&mut self.outboxes);
        self.note_dropped(id, dropped);
        self.wheel.disarm(key);
        self.closed.push_back(id);
        if let Some(address) = self.slots[key].address {
            self.addresses.left(address, self.now);
        }
    }

    pub(super) fn poll_closed(&mut self) -> Option<ConnId> {
        let id = self.closed.pop_front()?;
        remove_keyed(&mut self.slots, id.index());
        if self.slots.is_empty() {
            self.discard_turn();
        }
        self.record_mode.forget(id);
        self.note_freed(id);
        Some(id)
    }

    // ---- seats ----

    /// Seats a connection whose upgrade was accepted.
    pub(super) fn seat(
        &mut self,
        key: usize,
        reservation: Option<Reservation>,
        code: &str,
        identity: &Identity,
    ) -> Result<(), CloseReason> {
        let (id, unix) = (self.slots[key].id, self.unix_micros());
        let user = &*identity.user;
        if let Some(seat) = self.directory.seat_to_take_over(code, user)
            && self.directory.seat(seat).is_announced
        {
            // The older connection receives the presence changes that are still to flush. The newer one must receive
            // its `welcome` first, and then the presence state.
            self.flush_presence(self.directory.seat(seat).lobby);
        }
        // The member that loses its seat is read while it still has the seat.
        let replaced = self.directory.seat_to_replace(user).map(|seat| self.directory.seat(seat).conn);
        let replaced = replaced.and_then(|conn| self.member(conn.index()));
        let Joined { seat, previous_conn, replaced_conn } = match reservation {
            Some(reservation) => self.directory.join_reserved(reservation, code, user, id, self.now, unix)?,
            None => self.directory.join(code, user, id, self.now, unix)?,
        };
        if let Some(old) = previous_conn.or(replaced_conn) {
            let member = replaced.expect("a seat's connection is seated");
            self.record_close_reason_of(old.index(), Some(&member), CloseReason::Replaced);
            if replaced_conn.is_some() {
                self.note_left(member, LeaveReason::Replaced);
            } else {
                self.note_undelivered(&member);
            }
            // The directory has already taken the seat away, so `leave_seat` is not called.
            self.set_closing(old.index());
            self.send_close(old.index(), CloseReason::Replaced);
        }
        let lobby_key = self.directory.seat(seat).lobby;
        info!(
            "conn={id} peer={} joined user={user:?} lobby={code}{}",
            self.slots[key].peer.address(),
            took_over_suffix(previous_conn)
        );
        self.pending.remove(&id.generation());
        self.charge_head_to_user(key, seat);
        let slot = &mut self.slots[key];
        slot.state = ConnState::Seated(seat as u32, lobby_key as u32);
        slot.meter.set_tier(identity.tier);
        let max_lifetime_end = self.config.max_lifetime.map_or(Time::NEVER, |age| self.now + age);
        slot.deadline = max_lifetime_end;
        slot.ends_at_max_lifetime = true;
        if let Some(interval) = self.config.health_interval {
            slot.health.schedule_check(self.now + interval);
        }
        if let Some(unix_millis) = identity.expires {
            self.expiries.insert(key, Expiry { unix_millis, max_lifetime_end });
            self.set_expiry_deadline(key);
        }
        let member = self.member(key).expect("it has just been seated");
        self.subscribe(key);
        self.rearm(key);
        if let Some(old) = previous_conn {
            self.inherit_queued_close(old, id);
        }
        self.apply_orders(key, user, code);
        // The event precedes the welcome, which may close a connection whose outbox is too small.
        if previous_conn.is_some() {
            self.counters.taken_over += 1;
            self.app_events.push_back(AppEvent::Rejoined(member.clone()));
        } else {
            self.counters.joined += 1;
            self.app_events.push_back(AppEvent::Joined(member.clone()));
        }
        if self.protocol == Protocol::Json {
            self.welcome(&member);
        } else {
            // A raw protocol sends no presence, so all members count as announced.
            self.discard_presence_changes(lobby_key);
        }
        Ok(())
    }

    /// Whether `member` still has the seat that it describes.
    pub(super) fn is_seated(&self, member: &Member) -> bool {
        self.slots.get(member.conn.index()).is_some_and(|slot| slot.id == member.conn && slot.seat().is_some())
    }

    /// Returns the member in the seat of the connection `key`; `None` if the connection has no seat.
    pub(super) fn member(&self, key: usize) -> Option<Member> {
        let slot = &self.slots[key];
        let (seat_key, lobby_key) = (slot.seat()?, slot.lobby()?);
        Some(Member {
            conn: slot.id,
            user: self.directory.user_of(seat_key).clone(),
            lobby: self.directory.lobby_ref(lobby_key).code.clone(),
            seat: self.directory.seat(seat_key).id,
            seat_key,
            lobby_key,
        })
    }

    /// Records that a member has left its seat: queues the presence change and the events for the application.
    pub(super) fn note_left(&mut self, member: Member, reason: LeaveReason) {
        self.counters.left += 1;
        if self.directory.get_lobby(member.lobby_key).is_some() {
            if self.protocol == Protocol::Json && self.draining.is_none() {
                self.unflushed_lobbies.push(member.lobby_key);
            } else {
                self.discard_presence_changes(member.lobby_key);
            }
        }
        self.note_undelivered(&member);
        self.app_events.push_back(AppEvent::Left(member, reason));
    }

    pub(super) fn discard_presence_changes(&mut self, lobby: LobbyKey) {
        let Core { directory, .. } = self;
        if directory.lobby_ref(lobby).presence.is_flushed() {
            return;
        }
        let count = directory.members(lobby).len();
        directory.lobby_mut(lobby).presence.discard_changes();
        for index in (0..count).rev() {
            let seat = directory.members(lobby)[index];
            // Unannounced seats are at the end, because members are in join order.
            if std::mem::replace(&mut directory.seat_mut(seat).is_announced, true) {
                break;
            }
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let seated = self.directory.members_count();
        let max_connections = self.config.max_connections.bound();
        let capacity_percent = match max_connections {
            None => 0.0,
            Some(0) => 100.0,
            Some(max) => (seated as f64 / f64::from(max) * 1000.0).round() / 10.0,
        };
        Stats {
            total_connections: seated,
            max_connections,
            capacity_percent,
            active_lobbies: self.directory.lobbies_count(),
            pending: self.pending.len(),
            closing: self.closing.len(),
            ticks: self.ticks.as_ref().map(|ticks| ticks.stats(self.inboxes.bytes())),
            counters: self.counters.clone(),
        }
    }

    /// Asserts all invariants. Visits every connection, lobby and timer.
    pub(super) fn check(&self) {
        self.directory.check();
        self.wheel.check();
        let (mut pending, mut seated, mut closing, mut closed) = (0, 0, 0, 0);
        for (key, slot) in &self.slots {
            assert_eq!(slot.id.index(), key);
            slot.wire.outbox().into_iter().for_each(Outbox::check);
            let is_deferred = self.unread.is_waiting(slot.id);
            assert!(!slot.is_closed() || !self.wheel.is_armed(key), "a closed connection has no timer: {slot:?}");
            assert!(
                slot.is_closed() || is_deferred || self.wheel.is_armed(key),
                "every connection that is not closed has a timer: {slot:?}"
            );
            let deadline = slot.deadline(&self.config);
            let in_time = slot.is_closed() || is_deferred || self.wheel.fires_by(key, deadline);
            assert!(in_time, "the timer fires by the deadline: {slot:?}");
            assert!(
                !self.expiries.contains_key(&key) || slot.seat().is_some(),
                "only members have an expiring identity"
            );
            // The response to the upgrade may repeat a name from the request head.
            let bound = self.config.max_outbound_bytes.0.max(self.config.max_header_bytes.0) + OUTBOX_OVERRUN;
            assert!(self.queued_size(key).cost <= bound, "max_outbound_bytes: {slot:?}");
            match &slot.state {
                ConnState::Pending(_) => pending += 1,
                &ConnState::Seated(seat, lobby) => {
                    seated += 1;
                    assert!(slot.close_reason.is_none() && slot.wire.is_open(), "a member's connection is open");
                    let seat = self.directory.seat(seat as usize);
                    assert_eq!((seat.conn, seat.lobby), (slot.id, lobby as usize));
                    assert!(slot.health.open_checks() <= self.config.max_health_pings as usize);
                    assert!(slot.strikes <= self.config.max_strikes);
                }
                ConnState::Closing(order) => {
                    closing += 1;
                    assert!(slot.close_reason.is_some(), "a closing connection has a close reason");
                    assert_eq!(self.closing.get(order), Some(&slot.id));
                }
                ConnState::Closed => closed += 1,
            }
            let has_ranges = slot.wire.outbox().is_some_and(Outbox::has_ranges);
            assert!(
                !has_ranges || slot.dirty || self.flushing.contains(&slot.id) || self.corked_conns.contains(&slot.id),
                "frames of the broadcast log are written in their turn: {slot:?}"
            );
            assert!(slot.wire.outbox().is_none() || !slot.is_closed(), "a closed connection has no outbox");
            let is_corked = slot.wire.outbox().is_some_and(Outbox::is_corked);
            assert!(
                !is_corked || self.corked_conns.contains(&slot.id),
                "corked output is uncorked at the tick: {slot:?}"
            );
            let is_ready = slot.wire.outbox().is_some_and(Outbox::is_ready);
            assert!(!is_ready || slot.dirty || slot.blocked, "queued output is scheduled for a write: {slot:?}");
            self.check_cursor(key);
        }
        self.check_close_queue();
        self.ticks.iter().for_each(Ticks::check);
        self.inboxes.check(self.config.max_message_bytes.0, |conn| {
            self.slots.get(conn.index()).is_some_and(|slot| slot.id == conn && slot.seat().is_some())
        });
        let mut addresses = BTreeMap::new();
        for (_, slot) in self.slots.iter().filter(|(_, slot)| !slot.is_closed()) {
            slot.address.into_iter().for_each(|address| *addresses.entry(address).or_insert(0) += 1);
        }
        assert_eq!(self.addresses.len(), addresses.len(), "only addresses with a connection are counted");
        assert!(addresses.iter().all(|(&address, &count)| self.addresses.connections(address) == count));
        assert_eq!((pending, closing, closed), (self.pending.len(), self.closing.len(), self.closed.len()));
        assert_eq!(seated, self.directory.members_count(), "every seat has its connection");
        assert!(self.pending.len() <= self.config.max_pending as usize, "max_pending");
        assert!(self.max_sockets().bound().is_none_or(|bound| pending + seated + closing <= bound as usize));
        let counters = &self.counters;
        assert_eq!(counters.joined - counters.left, seated as u64, "every join has one leave");
        let ended = self.slots.iter().filter(|(_, slot)| slot.close_reason.is_some()).count() as u64;
        let freed = counters.accepted - self.slots.len() as u64;
        assert_eq!(counters.closed_in_all(), freed + ended, "every connection has one close reason");
    }
}

/// Size of an outbox beyond its bound: the bookkeeping of the last frame, a pong, a goodbye and a close frame.
const OUTBOX_OVERRUN: usize = 1024;

/// Suffix of the log message of a join.
fn took_over_suffix(previous_conn: Option<ConnId>) -> &'static str {
    if previous_conn.is_some() { " (took over)" } else { "" }
}

/// Expiry of a member's identity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// Milliseconds since the Unix epoch.
    unix_millis: u64,
    /// Time at which `max_lifetime` ends the connection.
    max_lifetime_end: Time,
}
