//! Seats of a lobby that are kept for users by name: who they are, and until when.

use crate::base::id::UserKey;
use crate::base::time::Time;

/// The users for which a lobby keeps seats.
#[derive(Debug)]
pub(crate) struct NamedSeats {
    /// Each user with the number of its seats and reservations in the lobby.
    pub(super) users: Vec<(UserKey, u32)>,
    pub(super) until: Time,
}
