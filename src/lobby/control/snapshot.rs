//! Lobby control in a snapshot of the shared state. The indexes of lobbies that can be joined are not part of it: they follow from
//! the rest.

use smol_str::SmolStr;

use super::entries::Entries;
use super::listing::Pool;
use super::named::NamedSeats;
use super::settings::{Settings, SettingsChange, StartRule, Writers};
use super::{Control, Controls};
use crate::base::arena::Key;
use crate::base::entry::PasswordHash;
use crate::base::id::{LobbyKey, SeatId, SeatKey, UserKey};
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, ensure, ensure_setting};
use crate::base::time::Time;
use crate::lobby::directory::Directory;
use crate::lobby::snapshot::{UserReader, UserWriter};

impl Controls {
    /// Forgets all lobbies and members.
    pub(in crate::lobby) fn clear(&mut self) {
        (self.lobbies, self.data_of_members) = Default::default();
        self.timers.clear();
        self.empty.clear();
        self.emptied = 0;
        self.listed.clear();
        self.listing = Default::default();
    }
}

impl Directory {
    pub(in crate::lobby) fn write_emptied(&self, to: &mut SnapshotWriter) {
        to.option(self.control.as_ref().map(|controls| controls.emptied));
    }

    pub(in crate::lobby) fn read_emptied(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let emptied = from.option()?;
        ensure_setting(emptied.is_some() == self.control.is_some(), "lobby_control")?;
        ensure(emptied.is_none_or(|emptied| emptied <= 1 << 62), "a count is at most 2^62")?;
        if let Some((controls, emptied)) = self.control.as_mut().zip(emptied) {
            controls.emptied = emptied;
        }
        Ok(())
    }

    /// Writes the lobby control of a lobby, if it is on.
    pub(in crate::lobby) fn write_control(&self, lobby: LobbyKey, users: &mut UserWriter, to: &mut SnapshotWriter) {
        let Some(control) = self.control(lobby) else { return };
        let Control {
            epoch: _,
            host,
            host_until,
            data,
            members_bytes: _,
            settings,
            bans,
            countdown,
            empty_until,
            empty_number,
            timer,
            is_dirty,
            pool,
            named,
        } = control;
        to.option(host.map(|(_, id)| id.0));
        [*host_until, countdown.unwrap_or(Time::NEVER), *empty_until, *timer].into_iter().for_each(|at| to.time(at));
        to.flag(*is_dirty);
        to.option(*empty_number);
        data.write(to);
        settings.write(to);
        to.len(bans.len());
        bans.iter().for_each(|user| to.text(user));
        to.option_text(pool.as_ref().map(|pool| &**pool.name()));
        if let Some(pool) = pool {
            to.number(pool.seats().unwrap_or(0).into());
        }
        to.flag(named.is_some());
        if let Some(NamedSeats { users: named, until }) = named.as_deref() {
            to.time(*until);
            to.len(named.len());
            // How many seats each of them has follows from the seats.
            named.iter().for_each(|&(user, _)| users.write(user, self, to));
        }
    }

    /// Reads the lobby control of a lobby whose seats have been read, if it is on.
    pub(in crate::lobby) fn read_control(
        &mut self,
        lobby: LobbyKey,
        users: &mut UserReader,
        from: &mut SnapshotReader<'_>,
    ) -> Result<(), SnapshotError> {
        let Some(bounds) = self.control_bounds() else { return Ok(()) };
        let host = from.option()?.map(|id| self.host_seat(lobby, SeatId(id)));
        let (host_until, countdown, empty_until, timer) = (from.time()?, from.time()?, from.time()?, from.time()?);
        let (is_dirty, empty_number) = (from.flag()?, from.option()?);
        let data = Entries::read(from, bounds.lobby_data)?;
        let settings = Settings::read(from)?;
        let valid = settings.to_change().check(bounds.settings);
        ensure_setting(valid.is_ok(), "the bounds of the settings of lobbies")?;
        let bans = from.len()?;
        ensure_setting(bans <= bounds.bans, "max_bans")?;
        let bans = (0..bans).map(|_| Ok(from.text()?.into())).collect::<Result<_, SnapshotError>>()?;
        let pool = match from.option_text()? {
            Some(name) => Some(Pool::new(name, Some(from.u32()?))),
            None => None,
        };
        let named = if from.flag()? { Some(self.read_named(lobby, users, from)?) } else { None };
        let is_empty = self.lobbies[lobby].has_no_seats() && named.is_none();
        ensure(is_empty == empty_number.is_some(), "a lobby without members is kept for a while")?;
        let members_bytes = self.seats_in(lobby).filter_map(|seat| self.member_data(seat)).map(Entries::bytes).sum();
        ensure_setting(members_bytes <= bounds.members_bytes, "max_members_data")?;
        let controls = self.control.as_mut().expect("lobby control is on");
        let control = controls.lobbies.get_mut(lobby).expect("the lobby has its control");
        (control.host, control.host_until, control.empty_until) = (host, host_until, empty_until);
        control.countdown = Some(countdown).filter(|&at| at != Time::NEVER);
        (control.data, control.members_bytes, control.settings, control.bans) = (data, members_bytes, settings, bans);
        (control.timer, control.is_dirty, control.empty_number) = (timer, is_dirty, empty_number);
        (control.pool, control.named) = (pool, named);
        if timer != Time::NEVER {
            controls.timers.insert((timer, control.epoch, lobby));
        }
        if let Some(number) = empty_number {
            let is_new = number <= controls.emptied && controls.empty.insert(number, lobby).is_none();
            ensure(is_new, "lobbies lose their last members one after the other")?;
        }
        Ok(())
    }

