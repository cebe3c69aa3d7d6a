//! Operators' commands in operations: those that concern users and lobbies, and not one node alone.

use std::time::Duration;

use super::fields::{Body, put_bytes, put_option};
use crate::base::id::SeatId;
use crate::engine::operator::{KickTarget, LobbyChange, NewLobby, OperatorCommand, Payload, SettingsText};

const PUBLISH: u8 = 1;
const SEND: u8 = 2;
const KICK: u8 = 3;
const LOCK: u8 = 4;
const CLOSE: u8 = 5;
const CHANGE: u8 = 6;
const CREATE: u8 = 7;

/// Whether all nodes carry out a command. The others concern the node that is asked.
pub(super) fn is_shared(command: &OperatorCommand) -> bool {
    !matches!(command, OperatorCommand::Ping { .. } | OperatorCommand::Drain | OperatorCommand::Clock(_))
}

/// Appends a command that is [shared](is_shared).
pub(super) fn put_command(out: &mut Vec<u8>, command: &OperatorCommand) {
    match command {
        OperatorCommand::Publish { lobby, payload, exclude, idempotency_key } => {
            out.push(PUBLISH);
            put_text(out, lobby);
            put_payload(out, payload);
            put_texts(out, exclude);
            put_option(out, idempotency_key.as_ref(), put_text);
        }
        OperatorCommand::Send { user, payload } => {
            out.push(SEND);
            put_text(out, user);
            put_payload(out, payload);
        }
        OperatorCommand::Kick { target, reconnect } => {
            let (kind, name) = match target {
                KickTarget::User(user) => (0, &**user),
                KickTarget::Lobby(lobby) => (1, &**lobby),
                KickTarget::All => (2, ""),
            };
            out.extend([KICK, kind, u8::from(*reconnect)]);
            put_bytes(out, name.as_bytes());
        }
        OperatorCommand::Lock { lobby, locked } => {
            out.extend([LOCK, u8::from(*locked)]);
            put_text(out, lobby);
        }
        OperatorCommand::Close { lobby } => {
            out.push(CLOSE);
            put_text(out, lobby);
        }
        OperatorCommand::Change { lobby, change } => {
            out.push(CHANGE);
            put_text(out, lobby);
            put_change(out, change);
        }
        OperatorCommand::Create(new) => {
            out.push(CREATE);
            put_new_lobby(out, new);
        }
        OperatorCommand::Ping { .. } | OperatorCommand::Drain | OperatorCommand::Clock(_) => {
            unreachable!("these commands concern one node")
        }
    }
}

/// Reads a command; `None` if it is malformed.
pub(super) fn read_command(body: &mut Body<'_>) -> Option<OperatorCommand> {
    Some(match body.u8()? {
        PUBLISH => OperatorCommand::Publish {
            lobby: text(body)?,
            payload: payload(body)?,
            exclude: texts(body)?,
            idempotency_key: body.option(text)?,
        },
        SEND => OperatorCommand::Send { user: text(body)?, payload: payload(body)? },
        KICK => {
            let (kind, reconnect) = (body.u8()?, body.u8()? == 1);
            let target = match (kind, text(body)?) {
                (0, user) => KickTarget::User(user),
                (1, lobby) => KickTarget::Lobby(lobby),
                (2, _) => KickTarget::All,
                _ => return None,
            };
            OperatorCommand::Kick { target, reconnect }
        }
        LOCK => {
            let locked = body.u8()? == 1;
            OperatorCommand::Lock { lobby: text(body)?, locked }
        }
        CLOSE => OperatorCommand::Close { lobby: text(body)? },
        CHANGE => OperatorCommand::Change { lobby: text(body)?, change: change(body)? },
        CREATE => OperatorCommand::Create(new_lobby(body)?),
        _ => return None,
    })
}

fn put_text(out: &mut Vec<u8>, text: &String) {
    put_bytes(out, text.as_bytes());
}

fn text(body: &mut Body<'_>) -> Option<String> {
    body.text().map(str::to_owned)
}

fn put_texts(out: &mut Vec<u8>, texts: &[String]) {
    out.extend((texts.len() as u64).to_le_bytes());
    texts.iter().for_each(|text| put_text(out, text));
}

fn texts(body: &mut Body<'_>) -> Option<Vec<String>> {
    // Nothing is allocated in advance: the number may be wrong.
    (0..body.u64()?).map(|_| text(body)).collect()
}

fn put_payload(out: &mut Vec<u8>, payload: &Payload) {
    let (kind, text) = match payload {
        Payload::Json(text) => (0, text),
        Payload::Text(text) => (1, text),
    };
    out.push(kind);
    put_text(out, text);
}

fn payload(body: &mut Body<'_>) -> Option<Payload> {
    match (body.u8()?, text(body)?) {
        (0, text) => Some(Payload::Json(text)),
        (1, text) => Some(Payload::Text(text)),
        _ => None,
    }
}

