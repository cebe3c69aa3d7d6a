//! Two engines, one that has lived through everything and one that has loaded a snapshot, go on identically.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use super::*;
use crate::apps::{Relay, Verbatim};
use crate::base::close::LeaveReason;
use crate::base::entry::{Entry, RequestedLobby, Role};
use crate::base::id::{AddressKey, ConnId, SeatId};
use crate::base::random::Random;
use crate::base::session::{Claim, SessionHash};
use crate::base::time::Time;
use crate::config::{Config, DuplicateLogin, Limit};
use crate::engine::app::App;
use crate::engine::driver::Start;
use crate::engine::member::Protocol;
use crate::engine::state::history::Sender;
use crate::lobby::control::keeping::LobbyWithSeats;
use crate::lobby::control::settings::{SettingsChange, StartRule, Writers};
use crate::lobby::directory::SeatRequest;
use crate::lobby::entering::Wanted;
use crate::lobby::published::Published;
use crate::lobby::sessions::{AwayEvent, LostConn};
use crate::sim::{Behaviour, Simulator};

/// An engine's part that shares a state, with the origin of the shared clock.
pub(super) struct Node {
    pub(super) core: Core,
    origin: SharedOrigin,
}

impl Node {
    /// An engine without users, like another one, whose time began `age` microseconds before `unix_now`.
    pub(super) fn blank(like: &Core, unix_now: u64, age: u64) -> Node {
        let origin = SharedOrigin::at(Time::from_micros(age), unix_now);
        let start = Start { unix_micros: 5, seed: 3 };
        let mut core = Core::new(like.config.clone(), like.protocol, start);
        core.clock.advance(Time::from_micros(age));
        Node { core, origin }
    }

    pub(super) fn unix_now(&self) -> u64 {
        self.origin.unix_micros(self.core.now())
    }

    pub(super) fn written(&self) -> Vec<u8> {
        self.core.write_snapshot(self.core.now(), self.origin)
    }

    /// Another engine that has loaded the state of this one. Its time began `age` microseconds ago.
    fn copy(&self, age: u64) -> Node {
        let mut node = Node::blank(&self.core, self.unix_now(), age);
        let loaded = node.core.load_snapshot(&self.written(), node.core.now(), None);
        assert_eq!(loaded, Ok(self.unix_now()));
        node.check();
        node
    }

    pub(super) fn check(&self) {
        self.core.directory.check();
        self.core.check_sessions();
    }

    /// Lets time pass, and does all that is due. Returns what was.
    pub(super) fn advance(&mut self, micros: u64) -> Vec<String> {
        self.core.clock.advance(Time::from_micros(self.core.now().as_micros() + micros));
        let (now, mut done) = (self.core.now(), Vec::new());
        while let Some(lobby) = self.core.directory.take_count_update(now) {
            done.push(format!("count {}", self.core.directory.lobby_ref(lobby).epoch));
        }
        while let Some(event) = self.core.directory.take_away_event(now) {
            match event {
                AwayEvent::Tell(lobby) => {
                    done.push(format!("tell {}", self.core.directory.lobby_ref(lobby).epoch));
                }
                AwayEvent::End(seat) => done.push(format!("end {}", self.leave(seat, LeaveReason::Dropped))),
            }
        }
        let epochs: BTreeMap<LobbyKey, u64> =
            self.core.directory.all_lobbies().map(|key| (key, self.core.directory.lobby_ref(key).epoch)).collect();
        while let Some(lobby) = self.core.directory.take_control_event(now) {
            done.push(format!("control {}", epochs[&lobby]));
        }
        done
    }

    // ---- choices, by ids ----

    fn lobbies(&self) -> Vec<LobbyKey> {
        let mut lobbies: Vec<LobbyKey> = self.core.directory.all_lobbies().collect();
        lobbies.sort_unstable_by_key(|&lobby| self.core.directory.lobby_ref(lobby).epoch);
        lobbies
    }

    fn pick_lobby(&self, random: &mut Random) -> Option<LobbyKey> {
        let lobbies = self.lobbies();
        let at = random.below(lobbies.len().max(1) as u64) as usize;
        lobbies.get(at).copied()
    }

    fn pick_seat(&self, random: &mut Random) -> Option<SeatKey> {
        let mut seats: Vec<SeatKey> = self.core.directory.all_seats().collect();
        seats.sort_unstable_by_key(|&seat| self.id(seat));
        let at = random.below(seats.len().max(1) as u64) as usize;
        seats.get(at).copied()
    }

    fn id(&self, seat: SeatKey) -> SeatId {
        self.core.directory.seat(seat).id
    }

    // ---- operations ----

