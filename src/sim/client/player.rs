//! The part of a model client that an application supplies: which messages it sends, and which it may receive.
//!
//! Knows no connection, no time and no frame.

use crate::base::random::Random;

/// Creates the player of a connection, from a random generator and the user's name.
pub(crate) type Players = Box<dyn FnMut(&mut Random, &str) -> Box<dyn Player>>;

/// The application's side of one model client, for one connection: it chooses the messages to send and checks those
/// received.
///
/// Players send and receive text messages only. Test the handling of binary messages with
/// [`MemorySockets`](crate::sim::MemorySockets) and [`sim::wire`](crate::sim::wire).
///
/// The [module documentation](crate::sim#testing-an-application) has an example.
pub trait Player {
    /// Returns the next text message to send, or `None` to send nothing now.
    ///
    /// All randomness must come from `random`; otherwise the run cannot be repeated.
    fn act(&mut self, random: &mut Random) -> Option<String>;

    /// Receives a text message that the engine or the application sent.
    ///
    /// # Errors
    ///
    /// Returns a description of the violation if the message is not allowed. The run then fails with that description.
    fn heard(&mut self, _text: &str) -> Result<(), String> {
        Ok(())
    }
}
