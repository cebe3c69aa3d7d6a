//! Lobbies with a new code, where each lobby has a home.

use super::*;
use crate::engine::control::LobbyControl;

/// A game whose lobbies can be created with a new code.
#[derive(Default)]
struct Table;

impl App for Table {
    const PROTOCOL: Protocol = Protocol::Json;
    const LOBBY_CONTROL: LobbyControl = LobbyControl::On;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

/// Lets a client create a lobby with a new code. Returns the client and the code.
fn create(nodes: &mut Nodes<Table>, user: &str, node: usize) -> (usize, String) {
    let client = nodes.connect(user, node, &format!("~new?token={user}&{PAGE}"));
    let welcome = nodes.got(client).remove(0);
    let code = welcome.split(r#""lobby":""#).nth(1).and_then(|rest| rest.split('"').next());
    (client, code.unwrap_or_else(|| panic!("{welcome}")).to_owned())
}

#[test]
fn a_lobby_that_was_created_without_a_place_has_its_home_there() {
    let mut nodes = Nodes::<Table>::new(1, &config());
    let start = Start { unix_micros: UNIX, seed: 2 };
    let mut engine = Engine::new(config().check().expect("valid"), start, Table);
    engine.join_cluster();
    let (incarnation, sockets) = (Incarnation(2), MemorySockets::default());
    nodes.nodes.push(Node { engine, incarnation, sockets, given: nodes.log.len(), is_attached: true });
    let (ann, code) = create(&mut nodes, "ann", 1);
    nodes.log.push(Body::Attached(incarnation, "node2 ws://node2".to_owned()));
    nodes.nodes[1].is_attached = false;
    nodes.turn();
    let bob = nodes.connect("bob", 0, &format!("{code}?token=bob"));
    expect(&mut nodes, bob, &[r#""url":"ws://node2""#, "close 4103 reconnect"]);
    expect(&mut nodes, ann, &[]);
}

#[test]
fn nodes_with_lobbies_of_their_own_draw_other_codes() {
    let mut nodes = Nodes::<Table>::new(2, &config());
    let (ann, first) = create(&mut nodes, "ann", 0);
    let (bob, second) = create(&mut nodes, "bob", 1);
    assert_ne!(first, second);
    expect(&mut nodes, ann, &[]);
    expect(&mut nodes, bob, &[]);
}
