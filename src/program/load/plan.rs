//! What a run does: read from the command line and checked before anything is opened.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lobbyd::client::Trust;

use super::target::Target;

/// Sockets for each source address that the generator chooses itself. A destination and a source address have some 28,000
/// ports on Linux.
const PER_SOURCE: usize = 20_000;
/// Longest time that a member may take to connect and be welcomed.
pub(super) const CONNECT_MICROS: u64 = 10_000_000;
/// Requests that a member sends without an answer: a server with ticks lets no more wait.
pub(super) const MAX_UNANSWERED: usize = 16;

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) targets: Vec<(Target, SocketAddr)>,
    /// For targets with TLS.
    pub(super) trust: Option<Trust>,
    pub(super) members: usize,
    pub(super) per_lobby: usize,
    /// Share of the members that read an event stream, in per cent.
    pub(super) sse_percent: usize,
    /// Messages per second of all members together.
    pub(super) total_rate: f64,
    pub(super) seconds: u64,
    /// Bytes of the `data` of each message.
    pub(super) bytes: usize,
    /// Members that begin to connect per second.
    pub(super) ramp: f64,
    /// Members that are connecting at the same time.
    pub(super) handshakes: usize,
    pub(super) tokens: Tokens,
    pub(super) lobby: String,
    pub(super) threads: usize,
    pub(super) sources: Vec<IpAddr>,
    pub(super) is_json: bool,
    /// Number of this run, which is part of the names of lobbies and sessions.
    pub(super) run: u64,
}

#[derive(Debug)]
pub(super) enum Tokens {
    /// A text with `{member}` and `{lobby}`.
    Template(String),
    /// Those of a file, each with the number of its line.
    Listed(Vec<(usize, String)>),
}

impl Plan {
    pub(super) fn lobbies(&self) -> usize {
        self.members.div_ceil(self.per_lobby)
    }

    /// Returns the number of members of a lobby.
    pub(super) fn members_of(&self, lobby: usize) -> usize {
        self.per_lobby.min(self.members - lobby * self.per_lobby)
    }

    /// Whether a member reads an event stream, and has no WebSocket. Such members are spread over all lobbies.
    pub(super) fn reads_events(&self, member: usize) -> bool {
        (member + 1) * self.sse_percent / 100 > member * self.sse_percent / 100
    }

    pub(super) fn event_streams(&self) -> usize {
        self.members * self.sse_percent / 100
    }

    /// Returns the number of sockets that members may have at the same time.
    pub(super) fn sockets(&self) -> usize {
        self.members + self.event_streams()
    }

    /// Returns the token of a member.
    pub(super) fn token(&self, member: usize) -> String {
        match &self.tokens {
            Tokens::Listed(tokens) => tokens[member].1.clone(),
            Tokens::Template(template) => self.filled(template, member),
        }
    }

    /// Returns where the token of a member is from.
    pub(super) fn origin_of_token(&self, member: usize) -> String {
        match &self.tokens {
            Tokens::Listed(tokens) => format!("line {}", tokens[member].0),
            Tokens::Template(_) => format!("member {member}"),
        }
    }

    /// Returns the code of a member's lobby.
    pub(super) fn lobby_code(&self, member: usize) -> String {
        self.filled(&self.lobby, member)
    }

    fn filled(&self, template: &str, member: usize) -> String {
        let lobby = member / self.per_lobby;
        template
            .replace("{member}", &member.to_string())
            .replace("{lobby}", &lobby.to_string())
            .replace("{run}", &format!("{:06x}", self.run & 0xff_ffff))
    }

    /// Returns the name of a member's session.
    pub(super) fn session(&self, member: usize) -> String {
        format!("load-{:016x}-{member}", self.run)
    }

    /// Returns the server of a member, some places behind its first one. The members of a lobby are spread.
    pub(super) fn target(&self, member: usize, behind: usize) -> &(Target, SocketAddr) {
        &self.targets[(member + behind) % self.targets.len()]
    }

    /// Returns how many places the server with this URL is behind the first one of a member, if it is one of the run.
    pub(super) fn places_behind(&self, member: usize, url: &str) -> Option<usize> {
        let (wanted, count) = (Target::parse(url).ok()?, self.targets.len());
        let at =
            self.targets.iter().position(|(target, _)| target.authority.eq_ignore_ascii_case(&wanted.authority))?;
        Some((at + count - member % count) % count)
    }

    /// Returns the address that a member connects to this one from, unless the system chooses it.
    pub(super) fn source(&self, member: usize, address: IpAddr) -> Option<IpAddr> {
        let is_usable: Vec<&IpAddr> =
            self.sources.iter().filter(|source| source.is_ipv4() == address.is_ipv4()).collect();
        (!is_usable.is_empty()).then(|| *is_usable[member % is_usable.len()])
    }

    /// Chooses source addresses of the loopback network if one of them has too few ports for so many sockets.
    pub(super) fn with_loopback_sources(mut self) -> Plan {
        let is_loopback = self.targets.iter().all(|(_, address)| address.is_ipv4() && address.ip().is_loopback());
        if self.sources.is_empty() && self.sockets() > PER_SOURCE && is_loopback {
            let count = self.sockets().div_ceil(PER_SOURCE).min(200) as u8;
            self.sources = (1..=count).map(|last| IpAddr::from([127, 0, 0, 1 + last])).collect();
        }
        self
    }

    /// Time at which a member begins to connect, since the start.
    pub(super) fn connects_at(&self, member: usize) -> u64 {
        (member as f64 * 1e6 / self.ramp) as u64
    }

    /// Time between two messages of a member in microseconds, and that before its first one. The members take turns.
    pub(super) fn period(&self, member: usize) -> (f64, f64) {
        let period = self.members as f64 * 1e6 / self.total_rate;
        (period, period * member as f64 / self.members as f64)
    }

    /// Longest time from the start until all members are welcomed or given up.
    pub(super) fn ramp_micros(&self) -> u64 {
        self.connects_at(self.members) + 3 * CONNECT_MICROS
    }

    pub(super) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}
