//! What operators publish to lobbies: to all members or to all but some users, and once for each idempotency key.

use super::core::Core;
use super::member::{Exclude, Protocol, Sent};
use super::operator::{OperatorAnswer, OperatorRefusal, Payload};
use crate::base::checksum::Checksum;
use crate::base::id::{LobbyKey, SeatKey};
use crate::lobby::published::Published;
use crate::protocol;
use crate::ws::frame::Outgoing;

/// Longest idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 64;

impl Core {
    /// Publishes to a lobby, unless this was published under the same idempotency key before.
    pub(super) fn publish(
        &mut self,
        lobby: &str,
        payload: Payload,
        exclude: &[String],
        key: Option<String>,
    ) -> Result<OperatorAnswer, OperatorRefusal> {
        let lobby = self.directory.find_lobby(lobby).ok_or(OperatorRefusal::NoSuchLobby)?;
        // Counted before, as all nodes see it.
        let audience = self.audience(lobby, exclude);
        let Some(key) = key else {
            let (seq, sent) = self.publish_once(lobby, payload, exclude)?;
            return Ok(OperatorAnswer::Sent { seq, sent: audience.unwrap_or(sent), repeated: false });
        };
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
            return Err(OperatorRefusal::BadKey);
        }
        let content = checksum_of(&payload, exclude);
        if let Some(&Published { content: first, seq, receivers }) = self.directory.published(lobby, &key) {
            let [queued, dropped, excluded] = receivers.map(|count| count as usize);
            let sent = Sent { queued, dropped, excluded };
            return match first == content {
                true => Ok(OperatorAnswer::Sent { seq, sent, repeated: true }),
                false => Err(OperatorRefusal::KeyReused),
            };
        }
        let (seq, sent) = self.publish_once(lobby, payload, exclude)?;
        let sent = audience.unwrap_or(sent);
        // The lobby is gone if its last member was closed as too slow.
        if self.directory.get_lobby(lobby).is_some() {
            let receivers = [sent.queued, sent.dropped, sent.excluded].map(|count| count as u32);
            self.directory.note_published(lobby, key, Published { content, seq, receivers });
        }
        Ok(OperatorAnswer::Sent { seq, sent, repeated: false })
    }

    fn publish_once(
        &mut self,
        lobby: LobbyKey,
        payload: Payload,
        exclude: &[String],
    ) -> Result<(Option<u64>, Sent), OperatorRefusal> {
        Ok(match self.admit(payload)? {
            Payload::Json(data) if self.protocol == Protocol::Json && exclude.is_empty() => {
                let (seq, sent) = self.announce(lobby, &data);
                (Some(seq), sent)
            }
            Payload::Json(data) if self.protocol == Protocol::Json => {
                let mut text = std::mem::take(&mut self.buffers.text);
                protocol::write_server_message(&mut text, None, &data);
                let sent = self.send_to_others(lobby, exclude, Outgoing::Text(&text));
                self.buffers.text = text;
                (None, sent)
            }
            Payload::Json(text) | Payload::Text(text) if exclude.is_empty() => {
                (None, self.broadcast(lobby, Exclude::None, Outgoing::Text(&text)))
            }
            Payload::Json(text) | Payload::Text(text) => {
                (None, self.send_to_others(lobby, exclude, Outgoing::Text(&text)))
            }
        })
    }

    /// Sends a frame to the members of a lobby that are not among these users.
    fn send_to_others(&mut self, lobby: LobbyKey, users: &[String], frame: Outgoing<'_>) -> Sent {
        self.flush_presence(lobby);
        // The flush may have closed the last member as too slow.
        if self.directory.get_lobby(lobby).is_none() {
            return Sent::default();
        }
        // Looked up from the list, which may be long: no name is compared for each member.
        let seats = users.iter().flat_map(|user| self.directory.seats_of(user));
        let mut excluded: Vec<SeatKey> = seats.copied().collect();
        excluded.sort_unstable();
        self.send_to_members(lobby, frame, |_, member| excluded.binary_search(&member.seat).is_err())
    }
}

/// Checksum of all that must be the same in a repeated command.
fn checksum_of(payload: &Payload, exclude: &[String]) -> u64 {
    let mut checksum = Checksum::new(0);
    let (kind, text) = match payload {
        Payload::Json(text) => (0, text),
        Payload::Text(text) => (1, text),
    };
    checksum.write(&[kind]);
    for part in std::iter::once(text).chain(exclude) {
        checksum.write(&(part.len() as u64).to_le_bytes());
        checksum.write(part.as_bytes());
    }
    checksum.finish()
}
