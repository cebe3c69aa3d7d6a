//! Commands that the simulator gives to the application. They are encoded as data for `handle_command`, so that a
//! journal records them.
//!
//! Knows what the application can do, and not when the simulator does it.

use std::time::Duration;

use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::engine::app::{Context, Exclude, Protocol, Sent};
use crate::ws::frame::Frame;

#[derive(Clone, Copy, Debug)]
pub(crate) enum AppCommand<'a> {
    Ban(ConnId),
    Kick { user: &'a str },
    CloseLobby { lobby: &'a str },
    Ping { user: &'a str, timeout: Duration },
    Fill { conn: ConnId, padding: usize },
    FillUser { user: &'a str, padding: usize },
    FillOthers { lobby: &'a str, user: &'a str, padding: usize },
    FillLobby { lobby: &'a str, padding: usize },
    Latest { conn: ConnId, latest: Latest },
    LatestInLobby { lobby: &'a str, latest: Latest },
}

/// A latest-wins frame: a new one replaces a queued one with the same key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latest {
    pub(crate) key: u64,
    pub(crate) value: u64,
    pub(crate) padding: usize,
}

impl<'a> AppCommand<'a> {
    pub(crate) fn encode(self) -> String {
        // Fields are separated by line feeds, which user names and lobby codes cannot contain.
        let id = |conn: ConnId| format!("{}\n{}", conn.index(), conn.generation());
        let show = |Latest { key, value, padding }: Latest| format!("{key}\n{value}\n{padding}");
        match self {
            AppCommand::Ban(conn) => format!("ban\n{}", id(conn)),
            AppCommand::Kick { user } => format!("kick\n{user}"),
            AppCommand::CloseLobby { lobby } => format!("close\n{lobby}"),
            AppCommand::Ping { user, timeout } => format!("ping\n{user}\n{}", timeout.as_micros()),
            AppCommand::Fill { conn, padding } => format!("fill\n{}\n{padding}", id(conn)),
            AppCommand::FillUser { user, padding } => format!("fill user\n{user}\n{padding}"),
            AppCommand::FillOthers { lobby, user, padding } => format!("fill others\n{lobby}\n{user}\n{padding}"),
            AppCommand::FillLobby { lobby, padding } => format!("fill lobby\n{lobby}\n{padding}"),
            AppCommand::Latest { conn, latest } => format!("latest\n{}\n{}", id(conn), show(latest)),
            AppCommand::LatestInLobby { lobby, latest } => format!("latest in lobby\n{lobby}\n{}", show(latest)),
        }
    }

    /// Decodes a command. Returns `None` if the command is not the simulator's.
    pub(crate) fn decode(command: &'a [u8]) -> Option<AppCommand<'a>> {
        fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
            text.parse().ok()
        }
        let id = |index, generation| ConnId::new(number(index)?, number(generation)?);
        let latest =
            |key, value, padding| Some(Latest { key: number(key)?, value: number(value)?, padding: number(padding)? });
        let lines: Vec<&str> = str::from_utf8(command).ok()?.split('\n').collect();
        Some(match *lines {
            ["ban", index, generation] => AppCommand::Ban(id(index, generation)?),
            ["kick", user] => AppCommand::Kick { user },
            ["close", lobby] => AppCommand::CloseLobby { lobby },
            ["ping", user, micros] => AppCommand::Ping { user, timeout: Duration::from_micros(number(micros)?) },
            ["fill", index, generation, padding] => {
                AppCommand::Fill { conn: id(index, generation)?, padding: number(padding)? }
            }
            ["fill user", user, padding] => AppCommand::FillUser { user, padding: number(padding)? },
            ["fill others", lobby, user, padding] => AppCommand::FillOthers { lobby, user, padding: number(padding)? },
            ["fill lobby", lobby, padding] => AppCommand::FillLobby { lobby, padding: number(padding)? },
            ["latest", index, generation, key, value, padding] => {
                AppCommand::Latest { conn: id(index, generation)?, latest: latest(key, value, padding)? }
            }
            ["latest in lobby", lobby, key, value, padding] => {
                AppCommand::LatestInLobby { lobby, latest: latest(key, value, padding)? }
            }
            _ => return None,
        })
    }

    /// Executes the command inside the application.
    pub(crate) fn execute(self, protocol: Protocol, cx: &mut Context<'_>) -> Sent {
        let reached = |queued| Sent { queued, ..Sent::default() };
        match self {
            AppCommand::Ban(conn) => {
                cx.close(conn, CloseReason::Banned);
                Sent::default()
            }
            AppCommand::Kick { user } => reached(cx.close_user(user, CloseReason::Kicked)),
            AppCommand::CloseLobby { lobby } => reached(cx.close_lobby(lobby, CloseReason::LobbyClosed)),
            AppCommand::Ping { user, timeout } => reached(cx.ping_user(user, timeout)),
            AppCommand::Fill { conn, padding } => {
                reached(usize::from(cx.send_to_conn(conn, &filler(protocol, padding))))
            }
            AppCommand::FillUser { user, padding } => cx.send_to_user(user, &filler(protocol, padding)),
            AppCommand::FillOthers { lobby, user, padding } => {
                cx.broadcast_to_lobby(lobby, Exclude::User(user), &filler(protocol, padding))
            }
            AppCommand::FillLobby { lobby, padding } => {
                cx.broadcast_to_lobby(lobby, Exclude::None, &filler(protocol, padding))
            }
            AppCommand::Latest { conn, latest } => {
                reached(usize::from(cx.send_latest_to_conn(conn, latest.key, &latest.frame(protocol))))
            }
            AppCommand::LatestInLobby { lobby, latest } => {
                cx.broadcast_latest(lobby, Exclude::None, latest.key, &latest.frame(protocol))
            }
        }
    }
}

impl Latest {
    fn frame(self, protocol: Protocol) -> Frame {
        let Latest { key, value, padding } = self;
        let padding = ".".repeat(padding);
        match protocol {
            Protocol::Json => {
                Frame::text(&format!("{{\"type\":\"latest\",\"key\":{key},\"value\":{value},\"pad\":\"{padding}\"}}"))
            }
            Protocol::Raw => Frame::binary(format!("L{key}{value:012}{padding}").as_bytes()),
        }
    }
}

fn filler(protocol: Protocol, padding: usize) -> Frame {
    match protocol {
        Protocol::Json => Frame::text(&format!("{{\"type\":\"notice\",\"pad\":\"{}\"}}", ".".repeat(padding))),
        Protocol::Raw => Frame::binary(&vec![b'!'; padding]),
    }
}