    fn leave(&mut self, seat: SeatKey, reason: LeaveReason) -> SeatId {
        let (id, lobby, now) = (self.id(seat), self.core.directory.seat(seat).lobby, self.core.now());
        self.core.directory.leave(seat, reason, now);
        self.core.forget_session(seat, lobby);
        id
    }

    /// Sends the presence changes of a lobby to nobody.
    fn flush(&mut self, lobby: LobbyKey) -> String {
        let now = self.core.now();
        if self.core.directory.lobby_ref(lobby).presence.is_flushed() {
            return "flushed".to_owned();
        }
        let changes = self.core.directory.take_presence_changes(lobby, now);
        let unannounced = self.core.directory.unannounced(lobby);
        let ids: Vec<SeatId> = unannounced.iter().map(|&seat| self.id(seat)).collect();
        for &seat in &unannounced {
            self.core.directory.seat_mut(seat).is_announced = true;
            self.core.note_presence_state(seat, lobby);
        }
        format!("{changes:?} {ids:?}")
    }

    fn enter(&mut self, random: &mut Random) -> String {
        let user = format!("user{}", random.below(12));
        let requested = match random.below(6) {
            0 => RequestedLobby::New,
            1 => RequestedLobby::Quick("ranked".to_owned()),
            2 => RequestedLobby::Quick("casual".to_owned()),
            _ => RequestedLobby::Lobby(["chess", "go", "2-4_Z", "poker"][random.below(4) as usize].to_owned()),
        };
        let is_quick = matches!(requested, RequestedLobby::Quick(_));
        let role = if random.below(4) == 0 && matches!(requested, RequestedLobby::Lobby(_)) {
            Role::Watch
        } else {
            Role::Play
        };
        let session = SessionHash::from_bits(random.below(5).into());
        let claim = random.percent(70).then_some(Claim { session, was: None, position: None });
        let entry = Entry { create: true, role, password: None, seats: is_quick.then_some(2) };
        let (now, unix, conn) = (self.core.now(), self.unix_now(), ConnId::ELSEWHERE);
        let directory = &mut self.core.directory;
        let wanted = Wanted { requested: &requested, claim, entry, reserved: None };
        let code = directory.resolve(&wanted, &user, now).into_owned();
        let request = SeatRequest::new(&code, &user, AddressKey::NONE, &wanted);
        let plan = match directory.plan(&request, now) {
            Ok(plan) => plan,
            Err(reason) => {
                let again = directory.room_after_away(&code, role, AddressKey::NONE, reason);
                return format!("{code} {reason:?} {:?}", again.map(|at| self.origin.unix_micros(at)));
            }
        };
        let replaced = plan.seat().map(|seat| (directory.seat(seat).id, seat, directory.seat(seat).lobby));
        let seat = directory.join(request, plan, conn, now, unix);
        let id = directory.seat(seat).id;
        if let Some((old, key, lobby)) = replaced
            && old != id
        {
            self.core.forget_session(key, lobby);
        }
        let arrival = match plan {
            crate::lobby::directory::Plan::Join | crate::lobby::directory::Plan::Move(_) => {
                crate::engine::seating::Arrival::Joined
            }
            _ => crate::engine::seating::Arrival::TookOver,
        };
        self.core.begin_session(seat, arrival, claim.as_ref());
        format!("{code} {id} {:?}", replaced.map(|(id, ..)| id))
    }

    fn set_away(&mut self, random: &mut Random) -> String {
        let Some(seat) = self.pick_seat(random) else { return String::new() };
        let (now, is_away) = (self.core.now(), self.core.directory.seat(seat).is_away);
        if !is_away && self.core.directory.session_of(seat).is_some() {
            let reason = LeaveReason::ALL[random.below(3) as usize];
            self.core.directory.set_away(seat, LostConn::elsewhere(reason, now), now);
        } else if is_away && random.percent(50) {
            self.core.directory.tell_back(seat, now);
        }
        format!("{}", self.id(seat))
    }

    fn say(&mut self, random: &mut Random) -> String {
        let Some(seat) = self.pick_seat(random) else { return String::new() };
        let lobby = self.core.directory.seat(seat).lobby;
        let text = "é".repeat(random.below(80) as usize);
        if random.percent(50) {
            self.core.directory.lobby_mut(lobby).seq += 1;
            let seq = self.core.directory.lobby_ref(lobby).seq;
            let sender = self.core.sender_in(seat);
            if let Some(history) = self.core.histories.get_mut(lobby) {
                let reference = format!("{}", random.below(3));
                let sender = sender.filter(|_| random.percent(80));
                history.push(seq, sender, sender.map(|_: Sender| &*reference), &text);
            }
        } else if let Some(state) = self.core.sessions.get_mut(seat) {
            let number = random.below(200) as i64;
            state.directs.push(random.below(50), random.percent(30), &text);
            if random.percent(20) {
                state.directs.acknowledge(random.below(20));
            }
            let judged = state.upstream.judge(number);
            if random.percent(30) {
                state.upstream.note_refused(number);
            }
            return format!("{judged:?}");
        }
        String::new()
    }

