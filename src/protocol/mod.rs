//! The JSON protocol `lobby.v1.json`: parses client requests and writes server messages.
//!
//! Each text frame is one JSON object, and its `type` names the kind. Knows no lobby and no connection.

mod control;
mod lists;
mod object;
mod portable;
mod read;
mod settings;
mod write;
mod writer;

pub(crate) use self::control::{
    ControlRequest, DataChanges, LobbyState, write_conflict, write_countdown, write_host, write_settings, write_start,
    write_state,
};
pub(crate) use self::lists::{lobbies_json, write_lobbies, write_lobbies_diff};
pub(crate) use self::portable::check_data;
pub(crate) use self::read::{ClientRequest, Envelope, MalformedMessage, read};
pub(crate) use self::settings::{read_settings, settings_json};
pub(crate) use self::write::{
    ListedMember, Welcome, WelcomeLimits, WelcomePing, WelcomeSession, WelcomeTick, renumbered_direct, write_ack,
    write_broadcast_ack, write_direct, write_error, write_goodbye, write_health_ping, write_message, write_pong,
    write_presence_diff, write_presence_state, write_rate_limited, write_repeated_ack, write_repeated_error,
    write_server_direct, write_server_message, write_volatile_message,
};
pub(crate) use self::writer::{push_changes, push_data};

/// Name of the WebSocket subprotocol.
pub(crate) const SUBPROTOCOL: &str = "lobby.v1.json";
