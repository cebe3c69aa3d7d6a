//! A chat bot: the example of the guide, *Writing a client*. Run the server, open `examples/pages/chat.html`, and then:
//!
//!     cargo run --features client --example bot

use lobbyd::client::{Event, Lobby, LobbyError, LobbyOptions};

/// The messages that it understands.
#[derive(serde::Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Says {
    Chat { data: String },
}

pub fn bot(url: &str) -> Result<(), LobbyError> {
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
            _ => continue,
        };
        lobby.request("chat", answer)?;
    }
    Ok(())
}

fn main() -> Result<(), LobbyError> {
    bot("ws://127.0.0.1:9001/ws/chat")
}
