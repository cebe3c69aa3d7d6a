//! An engine full of members, for the benches that use no sockets.

use lobbyd::sim::wire;
use lobbyd::{App, Config, ConnId, Engine, Limit, Start, Time};

/// `lobbies` lobbies of `size` members each, and their connections, lobby by lobby.
pub(crate) fn engine_with<A: App>(app: A, lobbies: usize, size: usize) -> (Engine<A>, Vec<ConnId>) {
    let config = Config {
        max_connections: Limit::UNLIMITED,
        max_per_lobby: Limit::UNLIMITED,
        max_lobbies: Limit::UNLIMITED,
        // Rates are on, but so high that nothing is refused.
        messages_per_second: Limit::at_most(1_000_000_000),
        message_burst: 1_000_000_000,
        bytes_per_second: Limit::at_most(1_000_000_000),
        byte_burst: 1_000_000_000,
        ..Config::default()
    };
    let mut engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, app);
    let mut conns = Vec::new();
    for lobby in 0..lobbies {
        for user in 0..size {
            let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("unlimited");
            let request = wire::upgrade_request(&format!("/ws/l{lobby}?token=u{lobby}-{user}"), &[]);
            engine.handle_bytes(Time::ZERO, conn, &request);
            conns.push(conn);
        }
    }
    flush(&mut engine);
    (engine, conns)
}

/// Does what a driver does at the end of a turn, into nothing.
pub(crate) fn flush<A: App>(engine: &mut Engine<A>) {
    while let Some(conn) = engine.poll_writable() {
        engine.write_to(conn, &mut std::io::sink()).expect("nothing takes everything");
    }
    while engine.poll_closed().is_some() {}
}
