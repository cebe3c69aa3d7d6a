//! Messages as an application handles them, and the built-in applications without JSON.

use lobbyd::apps::{Echo, Verbatim};
use lobbyd::config::Limit;
use lobbyd::{CloseReason, Config, Reject};

use super::three::THREE;
use crate::common::scenario::World;
use crate::common::witness::Witness;

#[test]
fn an_application_may_forbid_a_broadcast_or_direct_message() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run(THREE);
    world.run(
        r#"
        ann > {"type":"broadcast","data":"forbidden","ref":1}
        ann < error ref=1 code=not_allowed
        ann > {"type":"direct","to":"bob","data":"forbidden","ref":2}
        ann < error ref=2 code=not_allowed
        ann > {"type":"broadcast","data":"forbidden"}
        ann < error !ref code=not_allowed
        bob < nothing
        # A forbidden message takes no number.
        ann > {"type":"broadcast","data":"allowed","ref":3}
        ann < ack ref=3 seq=1
        bob < message seq=1 data=allowed
        cid < message seq=1 data=allowed
        "#,
    );
    assert_eq!(world.engine.stats().counters.rejected(Reject::NotAllowed), 3);
}

/// If the application closes the sender while `allows` runs, the message is not relayed.
#[test]
fn a_message_whose_sender_is_closed_by_allows_is_not_relayed() {
    for message in [r#"{"type":"broadcast","data":1,"ref":1}"#, r#"{"type":"direct","to":"bob","data":1,"ref":1}"#] {
        let mut world = World::new(
            Config::default(),
            Witness::<true>::reacting(|cx, member, event| {
                if event.starts_with("may") {
                    cx.close(member.expect("ann").conn(), CloseReason::PolicyViolation);
                }
            }),
        );
        world.run(THREE);
        world.run(&format!(
            r#"
            ann > {message}
            ann < goodbye code=1008, close 1008 policy_violation
            bob < presence_diff seq=1 -ann:kicked
            cid < presence_diff seq=1 -ann:kicked
            "#
        ));
    }
}

#[test]
fn an_application_may_refuse_a_message() {
    let mut world = World::new(
        Config::default(),
        Witness::<true>::reacting(|cx, _, event| {
            if event.starts_with("json") && event.contains("illegal") {
                cx.reject(Reject::NotAllowed, "that is no legal \"move\"");
            }
        }),
    );
    world.run(THREE);
    world.run(
        r#"
        ann > {"type":"illegal","ref":1}
        ann < error ref=1 code=not_allowed
        ann > {"type":"illegal"}
        ann < error !ref code=not_allowed
        ann > {"type":"legal","ref":2}
        ann < ack ref=2
        "#,
    );
    world.act("ann", r#"{"type":"illegal"}"#);
    world.flush();
    let expected = r#"{"type":"error","code":"not_allowed","message":"that is no legal \"move\""}"#;
    assert_eq!(world.take("ann"), [expected]);
}

/// A reject applies only to the message that is being handled.
#[test]
fn a_reject_outside_of_on_message_has_no_effect() {
    let mut world = World::new(
        Config::default(),
        Witness::<true>::reacting(|cx, _, event| {
            if !event.starts_with("json") {
                cx.reject(Reject::NotAllowed, "this refuses nothing");
            }
        }),
    );
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > {"type":"move","ref":1}
        ann < ack ref=1
        ann > {"type":"broadcast","data":1,"ref":2}
        ann < ack ref=2
        ann > {"type":"move","ref":3}
        ann < ack ref=3
        "#,
    );
}

/// Events caused by a callback are dispatched after it returns.
#[test]
fn no_callback_runs_inside_another() {
    let mut world = World::new(
        Config::default(),
        Witness::<true>::reacting(|cx, member, event| {
            if event.starts_with("json ann close_both") {
                cx.close_user("bob", CloseReason::Kicked);
                cx.close(member.expect("ann").conn(), CloseReason::Kicked);
                assert_eq!(cx.lobby_users("chess").collect::<Vec<_>>(), ["cid"], "their seats are free at once");
            }
        }),
    );
    world.run(THREE);
    world.engine.app_mut().take();
    world.run(
        r#"
        turn begins
        ann > {"type":"close_both","ref":1}
        ann > {"type":"unheard"}
        turn ends
        ann < goodbye, close 4003 kicked
        bob < goodbye, close 4003 kicked
        cid < presence_diff seq=1 -bob:kicked -ann:kicked
        "#,
    );
    let log = world.engine.app_mut().take();
    assert_eq!(log, [r#"json ann close_both {"type":"close_both","ref":1}"#, "leave bob kicked", "leave ann kicked"]);
}

#[test]
fn verbatim_relays_and_sends_no_messages_of_its_own() {
    let config = Config { max_connections: Limit::at_most(2), ..Config::default() };
    World::new(config, Verbatim::default()).run(
        r#"
        ann > get /ws/chess?token=ann Sec-WebSocket-Protocol: graphql-ws
        ann < upgrade graphql-ws
        bob > connect chess
        bob < upgrade
        ann < nothing
        ann > text not JSON at all
        bob < not JSON at all
        ann > text {"type":"leave","ref":1}
        bob < {"type":"leave","ref":1}
        ann > binary x
        bob < binary x
        ann < nothing
        cid > connect chess
        cid < upgrade, close 4002 server_full
        ann > close 1000
        ann < close 1000 , eof
        bob < nothing
        drain
        bob < close 1001 server_shutdown
        "#,
    );
}

#[test]
fn echo_answers_each_connection_separately() {
    World::new(Config::default(), Echo).run(
        r#"
        ann > get /anything/at/all
        ann < upgrade
        bob > get /
        bob < upgrade
        ann > text one
        ann < one
        ann > binary two
        ann < binary two
        bob < nothing
        "#,
    );
}
