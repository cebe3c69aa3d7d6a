//! One connection as the engine holds it.

use std::net::{IpAddr, SocketAddr};

use super::health::Health;
use super::member::Member;
use super::rates::Meter;
use crate::close::CloseReason;
use crate::config::Config;
use crate::id::ConnId;
use crate::lobby::directory::Reservation;
use crate::time::Time;
use crate::wire::chorus::Place;
use crate::wire::connection::Connection;

/// What a connection counts as.
///
/// ```text
/// Pending --seat()--> Seated --end()--> Closing --release()--> Gone
///    +-------------------------------------release()------------^
/// ```
#[derive(Debug)]
pub(crate) enum Standing {
    /// Holds no seat; perhaps it waits for the application to say whether it gets one.
    Pending(Option<Waiting>),
    Seated(Member),
    /// Had a seat; says goodbye. The number orders those that do by age.
    Closing(u64),
    /// The driver has still to drop the socket.
    Gone,
}

/// A connection that is being authorized.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The lobby it asked for.
    pub(crate) code: Box<str>,
    /// The seat held for it, if it is known whom it claims to be.
    pub(crate) reservation: Option<Reservation>,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: ConnId,
    pub(crate) peer: SocketAddr,
    pub(crate) wire: Connection,
    pub(crate) standing: Standing,
    /// Why the connection ends. Set once.
    pub(crate) ended: Option<CloseReason>,
    /// When the present step must be over: the handshake, authorization, the close handshake, lingering.
    pub(crate) step_deadline: Time,
    pub(crate) health: Health,
    pub(crate) strikes: u32,
    /// Bytes received since the connection ended.
    pub(crate) lingered: usize,
    pub(crate) meter: Meter,
    /// The address it counts for, once it is known.
    pub(crate) address: Option<IpAddr>,
    /// When what lets it be here ends.
    pub(crate) expires: Time,
    /// When it is old enough to go.
    pub(crate) retires: Time,
    /// How much of what its lobby said it has taken.
    pub(crate) place: Place,
    /// Whether what its lobby says is queued for it frame by frame: its socket takes nothing, or much is queued already.
    pub(crate) behind: bool,
    /// Whether the application was told that much is queued.
    pub(crate) pressed: bool,
    /// Whether it stands in the list of those with something to write.
    pub(crate) dirty: bool,
    /// Whether the socket took less than it was given, and has not said that it takes more.
    pub(crate) blocked: bool,
    /// Whether the driver was told to shut down the write side.
    pub(crate) shut_down: bool,
    /// Whether it stands in the list of those to be told to go.
    pub(crate) parting: bool,
}

impl Slot {
    pub(crate) fn new(id: ConnId, peer: SocketAddr, now: Time) -> Slot {
        Slot {
            id,
            peer,
            wire: Connection::new(),
            standing: Standing::Pending(None),
            ended: None,
            step_deadline: Time::NEVER,
            health: Health::new(now),
            strikes: 0,
            lingered: 0,
            meter: Meter::default(),
            address: None,
            expires: Time::NEVER,
            retires: Time::NEVER,
            place: Place::default(),
            behind: false,
            pressed: false,
            dirty: false,
            blocked: false,
            shut_down: false,
            parting: false,
        }
    }

    pub(crate) fn member(&self) -> Option<&Member> {
        match &self.standing {
            Standing::Seated(member) => Some(member),
            _ => None,
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.standing, Standing::Gone)
    }

    /// When this connection must be looked at next, unless something happens before.
    pub(crate) fn deadline(&self, config: &Config) -> Time {
        match &self.standing {
            Standing::Gone => Time::NEVER,
            Standing::Seated(_) => {
                let path = self.health.path_deadline(config.ping_interval, config.pong_timeout);
                path.min(self.health.check_deadline()).min(self.expires).min(self.retires)
            }
            Standing::Pending(_) | Standing::Closing(_) => self.step_deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Slot;

    /// Every idle connection pays for this, so growth should be a decision.
    #[test]
    fn a_slot_stays_small() {
        println!("{}", size_of::<Slot>());
        assert!(size_of::<Slot>() <= 720, "{}", size_of::<Slot>());
    }
}
