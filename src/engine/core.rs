//! Everything the engine owns but the application: connections, directory, timers, and what has still to happen.
//!
//! Every change goes through here. What the application must be told of a change is put into `app_events` and told
//! after the call that brought it about, so that no callback runs inside another.

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
use super::operator::Pings;
use super::origins::LoggedOrigins;
use super::rates::{Addresses, Rates, network_of};
use super::recording::RecordMode;
use super::slot::{ConnState, Slot};
use super::stats::{Counters, Stats};
use super::tick::Ticks;
use super::unread::Unread;
use super::wheel::TimerWheel;
use super::{Full, Start};
use crate::close::{CloseReason, LeaveReason, Reject};
use crate::config::{Config, Limit};
use crate::id::{ConnId, remove_keyed};
use crate::lobby::directory::{Directory, Joined, LobbyKey, Reservation};
use crate::random::Random;
use crate::time::Time;
use crate::wire::broadcast_log::BroadcastLog;
use crate::wire::http::Refusal;
use crate::wire::outbox::{Outbox, Outboxes};

/// What the application has still to be told.
#[derive(Debug)]
pub(crate) enum AppEvent {
    /// A connection is about to leave its seat, and what it said has not been heard.
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
    /// When timers were last looked at.
    pub(super) looked_at: Time,
    /// What the wall clock, as it stands now, showed or would have shown at [`Time::ZERO`], in microseconds since the Unix
    /// epoch.
    pub(super) unix_at_zero: u64,
    /// By the key of a member's connection, when its identity expires.
    pub(super) expiries: BTreeMap<usize, Expiry>,
    pub(super) random: Random,
    pub(super) slots: Slab<Slot>,
    pub(super) directory: Directory,
    pub(super) wheel: TimerWheel,
    pub(super) unread: Unread,
    pub(super) rates: Rates,
    pub(super) addresses: Addresses,
    pub(super) counters: Counters,
    /// `None` when `tick_hz` is off.
    pub(super) ticks: Option<Ticks>,
    pub(super) inboxes: Inboxes,
    pub(super) app_events: VecDeque<AppEvent>,
    /// Lobbies whose members have something to be told at the end of the turn.
    pub(super) unflushed_lobbies: Vec<LobbyKey>,
    /// Connections with something to write, in the order in which they got it.
    pub(super) dirty: VecDeque<ConnId>,
    /// Connections whose socket the driver has still to drop.
    pub(super) closed: VecDeque<ConnId>,
    /// Connections that are saying goodbye, oldest first.
    pub(super) closing: BTreeMap<u64, ConnId>,
    pub(super) closing_ever: u64,
    /// Sockets that hold no seat yet, oldest first.
    pub(super) pending: BTreeMap<u64, ConnId>,
    pub(super) draining: Option<Drain>,
    pub(super) close_queue: CloseQueue,
    pub(super) pings: Pings,
    pub(super) rejection: Option<(Reject, Cow<'static, str>)>,
    /// The connection that the application hears, and the `seq` of the last `message` that it has sent in its name, or 0: for
    /// the `ack`.
    pub(super) relayed: Option<(ConnId, u64)>,
    /// Where JSON is written before it becomes a frame.
    pub(super) text: String,
    /// What lobbies say in this turn.
    pub(super) broadcast_log: BroadcastLog,
    pub(super) outboxes: Outboxes,
    /// Whether an outbox that can be written to, or what a lobby has said, has crossed the high mark in this turn.
    pub(super) wants_flush: bool,
    /// Lobbies whose members have to be written to, because of what lies in the buffers of this turn; who spoke first is first.
    pub(super) lobbies_to_flush: VecDeque<LobbyKey>,
    /// The keys of the connections of those members of one of them that have still to be named, the next one last.
    pub(super) flush_targets: Vec<u32>,
    /// Connections for which something is held until the tick; some more than once.
    pub(super) corked_conns: Vec<ConnId>,
    /// Whether what was held is being written.
    pub(super) is_uncorking: bool,
    /// Connections that were named as writable in this turn and have not been written to since.
    pub(super) flushing: Vec<ConnId>,
    /// Where small pieces are put together to be written.
    pub(super) gathered: Vec<u8>,
    /// Where a received message lies while it is acted on.
    pub(super) scratch: Vec<u8>,
    /// Where those stand for whom a frame is queued one by one: that changes who is behind.
    pub(super) receivers: Vec<u32>,
    pub(super) logged_origins: LoggedOrigins,
    /// Who records or foretells.
    pub(super) record_mode: RecordMode,
    /// Set while a method of [`Context`](super::app::Context) runs. If it is still set afterwards, the method has panicked.
    pub(super) in_call: Cell<bool>,
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
            looked_at: Time::ZERO,
            unix_at_zero: start.unix_micros,
            expiries: BTreeMap::new(),
            unread: Unread::default(),
            random: Random::new(start.seed),
            slots: Slab::new(),
            counters: Counters::default(),
            app_events: VecDeque::new(),
            unflushed_lobbies: Vec::new(),
            dirty: VecDeque::new(),
            closed: VecDeque::new(),
            closing: BTreeMap::new(),
            closing_ever: 0,
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
            gathered: Vec::new(),
            scratch: Vec::new(),
            receivers: Vec::new(),
            logged_origins: LoggedOrigins::default(),
            record_mode: RecordMode::Off,
            in_call: Cell::new(false),
        }
    }

    // ---- whether it is whole ----

    /// The application calls the engine.
    #[inline]
    pub(super) fn begin_call(&self) {
        self.assert_whole();
        self.in_call.set(true);
    }

    #[inline]
    pub(super) fn end_call(&self) {
        self.in_call.set(false);
    }

    /// Whether the engine has panicked while the application called it.
    pub(super) fn has_panicked(&self) -> bool {
        self.in_call.get()
    }

    /// Panics if the engine has panicked before. Its state may be half changed, also if the application caught the panic.
    #[inline]
    pub(super) fn assert_whole(&self) {
        assert!(!self.in_call.get(), "the engine has panicked before, so its state cannot be trusted");
    }

    // ---- time ----

    /// Time never goes back, whatever the driver's clock does.
    pub(super) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn unix_micros(&self) -> u64 {
        self.unix_at_zero.saturating_add(self.now.as_micros())
    }

    /// The wall clock shows `unix_micros` now. Deadlines that are points in wall time move with it.
    pub(super) fn set_wall_time(&mut self, unix_micros: u64) {
        self.unix_at_zero = unix_micros.saturating_sub(self.now.as_micros());
        let keys: Vec<usize> = self.expiries.keys().copied().collect();
        for key in keys {
            self.set_expiry_deadline(key);
            self.rearm(key);
        }
    }

    /// Sets the deadline of a member whose identity expires: that of the identity, or of `max_lifetime` if it is earlier.
    fn set_expiry_deadline(&mut self, key: usize) {
        let Expiry { unix_millis, retires } = self.expiries[&key];
        // The grace first: after a step of the clock the end may lie before Time::ZERO.
        let ends = Time::from_micros(unix_millis.saturating_mul(1000)) + self.config.token_grace;
        let expires = Time::from_micros(ends.as_micros().saturating_sub(self.unix_at_zero));
        let slot = &mut self.slots[key];
        slot.deadline = expires.min(retires);
        slot.retires = retires < expires;
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let tick = self.ticks.as_ref().and_then(|ticks| ticks.next(self.now));
        [self.next_timer(), self.next_batch_at(), tick].into_iter().flatten().min()
    }

    /// When the next timer of a connection, or of an operator's ping to one, is due.
    pub(super) fn next_timer(&self) -> Option<Time> {
        [self.wheel.next(), self.unread.next(), self.pings.next()].into_iter().flatten().min()
    }

    /// The keys of connections whose timers are due and need not wait for input to be read.
    pub(super) fn expire(&mut self) -> Vec<usize> {
        let mut fired = Vec::new();
        self.wheel.expire(self.now, &mut fired);
        let waited = self.unread.take_waiting(self.now);
        let mut due = Vec::new();
        for (conn, turns) in waited {
            if self.slot(conn).is_some() && !self.defer(conn.index(), turns) {
                due.push(conn.index());
            }
        }
        for key in fired {
            if !self.defer(key, 0) {
                due.push(key);
            }
        }
        due
    }

    /// Lets a connection's timer wait if the connection may have unread input, or if it is ending and is to be written to in
    /// this turn: its socket may have got room for the rest only now. False when the timer must act now.
    fn defer(&mut self, key: usize, turns: u32) -> bool {
        let Some(slot) = self.slots.get(key) else { return false };
        // No input can move the end of a member's token or lifetime.
        let is_over = slot.seat().is_some() && self.now >= slot.deadline;
        let has_room = slot.close_reason.is_some() && slot.dirty;
        let may_wait = has_room || self.unread.contains(slot.id);
        let defers = !is_over && turns < self.config.max_deferred_turns && may_wait;
        if defers {
            self.unread.wait(self.now, slot.id, turns + 1);
        }
        defers
    }

    pub(super) fn rearm(&mut self, key: usize) {
        self.wheel.arm(key, self.slots[key].deadline(&self.config));
    }

    // ---- sockets come and go ----

    pub(super) fn accept(&mut self, peer: SocketAddr) -> Result<ConnId, Full> {
        let is_full = self.pending.len() >= self.config.max_pending as usize;
        let turned_away = is_full && !self.displace_pending(peer.ip());
        if self.is_crowded() {
            match self.closing.first_key_value() {
                // While draining, what is queued for those who go comes before whoever comes.
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
        if turned_away {
            // Those over the bound of pending sockets count as closing, so that the bound holds.
            self.record_close_reason(index, CloseReason::HttpRefused);
            self.set_closing(index);
            self.refuse_http(index, &Refusal::new(503, "the server is busy; try again in a moment"));
        } else {
            self.slots[index].deadline = self.now + self.config.handshake_timeout;
            self.rearm(index);
        }
        Ok(id)
    }

    /// Makes a newcomer from `address` room when all places for those without a seat are taken: the oldest of the address
    /// that holds the most gives way, if that is more than the newcomer's would then hold. So whoever opens sockets and
    /// says nothing keeps out nobody but itself.
    fn displace_pending(&mut self, address: IpAddr) -> bool {
        // Behind a proxy everybody comes from the same address, as far as can be seen before the request.
        if self.config.trusted_proxies > 0 {
            return false;
        }
        let mut held: BTreeMap<IpAddr, (usize, ConnId)> = BTreeMap::new();
        for &id in self.pending.values() {
            held.entry(network_of(self.slots[id.index()].peer.address().ip())).or_insert((0, id)).0 += 1;
        }
        let own = held.get(&network_of(address)).map_or(0, |&(count, _)| count);
        match held.into_values().max_by_key(|&(count, _)| count) {
            Some((most, oldest)) if most > own + 1 => {
                debug!("conn={oldest} gives way: its address holds {most} sockets without a seat");
                self.abort(oldest.index(), CloseReason::HttpRefused);
                true
            }
            _ => false,
        }
    }

    /// Whether a further socket needs the place of one that is saying goodbye.
    fn is_crowded(&self) -> bool {
        match self.max_sockets().bound() {
            Some(_) => !self.max_sockets().has_room(self.slots.len() - self.closed.len()),
            // Seats are not limited, so those saying goodbye are bounded by themselves.
            None => self.closing.len() >= self.config.max_closing as usize,
        }
    }

    /// All sockets there may be at once.
    fn max_sockets(&self) -> Limit {
        match self.config.max_connections.bound() {
            None => Limit::UNLIMITED,
            Some(seats) => {
                Limit::at_most(seats.saturating_add(self.config.max_pending).saturating_add(self.config.max_closing))
            }
        }
    }

    /// The slot of a connection that is not gone.
    pub(super) fn slot(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index()).filter(|slot| slot.id == id && !slot.is_closed())
    }

    /// The connection was lost: nothing more can be written to it or read from it.
    pub(super) fn abort(&mut self, key: usize, reason: CloseReason) {
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
        }
        self.mark_closed(key);
    }

    /// Gives the connection up at once: the driver is told to drop its socket.
    pub(super) fn mark_closed(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        match std::mem::replace(&mut slot.state, ConnState::Closed) {
            ConnState::Pending(waiting) => {
                self.pending.remove(&slot.id.generation());
                debug_assert!(waiting.is_none(), "leave_seat() has given the reservation back");
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
        slot.wire.give_back(&mut self.outboxes);
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
            self.forget_turn();
        }
        self.record_mode.forget(id);
        self.note_freed(id);
        Some(id)
    }

    // ---- seats ----

    /// Puts a connection that was accepted as a WebSocket into a seat.
    pub(super) fn seat(
        &mut self,
        key: usize,
        reservation: Option<Reservation>,
        code: &str,
        identity: &Identity,
    ) -> Result<(), CloseReason> {
        let (id, unix) = (self.slots[key].id, self.unix_micros());
        let user = &*identity.user;
        if let Some(own) = self.directory.seat_to_take_over(code, user)
            && self.directory.seat(own).is_announced
        {
            // What the lobby has still to be told goes to the older connection: the newer one hears its welcome first,
            // and then who is there.
            self.flush_presence(self.directory.seat(own).lobby);
        }
        // Whoever loses its seat is noted while it still has it.
        let replaced = self.directory.seat_to_replace(user).map(|own| self.directory.seat(own).conn);
        let replaced = replaced.and_then(|conn| self.member(conn.index()));
        let Joined { seat, took_over, gave_up } = match reservation {
            Some(reservation) => self.directory.join_reserved(reservation, code, user, id, self.now, unix)?,
            None => self.directory.join(code, user, id, self.now, unix)?,
        };
        if let Some(old) = took_over.or(gave_up) {
            let member = replaced.expect("a seat's connection is seated");
            self.record_close_reason_of(old.index(), Some(&member), CloseReason::Replaced);
            if gave_up.is_some() {
                self.note_left(member, LeaveReason::Replaced);
            } else {
                self.note_undelivered(&member);
            }
            // Its seat is not its own any more, so there is nothing to leave_seat.
            self.set_closing(old.index());
            self.send_close(old.index(), CloseReason::Replaced);
        }
        let lobby_key = self.directory.seat(seat).lobby;
        info!(
            "conn={id} peer={} joined user={user:?} lobby={code}{}",
            self.slots[key].peer.address(),
            taken_over_word(took_over)
        );
        self.pending.remove(&id.generation());
        self.share_bytes(key, seat);
        let slot = &mut self.slots[key];
        slot.state = ConnState::Seated(seat as u32, lobby_key as u32);
        slot.meter.set_tier(identity.tier);
        let retires = self.config.max_lifetime.map_or(Time::NEVER, |age| self.now + age);
        slot.deadline = retires;
        slot.retires = true;
        if let Some(interval) = self.config.health_interval {
            slot.health.schedule_check(self.now + interval);
        }
        if let Some(unix_millis) = identity.expires {
            self.expiries.insert(key, Expiry { unix_millis, retires });
            self.set_expiry_deadline(key);
        }
        let member = self.member(key).expect("it has just been seated");
        self.subscribe(key);
        self.rearm(key);
        if let Some(old) = took_over {
            self.inherit_queued_close(old, id);
        }
        self.apply_orders(key, user, code);
        // Before the welcome, which may already end a connection whose outbox is too small.
        if took_over.is_some() {
            self.counters.taken_over += 1;
            self.app_events.push_back(AppEvent::Rejoined(member.clone()));
        } else {
            self.counters.joined += 1;
            self.app_events.push_back(AppEvent::Joined(member.clone()));
        }
        if self.protocol == Protocol::Json {
            self.welcome(&member);
        } else {
            // Nobody is told, so everybody counts as told.
            self.discard_presence_changes(lobby_key);
        }
        Ok(())
    }

    /// Whether `member` is still in the seat it describes.
    pub(super) fn is_seated(&self, member: &Member) -> bool {
        self.slots.get(member.conn.index()).is_some_and(|slot| slot.id == member.conn && slot.seat().is_some())
    }

    /// Who is in the seat that the connection under `key` holds.
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

    /// A member's seat is free; the others, and the application, have to be told.
    pub(super) fn note_left(&mut self, member: Member, why: LeaveReason) {
        self.counters.left += 1;
        if self.directory.get_lobby(member.lobby_key).is_some() {
            if self.protocol == Protocol::Json && self.draining.is_none() {
                self.unflushed_lobbies.push(member.lobby_key);
            } else {
                self.discard_presence_changes(member.lobby_key);
            }
        }
        self.note_undelivered(&member);
        self.app_events.push_back(AppEvent::Left(member, why));
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
            // Fresh seats are at the end: members stand in join order.
            if std::mem::replace(&mut directory.seat_mut(seat).is_announced, true) {
                break;
            }
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let taken = self.directory.members_count();
        let max_connections = self.config.max_connections.bound();
        let capacity_percent = match max_connections {
            None => 0.0,
            Some(0) => 100.0,
            Some(max) => (taken as f64 / f64::from(max) * 1000.0).round() / 10.0,
        };
        Stats {
            total_connections: taken,
            max_connections,
            capacity_percent,
            active_lobbies: self.directory.lobbies_count(),
            pending: self.pending.len(),
            closing: self.closing.len(),
            ticks: self.ticks.as_ref().map(|ticks| ticks.stats(self.inboxes.bytes())),
            counters: self.counters.clone(),
        }
    }

    /// Asserts every invariant. Costs a walk over everything.
    pub(super) fn check(&self) {
        self.directory.check();
        self.wheel.check();
        let (mut pending, mut seated, mut closing, mut gone) = (0, 0, 0, 0);
        for (key, slot) in &self.slots {
            assert_eq!(slot.id.index(), key);
            slot.wire.outbox().into_iter().for_each(Outbox::check);
            let waits = self.unread.is_waiting(slot.id);
            assert!(!slot.is_closed() || !self.wheel.is_armed(key), "a dropped connection has no timer: {slot:?}");
            assert!(slot.is_closed() || waits || self.wheel.is_armed(key), "every connection has a timer: {slot:?}");
            let deadline = slot.deadline(&self.config);
            let in_time = slot.is_closed() || waits || self.wheel.fires_by(key, deadline);
            assert!(in_time, "its timer comes in time: {slot:?}");
            assert!(!self.expiries.contains_key(&key) || slot.seat().is_some(), "only members' identities expire");
            // The answer to the request may repeat a name from its head.
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
                    assert!(slot.close_reason.is_some(), "what is closing has a reason");
                    assert_eq!(self.closing.get(order), Some(&slot.id));
                }
                ConnState::Closed => gone += 1,
            }
            let has_ranges = slot.wire.outbox().is_some_and(Outbox::has_ranges);
            assert!(
                !has_ranges || slot.dirty || self.flushing.contains(&slot.id) || self.corked_conns.contains(&slot.id),
                "what is shared is written in its turn: {slot:?}"
            );
            assert!(slot.wire.outbox().is_none() || !slot.is_closed(), "nothing is queued for who is gone");
            let is_corked = slot.wire.outbox().is_some_and(Outbox::is_corked);
            assert!(
                !is_corked || self.corked_conns.contains(&slot.id),
                "what is held is released at the tick: {slot:?}"
            );
            let waits = slot.wire.outbox().is_some_and(Outbox::is_ready);
            assert!(!waits || slot.dirty || slot.blocked, "what is queued is going to be written: {slot:?}");
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
        assert_eq!(self.addresses.len(), addresses.len(), "an address without a connection is forgotten");
        assert!(addresses.iter().all(|(&address, &count)| self.addresses.connections(address) == count));
        assert_eq!((pending, closing, gone), (self.pending.len(), self.closing.len(), self.closed.len()));
        assert_eq!(seated, self.directory.members_count(), "every seat has its connection");
        assert!(self.pending.len() <= self.config.max_pending as usize, "max_pending");
        assert!(self.max_sockets().bound().is_none_or(|bound| pending + seated + closing <= bound as usize));
        let counters = &self.counters;
        assert_eq!(counters.joined - counters.left, seated as u64, "every join has one leave");
        let ended = self.slots.iter().filter(|(_, slot)| slot.close_reason.is_some()).count() as u64;
        let over = counters.accepted - self.slots.len() as u64;
        assert_eq!(counters.closed_in_all(), over + ended, "every connection ends once");
    }
}

/// What an outbox may hold beyond its bound: the bookkeeping of the last frame, a pong, a goodbye and a close frame.
const OUTBOX_OVERRUN: usize = 1024;

/// Said in the log.
fn taken_over_word(took_over: Option<ConnId>) -> &'static str {
    if took_over.is_some() { " (took over)" } else { "" }
}

/// When a member's identity expires.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// In milliseconds since the Unix epoch.
    unix_millis: u64,
    /// When `max_lifetime` ends its connection.
    retires: Time,
}