    fn control(&mut self, random: &mut Random) -> String {
        let Some(lobby) = self.pick_lobby(random) else { return String::new() };
        let (now, user) = (self.core.now(), format!("user{}", random.below(12)));
        let directory = &mut self.core.directory;
        match random.below(8) {
            0 => {
                let members: Vec<SeatKey> = directory.seats_in(lobby).collect();
                let member = Some(random.below(4) as usize).and_then(|at| members.get(at).copied());
                let (key, value) = (format!("k{}", random.below(6)), "true".repeat(random.below(3) as usize));
                let value = Some(&*value).filter(|value| !value.is_empty());
                let changes = [(&*key, value), ("ready", value)];
                if directory.fits_data(lobby, member, &changes).is_ok() {
                    let seq = directory.lobby_ref(lobby).seq;
                    directory.set_data(lobby, member, &changes, seq);
                }
            }
            1 => {
                let change = draw_settings(random);
                let bounds = directory.control_bounds().expect("lobby control is on").settings;
                if change.check(bounds).is_ok() {
                    directory.set_settings(lobby, &change);
                }
            }
            2 => {
                directory.ban(lobby, &user);
                directory.forget_named_seat(lobby, &user, now);
            }
            3 => return format!("{}", directory.unban(lobby, &user)),
            4 => {
                let host = directory.move_host(lobby, now).map(|seat| directory.seat(seat).id);
                let started = directory.update_start(lobby, now).is_some();
                directory.set_control_clean(lobby);
                return format!("{host:?} {started} {:?}", directory.host(lobby));
            }
            5 => {
                let seats: Vec<SeatKey> =
                    directory.seats_in(lobby).filter(|&seat| directory.can_be_host(seat)).collect();
                let at = random.below(seats.len().max(1) as u64) as usize;
                seats.get(at).into_iter().for_each(|&seat| directory.set_host(seat));
            }
            6 => directory.end_named_seats(lobby, now),
            _ => {
                let users: Vec<String> = (0..=random.below(3)).map(|user| format!("user{}", user * 3)).collect();
                let code = if random.percent(50) { directory.new_code() } else { format!("m{}", random.below(4)) };
                let until = now + std::time::Duration::from_millis(1 + random.below(3000));
                if directory.find_lobby(&code).is_none() && directory.has_lobby_room() && directory.fits_seats(None, 4)
                {
                    let new = LobbyWithSeats { code: &code, pool: Some("ranked"), max: None, users: &users, until };
                    let unix = self.origin.unix_micros(now);
                    // Each of the reserved seats counts toward the limit of the server.
                    self.core.directory.create_with_seats(&new, unix);
                }
                return code;
            }
        }
        String::new()
    }

    /// Carries out an operation. Returns what it did, without keys.
    pub(super) fn step(&mut self, random: &mut Random) -> String {
        let now = self.core.now();
        match random.below(16) {
            0..=3 => self.enter(random),
            4 => {
                let micros = [1, 1000, 500_000, 20_000_000][random.below(4) as usize];
                self.advance(micros).join(", ")
            }
            5 | 6 => self.set_away(random),
            7 => match self.pick_seat(random) {
                Some(seat) => {
                    if random.percent(40) {
                        self.core.directory.keep_out(seat, now);
                    }
                    self.leave(seat, LeaveReason::ALL[random.below(7) as usize]).to_string()
                }
                None => String::new(),
            },
            8 | 9 => self.say(random),
            10 | 11 => match self.pick_lobby(random) {
                Some(lobby) => self.flush(lobby),
                None => String::new(),
            },
            12 => {
                if let Some(lobby) = self.pick_lobby(random) {
                    let key = format!("key{}", random.below(5));
                    let published = Published { content: random.next_u64(), seq: None, receivers: [1, 2, 3] };
                    if self.core.directory.published(lobby, &key).is_none() {
                        self.core.directory.note_published(lobby, key, published);
                    }
                    self.core.directory.set_locked(lobby, random.percent(20));
                }
                String::new()
            }
            _ if self.core.config.lobby_control => self.control(random),
            _ => String::new(),
        }
    }
}

