//! Three members of one lobby.

use lobbyd::Config;

use crate::common::scenario::check;

/// Three members of one lobby, each of which has been sent the others' presence.
pub const THREE: &str = r#"
    turn begins
    ann > connect chess
    bob > connect chess
    cid > connect chess
    turn ends
    ann < upgrade, welcome, presence_state seq=0 users=ann,bob,cid
    bob < upgrade, welcome, presence_state seq=0 users=ann,bob,cid
    cid < upgrade, welcome, presence_state seq=0 users=ann,bob,cid
"#;

/// Runs a script with the three members of [`THREE`].
#[track_caller]
pub fn check_three(script: &str) {
    check(Config::default(), &format!("{THREE}{script}"));
}
