//! The state of a replay as text.

use std::io::Read;

use super::Replay;
use crate::engine::app::App;

impl<A: App, R: Read> Replay<A, R> {
    /// Returns the current state as text: statistics, lobbies and their members.
    pub fn state(&self) -> String {
        let mut text = format!("turn {} at {}\n{}\n", self.turn(), self.now(), self.engine.stats().line());
        let mut after = None;
        loop {
            let page = self.engine.lobbies(after, 1000);
            for lobby in page.items {
                let locked = if lobby.locked { " locked" } else { "" };
                let (code, epoch, seq) = (&lobby.code, lobby.epoch, lobby.seq);
                text.push_str(&format!("lobby {code} members={} epoch={epoch} seq={seq}{locked}\n", lobby.members));
                for seat in self.engine.lobby_members(code, None, usize::MAX).items {
                    text.push_str(&format!("  {:?} conn={}", seat.user, seat.seat));
                    let number = |value: Option<usize>| value.map(|value| value.to_string());
                    let idle = seat.idle.map(|idle| format!("{:.3}s", idle.as_secs_f64()));
                    let parts = [
                        ("node", seat.node),
                        ("peer", seat.peer.map(|peer| peer.to_string())),
                        ("queued_bytes", number(seat.queued_bytes)),
                        ("idle", idle),
                    ];
                    for (name, value) in parts {
                        text.extend(value.map(|value| format!(" {name}={value}")));
                    }
                    text.push('\n');
                }
            }
            after = page.next;
            if after.is_none() {
                return text;
            }
        }
    }
}