    /// Returns the seat of the host, which may have been freed: then its key is that of another seat, or of none.
    fn host_seat(&self, lobby: LobbyKey, id: SeatId) -> (SeatKey, SeatId) {
        let mut seats = self.all_seats_in(lobby);
        (seats.find(|&seat| self.seats[seat].id == id).unwrap_or(SeatKey::new(0)), id)
    }

    fn read_named(
        &mut self,
        lobby: LobbyKey,
        users: &mut UserReader,
        from: &mut SnapshotReader<'_>,
    ) -> Result<Box<NamedSeats>, SnapshotError> {
        let until = from.time()?;
        let mut named: Vec<(UserKey, u32)> = Vec::new();
        for _ in 0..from.len()? {
            named.push((users.read(self, from)?, 0));
        }
        let mut keys: Vec<UserKey> = named.iter().map(|&(user, _)| user).collect();
        keys.sort_unstable();
        ensure(keys.windows(2).all(|pair| pair[0] != pair[1]), "a lobby keeps one seat for a user")?;
        let members: Vec<UserKey> = self.seats_in(lobby).map(|seat| self.seats[seat].user).collect();
        for member in members {
            named.iter_mut().filter(|(user, _)| *user == member).for_each(|(_, count)| *count += 1);
        }
        named.iter().for_each(|&(user, _)| self.users[user].authorizing += 1);
        let state = &mut self.lobbies[lobby];
        state.authorizing += 1;
        state.reserved += named.iter().filter(|&&(_, count)| count == 0).count() as u32;
        Ok(Box::new(NamedSeats { users: named, until }))
    }
}

impl Settings {
    fn write(&self, to: &mut SnapshotWriter) {
        let Settings { max, listed, name, tags, password, write, watchers, start, empty_ttl } = self;
        to.option(max.map(u64::from));
        to.option(watchers.map(u64::from));
        to.flag(*listed);
        to.flag(*write == Writers::All);
        to.option_text(name.as_deref());
        to.len(tags.len());
        for (key, value) in tags {
            to.text(key);
            to.text(value);
        }
        to.flag(password.is_some());
        password.iter().for_each(|password| to.bits(password.bits()));
        to.flag(start.is_some());
        if let Some(StartRule { min, needs_ready, countdown }) = *start {
            to.number(min.into());
            to.flag(needs_ready);
            to.duration(countdown);
        }
        to.duration(*empty_ttl);
    }

    fn read(from: &mut SnapshotReader<'_>) -> Result<Settings, SnapshotError> {
        let mut settings = Settings {
            max: from.option_u32()?,
            watchers: from.option_u32()?,
            listed: from.flag()?,
            ..Settings::default()
        };
        settings.write = if from.flag()? { Writers::All } else { Writers::Host };
        settings.name = from.option_text()?.map(SmolStr::new);
        for _ in 0..from.len()? {
            settings.tags.push((from.text()?.into(), from.text()?.into()));
        }
        ensure(settings.tags.windows(2).all(|pair| pair[0].0 < pair[1].0), "the keys of tags are sorted")?;
        settings.password = if from.flag()? { Some(PasswordHash::from_bits(from.bits()?)) } else { None };
        if from.flag()? {
            let (min, needs_ready, countdown) = (from.u32()?, from.flag()?, from.duration()?);
            settings.start = Some(StartRule { min, needs_ready, countdown });
        }
        settings.empty_ttl = from.duration()?;
        Ok(settings)
    }

    /// The change from the default settings to these.
    fn to_change(&self) -> SettingsChange {
        let Settings { max, listed, name, tags, password, write, watchers, start, empty_ttl } = self.clone();
        SettingsChange {
            max: Some(max),
            locked: None,
            listed: Some(listed),
            name: Some(name),
            tags: Some(tags),
            password: Some(password),
            write: Some(write),
            watchers: Some(watchers),
            start: Some(start),
            empty_ttl: Some(empty_ttl),
        }
    }
}