fn put_change(out: &mut Vec<u8>, change: &LobbyChange) {
    match change {
        LobbyChange::Data { of, if_seq, data } => {
            out.push(0);
            put_option(out, *of, |out, SeatId(seat)| out.extend(seat.to_le_bytes()));
            put_option(out, *if_seq, |out, seq| out.extend(seq.to_le_bytes()));
            put_text(out, data);
        }
        LobbyChange::Settings(SettingsText(settings)) => {
            out.push(1);
            put_text(out, settings);
        }
        LobbyChange::Host(SeatId(seat)) => {
            out.push(2);
            out.extend(seat.to_le_bytes());
        }
        LobbyChange::Ban(user) => {
            out.push(3);
            put_text(out, user);
        }
        LobbyChange::Unban(user) => {
            out.push(4);
            put_text(out, user);
        }
    }
}

fn change(body: &mut Body<'_>) -> Option<LobbyChange> {
    Some(match body.u8()? {
        0 => LobbyChange::Data {
            of: body.option(|body| body.u64().map(SeatId))?,
            if_seq: body.option(Body::u64)?,
            data: text(body)?,
        },
        1 => LobbyChange::Settings(SettingsText(text(body)?)),
        2 => LobbyChange::Host(SeatId(body.u64()?)),
        3 => LobbyChange::Ban(text(body)?),
        4 => LobbyChange::Unban(text(body)?),
        _ => return None,
    })
}

fn put_new_lobby(out: &mut Vec<u8>, NewLobby { code, seats, settings, data, ttl, pool }: &NewLobby) {
    put_option(out, code.as_ref(), put_text);
    put_texts(out, seats);
    put_option(out, settings.as_ref().map(|SettingsText(settings)| settings), put_text);
    put_option(out, data.as_ref(), put_text);
    out.extend(ttl.as_secs().to_le_bytes());
    out.extend(ttl.subsec_nanos().to_le_bytes());
    put_option(out, pool.as_ref(), put_text);
}

fn new_lobby(body: &mut Body<'_>) -> Option<NewLobby> {
    Some(NewLobby {
        code: body.option(text)?,
        seats: texts(body)?,
        settings: body.option(text)?.map(SettingsText),
        data: body.option(text)?,
        ttl: {
            let (seconds, nanos) = (body.u64()?, body.take().map(u32::from_le_bytes)?);
            (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))?
        },
        pool: body.option(text)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<OperatorCommand> {
        let payload = Payload::Json("{}".into());
        let publish = |exclude, idempotency_key, payload| OperatorCommand::Publish {
            lobby: "chess".into(),
            payload,
            exclude,
            idempotency_key,
        };
        let kick = |target, reconnect| OperatorCommand::Kick { target, reconnect };
        let change = |change| OperatorCommand::Change { lobby: "chess".into(), change };
        let new = NewLobby::new(Duration::new(3, 999_999_999));
        vec![
            publish(Vec::new(), None, payload.clone()),
            publish(vec!["ann".into(), "bob".into()], Some("k".into()), Payload::Text("hi".into())),
            OperatorCommand::Send { user: "ann".into(), payload },
            kick(KickTarget::User("ann".into()), true),
            kick(KickTarget::Lobby("chess".into()), false),
            kick(KickTarget::All, false),
            OperatorCommand::Lock { lobby: "chess".into(), locked: true },
            OperatorCommand::Close { lobby: "chess".into() },
            change(LobbyChange::Data { of: None, if_seq: None, data: "{}".into() }),
            change(LobbyChange::Data { of: Some(SeatId(3)), if_seq: Some(7), data: "{}".into() }),
            change(LobbyChange::Settings(SettingsText("{}".into()))),
            change(LobbyChange::Host(SeatId(3))),
            change(LobbyChange::Ban("ann".into())),
            change(LobbyChange::Unban("ann".into())),
            OperatorCommand::Create(new.clone()),
            OperatorCommand::Create(NewLobby {
                code: Some("m".into()),
                seats: vec!["ann".into()],
                settings: Some(SettingsText("{}".into())),
                data: Some("{}".into()),
                pool: Some("p".into()),
                ..new
            }),
        ]
    }

    #[test]
    fn commands_are_read_as_they_were_written() {
        for command in all() {
            assert!(is_shared(&command));
            let mut bytes = Vec::new();
            put_command(&mut bytes, &command);
            let mut body = Body(&bytes);
            assert_eq!(read_command(&mut body), Some(command));
            assert!(body.0.is_empty());
        }
    }

    #[test]
    fn damaged_commands_are_read_without_a_panic() {
        for command in all() {
            let mut bytes = Vec::new();
            put_command(&mut bytes, &command);
            for end in 0..bytes.len() {
                assert_eq!(read_command(&mut Body(&bytes[..end])), None, "{command:?} cut at {end}");
            }
            for at in 0..bytes.len() {
                for other in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[at] = other;
                    let _ = read_command(&mut Body(&damaged));
                }
            }
        }
    }
}
