//! What the application's owner wants it to do, as the data of a command: so that a journal has it.

use std::time::Duration;

use super::world::World;
use crate::close::CloseReason;
use crate::engine::app::{App, Context, Exclude, Protocol, Sent};
use crate::id::ConnId;
use crate::wire::frame::Frame;

#[derive(Clone, Copy, Debug)]
pub(super) enum Wish<'a> {
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
    pub(super) fn ask_app(&mut self, wish: Wish<'_>) -> Sent {
        let command = wish.encode();
        self.engine.handle_command(self.now, command.as_bytes());
        std::mem::take(&mut self.engine.observed_app().seen.granted)
    }
}

impl<'a> Wish<'a> {
    fn encode(self) -> String {
        // No user's name and no lobby's code has a line's end in it.
        let id = |conn: ConnId| format!("{}\n{}", conn.index(), conn.generation());
        let show = |Latest { key, value, padding }: Latest| format!("{key}\n{value}\n{padding}");
        match self {
            Wish::Ban(conn) => format!("ban\n{}", id(conn)),
            Wish::Kick { user } => format!("kick\n{user}"),
            Wish::CloseLobby { lobby } => format!("close\n{lobby}"),
            Wish::Ping { user, timeout } => format!("ping\n{user}\n{}", timeout.as_micros()),
            Wish::Fill { conn, padding } => format!("fill\n{}\n{padding}", id(conn)),
            Wish::FillUser { user, padding } => format!("fill user\n{user}\n{padding}"),
            Wish::FillOthers { lobby, user, padding } => format!("fill others\n{lobby}\n{user}\n{padding}"),
            Wish::FillLobby { lobby, padding } => format!("fill lobby\n{lobby}\n{padding}"),
            Wish::Latest { conn, latest } => format!("latest\n{}\n{}", id(conn), show(latest)),
            Wish::LatestInLobby { lobby, latest } => format!("latest in lobby\n{lobby}\n{}", show(latest)),
        }
    }

    /// `None`: the command is somebody else's.
    pub(super) fn decode(command: &'a [u8]) -> Option<Wish<'a>> {
        fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
            text.parse().ok()
        }
        let id = |index, generation| ConnId::new(number(index)?, number(generation)?);
        let latest =
            |key, value, padding| Some(Latest { key: number(key)?, value: number(value)?, padding: number(padding)? });
        let lines: Vec<&str> = str::from_utf8(command).ok()?.split('\n').collect();
        Some(match *lines {
            ["ban", index, generation] => Wish::Ban(id(index, generation)?),
            ["kick", user] => Wish::Kick { user },
            ["close", lobby] => Wish::CloseLobby { lobby },
            ["ping", user, micros] => Wish::Ping { user, timeout: Duration::from_micros(number(micros)?) },
            ["fill", index, generation, padding] => {
                Wish::Fill { conn: id(index, generation)?, padding: number(padding)? }
            }
            ["fill user", user, padding] => Wish::FillUser { user, padding: number(padding)? },
            ["fill others", lobby, user, padding] => Wish::FillOthers { lobby, user, padding: number(padding)? },
            ["fill lobby", lobby, padding] => Wish::FillLobby { lobby, padding: number(padding)? },
            ["latest", index, generation, key, value, padding] => {
                Wish::Latest { conn: id(index, generation)?, latest: latest(key, value, padding)? }
            }
            ["latest in lobby", lobby, key, value, padding] => {
                Wish::LatestInLobby { lobby, latest: latest(key, value, padding)? }
            }
            _ => return None,
        })
    }

    /// Does it.
    pub(super) fn grant(self, speech: Protocol, cx: &mut Context<'_>) -> Sent {
        let reached = |queued| Sent { queued, ..Sent::default() };
        match self {
            Wish::Ban(conn) => {
                cx.close(conn, CloseReason::Banned);
                Sent::default()
            }
            Wish::Kick { user } => reached(cx.close_user(user, CloseReason::Kicked)),
            Wish::CloseLobby { lobby } => reached(cx.close_lobby(lobby, CloseReason::LobbyClosed)),
            Wish::Ping { user, timeout } => reached(cx.ping_user(user, timeout)),
            Wish::Fill { conn, padding } => reached(usize::from(cx.send_to_conn(conn, &filler(speech, padding)))),
            Wish::FillUser { user, padding } => cx.send_to_user(user, &filler(speech, padding)),
            Wish::FillOthers { lobby, user, padding } => {
                cx.broadcast_to_lobby(lobby, Exclude::User(user), &filler(speech, padding))
            }
            Wish::FillLobby { lobby, padding } => cx.broadcast_to_lobby(lobby, Exclude::None, &filler(speech, padding)),
            Wish::Latest { conn, latest } => {
                reached(usize::from(cx.send_latest_to_conn(conn, latest.key, &latest.frame(speech))))
            }
            Wish::LatestInLobby { lobby, latest } => {
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
