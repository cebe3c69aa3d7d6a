//! A read-only view of the lobby control of a lobby, for the simulator.

use super::super::Engine;
use super::super::app::App;
use crate::base::id::SeatId;
use crate::protocol;

/// Lobby control of a lobby, as JSON where its members see JSON.
#[derive(Debug)]
pub(crate) struct InspectedControl {
    pub(crate) host: Option<SeatId>,
    pub(crate) settings: String,
    pub(crate) data: String,
    /// The members that have data, in join order.
    pub(crate) members: Vec<(SeatId, String)>,
    /// Time of the start in milliseconds since the Unix epoch, during a countdown.
    pub(crate) countdown: Option<u64>,
}

impl<A: App> Engine<A> {
    /// Returns the lobby control of a lobby; `None` if there is no such lobby, or lobby control is off.
    pub(crate) fn inspect_control(&self, code: &str) -> Option<InspectedControl> {
        let directory = &self.core.directory;
        let key = directory.find_lobby(code)?;
        let (control, bounds) = (directory.control(key)?, directory.control_bounds()?.settings);
        let shown = |data| {
            let mut text = String::new();
            protocol::push_data(&mut text, data);
            text
        };
        let member = |seat| {
            let data = directory.member_data(seat).filter(|data| !data.is_empty())?;
            Some((directory.seat(seat).id, shown(data)))
        };
        Some(InspectedControl {
            host: directory.host(key),
            settings: protocol::settings_json(&control.settings, directory.lobby_ref(key).locked, bounds),
            data: shown(&control.data),
            members: directory.seats_in(key).filter_map(member).collect(),
            countdown: control.countdown.map(|at| self.core.unix_millis_at(at)),
        })
    }
}
