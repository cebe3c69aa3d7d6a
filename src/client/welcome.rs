//! The first message on a connection.

use std::time::Duration;

use super::fields::Fields;

/// Contents of a server's `welcome`. [`Session::welcome`](crate::client::Session::welcome) has an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Welcome {
    /// Name of the own seat.
    pub conn: String,
    /// The own user id.
    pub user: String,
    /// Code of the lobby.
    pub lobby: String,
    /// New whenever the lobby comes into being.
    pub epoch: u64,
    /// Whether this is the seat of before.
    pub resumed: bool,
    /// Whether nothing was missed.
    pub recovered: bool,
    /// Largest message that the server reads.
    pub max_message_bytes: Option<u64>,
    /// `None`: unlimited.
    pub messages_per_second: Option<f64>,
    /// Ticks of the game's clock per second, if it has one.
    pub tick_hz: Option<u64>,
    /// Number of the last tick.
    pub tick: Option<u64>,
    /// Time for which the seat is kept when the connection is lost.
    pub away: Option<Duration>,
    /// Whether lobby control is on: data, host and settings.
    pub has_control: bool,
}

/// Fields of a `welcome` that only the session needs.
pub(super) struct Settlement {
    pub(super) server_time: Option<u64>,
    /// Number of the last direct message before those that follow.
    pub(super) n: u64,
    /// Highest number of a request that was used.
    pub(super) done: u64,
    /// The refused ones among the last 64: bit 0 is `done`, bit `i` is `done - i`.
    pub(super) refused: u64,
}

impl Settlement {
    pub(super) fn is_refused(&self, reference: u64) -> bool {
        self.done
            .checked_sub(reference)
            .and_then(|back| self.refused.checked_shr(u32::try_from(back).ok()?))
            .unwrap_or(0)
            & 1
            == 1
    }
}

/// Reads a `welcome`. `None` if it names no seat, lobby or epoch.
pub(super) fn read(fields: &Fields<'_>) -> Option<(Welcome, Settlement)> {
    let limits = fields.object("limits");
    let tick = fields.object("tick");
    let welcome = Welcome {
        conn: fields.text("conn")?,
        user: fields.text("user").unwrap_or_default(),
        lobby: fields.text("lobby")?,
        epoch: fields.number("epoch")?,
        resumed: fields.is_true("resumed"),
        recovered: fields.is_true("recovered"),
        max_message_bytes: limits.as_ref().and_then(|limits| limits.number("max_message_bytes")),
        messages_per_second: limits.and_then(|limits| serde_json::from_str(limits.json("messages_per_second")?).ok()),
        tick_hz: tick.as_ref().and_then(|tick| tick.number("hz")),
        tick: tick.and_then(|tick| tick.number("tick")),
        away: fields.number("away_ms").map(Duration::from_millis),
        has_control: fields.is_true("control"),
    };
    let settlement = Settlement {
        server_time: fields.number("server_time"),
        n: fields.number("n").unwrap_or(0),
        done: fields.number("done").unwrap_or(0),
        refused: fields.text("refused").and_then(|digits| u64::from_str_radix(&digits, 16).ok()).unwrap_or(0),
    };
    Some((welcome, settlement))
}
