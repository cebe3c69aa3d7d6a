//! A chat bot: the example of the guide, *Clients, Rust*. Run the server, open `examples/pages/chat.html`, and then:
//!
//!     cargo run --features client --example bot

use std::error::Error;

use lobbyd::client::{Event, Lobby, LobbyOptions, State};

/// The messages that it understands.
#[derive(serde::Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Says {
    Chat { data: String },
}

/// Runs until it is told to leave. Fails if the server closes the lobby for good, such as with `kicked`.
pub fn bot(url: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut lobby = Lobby::connect(url, LobbyOptions { token: "bot".into(), ..LobbyOptions::default() })?;
    while let Some(event) = lobby.next_event() {
        let answer = match event {
            Event::Join(who) => format!("Welcome, {}! Say !who or !bye.", who.user()),
            Event::Message(message) => match message.data() {
                Ok(Says::Chat { data }) if data == "!who" => {
                    let users: Vec<&str> = lobby.members().map(|who| who.user()).collect();
                    format!("Here are {}.", users.join(", "))
                }
                Ok(Says::Chat { data }) if data == "!bye" => {
                    lobby.leave();
                    continue;
                }
                _ => continue,
            },
            Event::Connection { state: State::Waiting, why: Some(why) } => {
                eprintln!("waiting: {} {}", why.code, why.reason);
                continue;
            }
            Event::Connection { state: State::Closed, why: Some(why) } if why.reason != "left" => {
                return Err(format!("closed: {} {}", why.code, why.reason).into());
            }
            _ => continue,
        };
        // It fails if the lobby is closed: an event says why.
        let _ = lobby.request("chat", answer);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    bot("ws://127.0.0.1:9001/ws/chat")
}
