//! A recorded request, which several entries describe.

use super::super::format::block::MAX_BLOCK;
use super::super::format::kinds;
use super::super::format::read::{BadEntry, EntryReader, Read};
use crate::base::entry::{self, Entry, Role};
use crate::base::id::ConnId;
use crate::base::list_query::{ListFilter, ListQuery};
use crate::base::session::{BadClaim, Claim, Position, SessionHash};
use crate::engine::recording::{Decisions, Destination, Edition, RecordedDecision};
use crate::ws::handshake::Acceptance;

/// Bytes of a request whose entries are not all read yet.
pub(super) struct PendingRequest {
    pub(super) conn: ConnId,
    pub(super) bytes: Vec<u8>,
    pub(super) recorded_decision: Option<RecordedDecision>,
}

impl PendingRequest {
    /// Reads the shape of the bytes of `conn` with which the request begins.
    pub(super) fn read(conn: ConnId, entry: &mut EntryReader<'_>) -> Read<PendingRequest> {
        let mut bytes = Vec::new();
        entry.shape(&mut bytes)?;
        Ok(PendingRequest { conn, bytes, recorded_decision: None })
    }

    /// Adds one of the entries 6 to 10, which describe a request.
    pub(super) fn add(
        &mut self,
        kind: u8,
        entry: &mut EntryReader<'_>,
        edition: Edition,
        max_header_bytes: usize,
    ) -> Read<()> {
        match kind {
            kinds::REST => self.bytes.extend_from_slice(entry.take(entry.left())?),
            kinds::UNREAD_REST => entry.shape(&mut self.bytes)?,
            kinds::ANSWERED => {
                let recorded_decision = self.recorded_decision.as_mut().ok_or(BadEntry)?;
                recorded_decision.decisions = entry.decisions()?;
            }
            _ => {
                let asked = if kind == kinds::ASKED {
                    Ok(entry.facts(edition, max_header_bytes)?)
                } else {
                    Err(entry.refusal()?)
                };
                self.recorded_decision = Some(RecordedDecision { asked, decisions: Decisions::default() });
            }
        }
        // A shape of a few bytes may describe many, so the total is bounded.
        if entry.is_empty() && self.bytes.len() <= MAX_BLOCK { Ok(()) } else { Err(BadEntry) }
    }
}

/// Describes a recorded request. Behind a proxy, the client's address is not that of the accepted socket.
pub(super) fn describe_request(record: &RecordedDecision, is_proxied: bool) -> String {
    let RecordedDecision { asked, decisions } = record;
    let facts = match asked {
        Ok(facts) => facts,
        Err(refusal) => return format!("sends an invalid request: {}", refusal.sentence()),
    };
    let origin = if facts.is_origin_allowed { "" } else { ", from a page of a forbidden origin" };
    if let Ok(Acceptance::Post(_)) = facts.form {
        return "sends messages for its event stream".to_owned();
    }
    let target = match (&decisions.destination, facts.probe) {
        (Some(Destination::Lobby(code)), _) => format!("lobby {code}"),
        (Some(Destination::New), _) => "a new lobby".to_owned(),
        (Some(Destination::Quick(pool)), _) => format!("an open lobby of the pool {pool}"),
        (Some(Destination::BadCode), _) => "a lobby with an invalid code".to_owned(),
        (Some(Destination::Lobbies(filter)), _) => {
            let filter = filter.as_ref().map_or("with a bad query".to_owned(), describe_filter);
            format!("the list of lobbies, to follow it, {filter}")
        }
        (Some(Destination::Nowhere), _) => "a path that does not exist".to_owned(),
        (None, _) if facts.list.is_some() => match facts.list.as_deref().expect("it is there") {
            Ok(ListQuery { filter, after }) => {
                format!("the list of lobbies after {after}, {}", describe_filter(filter))
            }
            Err(answer) => format!("the list of lobbies: {}", answer.sentence()),
        },
        (None, _) if facts.file.is_some() => "a file of the program".to_owned(),
        (None, Some(_)) if !facts.is_upgrade() => "a health check".to_owned(),
        (None, _) => "a seat".to_owned(),
    };
    let address = if is_proxied { format!(", address={}", facts.address) } else { String::new() };
    let session = match facts.claim {
        Ok(claim) => claim.map(|claim| describe_claim(&claim)).unwrap_or_default(),
        Err(BadClaim) => ", malformed session".to_owned(),
    };
    let entry = match facts.entry {
        Ok(entry) => describe_entry(&entry),
        Err(entry::BadEntry) => ", malformed parameters".to_owned(),
    };
    format!("asks for {target}{origin}{address}{session}{entry}")
}

/// Describes how a client enters a lobby. Nothing is said about its password but that it names one.
fn describe_entry(entry: &Entry) -> String {
    let Entry { create, role, password, seats } = entry;
    let word = |is_given: bool, word: &'static str| if is_given { word } else { "" };
    let seats = seats.map(|seats| format!(", {seats} seats")).unwrap_or_default();
    let (watching, existing) = (word(*role == Role::Watch, ", to watch"), word(!create, ", if it exists"));
    format!("{watching}{existing}{}{seats}", word(password.is_some(), ", with a password"))
}

fn describe_filter(ListFilter { pool, tags }: &ListFilter) -> String {
    let pool = pool.as_ref().map(|pool| format!("pool={pool}"));
    let tags = tags.iter().map(|(key, value)| format!("tag.{key:?}={value:?}"));
    let parts: Vec<String> = pool.into_iter().chain(tags).collect();
    if parts.is_empty() { "all".to_owned() } else { parts.join(", ") }
}

/// Describes a claim with the beginnings of the hashes, which suffice to tell the sessions of a journal apart.
fn describe_claim(claim: &Claim) -> String {
    let Claim { session, was, position } = claim;
    let short = |hash: &SessionHash| format!("{:08x}", hash.bits() >> 96);
    let was = was.as_ref().map(|was| format!(", was={}", short(was))).unwrap_or_default();
    let position = position.map(|Position { epoch, seq, n }| format!(", position={epoch}.{seq}.{n}"));
    format!(", session={}{was}{}", short(session), position.unwrap_or_default())
}
