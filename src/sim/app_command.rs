//! What the application's owner wants it to do, as the data of a command: so that a journal has it.

use std::time::Duration;

use super::world::World;
use crate::close::CloseReason;
use crate::engine::app::{App, Context, Exclude, Protocol, Sent};
use crate::id::ConnId;
use crate::wire::frame::Frame;

#[derive(Clone, Copy, Debug)]
pub(super) enum AppCommand<'a> {
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

/// A frame that only matters until the next one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) padding: usize,
}

impl<A: App> World<A> {
    /// Has the application do it. Returns whom it reached.
    pub(super) fn ask_app(&mut self, command: AppCommand<'_>) -> Sent {
        let command = command.encode();
        self.engine.handle_command(self.now, command.as_bytes());
        std::mem::take(&mut self.engine.observed_app().seen.granted)
    }
}

impl<'a> AppCommand<'a> {
    fn encode(self) -> String {
        // No user's name and no lobby's code has a line's end in it.
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

    /// `None`: the command is somebody else's.
    pub(super) fn decode(command: &'a [u8]) -> Option<AppCommand<'a>> {
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

    /// Does it.
    pub(super) fn grant(self, speech: Protocol, cx: &mut Context<'_>) -> Sent {
        let reached = |queued| Sent { queued, ..Sent::default() };
        match self {
            AppCommand::Ban(conn) => {
                cx.close(conn, CloseReason::Banned);
                Sent::default()
            }
            AppCommand::Kick { user } => reached(cx.close_user(user, CloseReason::Kicked)),
            AppCommand::CloseLobby { lobby } => reached(cx.close_lobby(lobby, CloseReason::LobbyClosed)),
            AppCommand::Ping { user, timeout } => reached(cx.ping_user(user, timeout)),
            AppCommand::Fill { conn, padding } => reached(usize::from(cx.send_to_conn(conn, &filler(speech, padding)))),
            AppCommand::FillUser { user, padding } => cx.send_to_user(user, &filler(speech, padding)),
            AppCommand::FillOthers { lobby, user, padding } => {
                cx.broadcast_to_lobby(lobby, Exclude::User(user), &filler(speech, padding))
            }
            AppCommand::FillLobby { lobby, padding } => {
                cx.broadcast_to_lobby(lobby, Exclude::None, &filler(speech, padding))
            }
            AppCommand::Latest { conn, latest } => {
                reached(usize::from(cx.send_latest_to_conn(conn, latest.key, &latest.frame(speech))))
            }
            AppCommand::LatestInLobby { lobby, latest } => {
                cx.broadcast_latest(lobby, Exclude::None, latest.key, &latest.frame(speech))
            }
        }
    }
}

impl Latest {
    fn frame(self, speech: Protocol) -> Frame {
        let Latest { key, value, padding } = self;
        let padding = ".".repeat(padding);
        match speech {
            Protocol::Json => {
                Frame::text(&format!("{{\"type\":\"latest\",\"key\":{key},\"value\":{value},\"pad\":\"{padding}\"}}"))
            }
            Protocol::Raw => Frame::binary(format!("L{key}{value:012}{padding}").as_bytes()),
        }
    }
}

fn filler(speech: Protocol, padding: usize) -> Frame {
    match speech {
        Protocol::Json => Frame::text(&format!("{{\"type\":\"notice\",\"pad\":\"{}\"}}", ".".repeat(padding))),
        Protocol::Raw => Frame::binary(&vec![b'!'; padding]),
    }
}
