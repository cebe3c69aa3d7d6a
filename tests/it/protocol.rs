//! The JSON protocol, as its documentation says it.

use lobbyd::{Config, Reject};

use crate::scenario::{World, check};
use crate::witness::Witness;

#[test]
fn members_learn_who_is_there_and_hear_each_other() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome protocol=1 user=ann lobby=chess seq=0 resumed=false, presence_state seq=0 users=ann
        bob > connect chess
        bob < upgrade, welcome user=bob, presence_state seq=1 users=ann,bob
        ann < presence_diff seq=1 +bob
        bob > {"type":"move","to":"e4"}
        ann < message from=bob seq=2 data={"type":"move","to":"e4"}
        bob < nothing
        ann > {"type":"broadcast","data":[1],"ref":7}
        bob < message from=ann seq=3 data=[1]
        ann < ack ref=7 seq=3 delivered=1 dropped=0
        bob > close 1000
        bob < close 1000 , eof
        ann < presence_diff seq=4 -bob:left
        "#,
    );
}

/// What the lobby has still to be told when a seat is taken over goes to the older connection, not before the welcome.
#[test]
fn welcome_comes_first_also_for_whoever_takes_over_a_seat() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        turn begins
        bob > connect chess
        ann:2 > connect chess
        turn ends
        bob < upgrade, welcome seq=0, presence_state seq=1 users=ann,bob
        ann < presence_diff seq=1 +bob, goodbye, close 4004 replaced
        ann:2 < upgrade, welcome seq=1, presence_state seq=1 users=ann,bob
        "#,
    );
}

/// A refusal belongs to the message that is being handled, and to no other.
#[test]
fn a_refusal_outside_of_on_message_touches_no_message() {
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
