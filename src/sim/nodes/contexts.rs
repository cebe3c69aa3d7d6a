//! What applications without a state do through their context: all nodes come to the same.

use super::*;
use crate::base::close::CloseReason;
use crate::egress::Pressure;
use crate::engine::control::LobbyControl;

#[derive(Default)]
struct Talker;

impl App for Talker {
    const PROTOCOL: Protocol = Protocol::Json;
    const LOBBY_CONTROL: LobbyControl = LobbyControl::On;
    const IS_STATELESS: bool = true;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, _: Message<'_>) {
        let connected = ["ann", "bob", "eve"].map(|user| cx.is_user_connected(user));
        cx.announce(from.lobby(), &format!("{connected:?}"));
    }

    /// The node that has the member's connection calls this, and no other one.
    fn on_pressure(&mut self, cx: &mut Context<'_>, member: &Member, _: Pressure) {
        cx.announce(member.lobby(), r#""under pressure""#);
    }

    /// Each node calls this for itself.
    fn on_command(&mut self, cx: &mut Context<'_>, _: &[u8]) {
        cx.announce("chess", "1");
        assert!(!cx.lock_lobby("chess", true));
        assert!(cx.set_lobby_data("chess", r#"{"a":1}"#).is_err());
        assert!(cx.set_lobby_settings("chess", r#"{"name":"x"}"#).is_err());
        assert!(cx.ban_from_lobby("chess", "bob").is_err() && cx.unban_from_lobby("chess", "bob").is_err());
        assert_eq!(cx.close_user("eve", CloseReason::Kicked), 0);
    }
}

#[track_caller]
fn agree(nodes: &Nodes<Talker>) {
    let states: Vec<String> = nodes.nodes.iter().map(|node| node.engine.shared_state()).collect();
    assert_eq!(states[0], states[1]);
}

fn seated() -> (Nodes<Talker>, [usize; 3]) {
    let mut nodes = Nodes::<Talker>::new(2, &config());
    let clients = [("ann", 0), ("bob", 1), ("eve", 1)]
        .map(|(user, node)| nodes.connect(user, node, &format!("chess?token={user}&{PAGE}")));
    nodes.hang_up(clients[2]);
    nodes.got(clients[0]);
    nodes.got(clients[1]);
    (nodes, clients)
}

#[test]
fn a_user_is_connected_on_whichever_node() {
    let (mut nodes, [ann, bob, _]) = seated();
    nodes.say(bob, r#"{"type":"who","ref":1}"#);
    let said = r#""data":[true, true, false]"#;
    expect(&mut nodes, ann, &[said]);
    expect(&mut nodes, bob, &[said, r#""ref":1"#]);
    agree(&nodes);
}

#[test]
fn what_all_nodes_share_is_not_changed_by_one_of_them_alone() {
    let (mut nodes, [ann, bob, _]) = seated();
    nodes.nodes[0].engine.handle_command(nodes.now, b"announce");
    nodes.turn();
    expect(&mut nodes, ann, &[]);
    expect(&mut nodes, bob, &[]);
    agree(&nodes);
}

#[test]
fn what_happens_to_one_connection_while_an_entry_is_executed_changes_nothing_for_all() {
    let (mut nodes, [ann, bob, _]) = seated();
    let conn = nodes.clients[ann].conn;
    nodes.nodes[0].sockets.limit(conn, 0);
    let long = "x".repeat(50_000);
    for _ in 0..4 {
        nodes.say(bob, &format!(r#"{{"type":"broadcast","data":"{long}"}}"#));
    }
    agree(&nodes);
    nodes.say(bob, r#"{"type":"who","ref":1}"#);
    agree(&nodes);
}