fn draw_settings(random: &mut Random) -> SettingsChange {
    let tags = [("game".into(), "a".into()), ("map".into(), "b".into())];
    let start = StartRule { min: 1, needs_ready: random.percent(30), countdown: std::time::Duration::from_secs(2) };
    SettingsChange {
        max: random.percent(20).then_some(Some(1 + random.below(6) as u32)),
        locked: random.percent(20).then_some(false),
        listed: random.percent(50).then_some(true),
        name: random.percent(30).then_some(Some(SmolStr::new("a name"))),
        tags: random.percent(30).then_some(tags[..random.below(3) as usize].to_vec()),
        password: None,
        write: random.percent(20).then_some(Writers::All),
        watchers: random.percent(20).then_some(Some(3)),
        start: random.percent(30).then_some(Some(start)),
        empty_ttl: random.percent(50).then_some(std::time::Duration::from_secs(random.below(10))),
    }
}

/// The engine of a simulated run after some steps. `None` if connections are being authorized: their reservations are no
/// shared state.
fn simulated(seed: u64, steps: u64) -> Option<Node> {
    fn run<A: App + Default + 'static>(seed: u64, steps: u64) -> Core {
        let simulator = Simulator::swarm(seed, A::default()).without(&[Behaviour::LateAuth, Behaviour::Drain]);
        simulator.relays_everything().engine_after(steps).core
    }
    let core = if seed % 5 == 4 { run::<Verbatim>(seed, steps) } else { run::<Relay>(seed, steps) };
    let origin = SharedOrigin { unix_at_zero: core.clock.unix_at_zero().cast_signed() };
    Some(Node { core, origin }).filter(|node| node.core.directory.authorizing_count() == 0)
}

/// An engine with a configuration in which everything happens often, after random operations.
pub(super) fn operated(random: &mut Random, steps: u64) -> Node {
    let second = std::time::Duration::from_secs;
    let config = Config {
        lobby_control: true,
        presence_max: 3,
        presence_count_interval: Some(second(1)),
        seat_grace: second(5),
        away_after: second(1),
        host_grace: second(2),
        max_lobbies: Limit::at_most(6),
        max_watchers: 8,
        max_bans: 3,
        history_frames: 20,
        duplicate_login: if random.percent(50) { DuplicateLogin::Allow } else { DuplicateLogin::Replace },
        max_per_user: Limit::at_most(3),
        ..Config::default()
    };
    let config = config.check().unwrap_or_else(|problems| panic!("{problems}")).with_lobby_control(true);
    let unix_now = 1_700_000_000_000_000;
    let like = Core::new(config, Protocol::Json, Start { unix_micros: 0, seed: 1 });
    let mut node = Node::blank(&like, unix_now, 1000);
    (0..steps).for_each(|_| drop(node.step(random)));
    node
}

/// Compares two snapshots, and shows the first difference.
#[track_caller]
fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    if found == expected {
        return;
    }
    let after = |bytes: &[u8]| bytes[HEAD_BYTES..].to_vec();
    let (found, expected) = (after(found), after(expected));
    let at = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
    let window = |bytes: &[u8]| bytes[at.saturating_sub(60)..bytes.len().min(at + 40)].escape_ascii().to_string();
    panic!("{what}: byte {at} differs\n{}\n{}", window(&found), window(&expected));
}

/// Lets a node and one that has loaded its state do the same, and compares them all the time.
fn check_twins(mut node: Node, seed: u64, steps: u64) {
    node.advance(0);
    let mut random = Random::new(seed);
    let age = random.below(node.core.now().as_micros().max(1) * 2);
    let mut twin = node.copy(age);
    assert_same(&twin.written(), &node.written(), &format!("seed {seed}: what was loaded is what was written"));
    let (mut first, mut second) = (random.clone(), random);
    for step in 0..steps {
        let (expected, found) = (node.step(&mut first), twin.step(&mut second));
        assert_eq!(found, expected, "seed {seed}, step {step}");
        assert_same(&twin.written(), &node.written(), &format!("seed {seed}, step {step}: {expected}"));
        twin.check();
    }
}

#[test]
fn an_engine_that_has_loaded_a_snapshot_goes_on_as_the_others() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let node = operated(&mut random, 40 + seed % 40 * 5);
        check_twins(node, seed, 120);
    }
}

#[test]
fn a_snapshot_of_a_simulated_engine_goes_on_as_that_engine() {
    let mut checked = 0;
    for seed in 0..60 {
        if let Some(node) = simulated(seed, 40 + seed % 60 * 9) {
            checked += 1;
            check_twins(node, seed, 60);
        }
    }
    assert!(checked > 30, "{checked} runs");
}
