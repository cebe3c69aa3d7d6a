//! The users, lobbies and seats as text, to compare the nodes of a cluster. Keys of tables are left out: they may differ.

use std::fmt::Write as _;

use super::directory::Directory;
use crate::base::id::{LobbyKey, SeatKey};
use crate::base::time::Time;

impl Directory {
    /// Writes everything that all nodes of a cluster share. `unix` converts times, `of_seat` and `of_lobby` add to a line.
    pub(crate) fn write_shared(
        &self,
        out: &mut String,
        now: Time,
        unix: impl Fn(Time) -> u64,
        of_seat: impl Fn(&mut String, SeatKey),
        of_lobby: impl Fn(&mut String, LobbyKey),
    ) {
        let _ = writeln!(out, "seats {} epoch {} users {}", self.seats_created, self.last_epoch, self.users.len());
        let mut lobbies: Vec<LobbyKey> = self.lobbies.iter().map(|(key, _)| key).collect();
        lobbies.sort_unstable_by(|&one, &two| self.lobbies[one].code.cmp(&self.lobbies[two].code));
        for key in lobbies {
            let lobby = &self.lobbies[key];
            let _ = write!(
                out,
                "lobby {} epoch {} seq {} locked {} reserved {} watchers {} unflushed {:?} update {}",
                lobby.code,
                lobby.epoch,
                lobby.seq,
                lobby.locked,
                lobby.reserved,
                lobby.watchers,
                lobby.presence.unannounced(),
                unix(lobby.presence.update_at()),
            );
            // Those whose time is over are forgotten when there is a reason to look.
            let kicked = lobby.sessions.iter().flat_map(|sessions| &sessions.kicked);
            for (user, until) in kicked.filter(|(_, until)| *until > now) {
                let _ = write!(out, " kicked {user} until {}", unix(*until));
            }
            of_lobby(out, key);
            out.push('\n');
            self.show_control(out, key, &unix);
            for seat in self.all_seats_in(key) {
                self.show_seat(out, seat, &unix);
                of_seat(out, seat);
                out.push('\n');
            }
        }
    }

    fn show_control(&self, out: &mut String, lobby: LobbyKey, unix: &impl Fn(Time) -> u64) {
        let Some(control) = self.control(lobby) else { return };
        let host = control.host.map(|(_, seat)| seat);
        let _ = write!(
            out,
            "  host {host:?} until {} countdown {:?} empty {} settings {:?} bans {:?} bytes {}",
            unix(control.host_until),
            control.countdown.map(unix),
            unix(control.empty_until),
            control.settings,
            control.bans,
            control.members_bytes,
        );
        let _ = writeln!(out, " data {:?}", control.data);
    }

    fn show_seat(&self, out: &mut String, key: SeatKey, unix: &impl Fn(Time) -> u64) {
        let seat = &self.seats[key];
        let _ = write!(
            out,
            "  seat {} user {} announced {} watcher {} session {:?}",
            seat.id,
            self.users[seat.user].name,
            seat.is_announced,
            seat.is_watcher,
            self.session_of(key).map(|session| session.bits()),
        );
        if let Some(away) = self.away(key) {
            let told = if away.is_told { 0 } else { unix(away.tell_at) };
            let _ = write!(out, " away {:?} told {told} ends {}", away.lost.reason, unix(away.ends));
        }
        if let Some(data) = self.control.as_ref().and_then(|controls| controls.data_of_members.get(key)) {
            let _ = write!(out, " data {data:?}");
        }
    }
}
