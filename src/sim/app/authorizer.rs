//! Restricts the identities that the application returns, and delays its answers, as drawn for the run.
//!
//! Draws and remembers. Checks nothing: the models are fed with the identities that it returns.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::id::ConnId;
use crate::base::random::Random;
use crate::base::rate::Rate;
use crate::engine::app::{Authorization, Identity, Route};
use crate::lobby::is_user_id;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::swarm::config::draw_tier;
use crate::sim::swarm::parameters::Swarm;
use crate::sim::swarm::pick::pick;

/// Draws the restrictions of identities, and which authorizations are answered later.
pub(crate) struct Authorizer {
    /// Percentage of authorizations that are answered later.
    late: u64,
    /// Generator for the delays.
    delays: Random,
    /// Percentages of identities with their own rate, with an expiry, and restricted to one lobby.
    percents: [u64; 3],
    /// Unit of the drawn expiry times, in milliseconds.
    span: u64,
    /// The own rate, or none, of each user that has connected so far.
    tiers: BTreeMap<String, Option<Rate>>,
    /// Generator for the restrictions.
    restrictions: Random,
    /// Delayed authorizations, with the answers still to be given.
    waiting: Vec<(ConnId, Authorization)>,
    /// Restricted identities that the models have not been fed with.
    restricted: Vec<(ConnId, Identity, Vec<Behaviour>)>,
}

impl Authorizer {
    pub(crate) fn new(swarm: &Swarm, ping_interval: Duration, delays: Random, restrictions: Random) -> Authorizer {
        let percents = [Behaviour::Tier, Behaviour::Expiry, Behaviour::OneLobby];
        Authorizer {
            late: percent_late(swarm),
            delays,
            percents: percents.map(|behaviour| u64::from(swarm.weight(behaviour)).min(60)),
            span: ping_interval.as_millis() as u64,
            restrictions,
            ..Authorizer::unused()
        }
    }

    /// Creates an authorizer for a replay, which asks for no authorization.
    pub(crate) fn unused() -> Authorizer {
        Authorizer {
            late: 0,
            delays: Random::new(0),
            percents: [0; 3],
            span: 0,
            tiers: BTreeMap::new(),
            restrictions: Random::new(0),
            waiting: Vec::new(),
            restricted: Vec::new(),
        }
    }

    /// Returns the answer to a request instead of the application's: with a restricted identity, or pending.
    pub(super) fn answer(
        &mut self,
        conn: ConnId,
        route: &Route,
        mut answer: Authorization,
        unix_millis: u64,
    ) -> Authorization {
        if let (Authorization::Allow(identity), Route::Lobby(code)) = (&mut answer, route) {
            let behaviours = self.restrict(identity, code, unix_millis);
            if !behaviours.is_empty() {
                self.restricted.push((conn, identity.clone(), behaviours));
            }
        }
        let Authorization::Allow(Identity { user, .. }) = &answer else { return answer };
        if self.late == 0 || !is_user_id(user) || !self.delays.percent(self.late) {
            return answer;
        }
        let user = self.delays.percent(70).then(|| user.clone());
        self.waiting.push((conn, answer));
        Authorization::Pending { user }
    }

    pub(crate) fn take_restricted(&mut self) -> Vec<(ConnId, Identity, Vec<Behaviour>)> {
        std::mem::take(&mut self.restricted)
    }

    /// From now on, delays no authorization.
    pub(crate) fn stop_delays(&mut self) {
        self.late = 0;
    }

    /// Returns the number of delayed authorizations.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the delayed authorization at `index`, in no particular order.
    pub(crate) fn take_waiting(&mut self, index: usize) -> (ConnId, Authorization) {
        self.waiting.swap_remove(index)
    }

    /// Returns the user's own rate, drawn once per user. With one rate per connection, tokens spent at a high rate
    /// would have to be earned back at a low one.
    fn tier_of(&mut self, user: &str) -> Option<Rate> {
        if let Some(tier) = self.tiers.get(user) {
            return *tier;
        }
        let tier = self.restrictions.percent(self.percents[0]).then(|| draw_tier(&mut self.restrictions));
        self.tiers.insert(user.into(), tier);
        tier
    }

    /// Returns an identity of `user` with its rate and without any other restriction.
    pub(crate) fn identity_of(&mut self, user: &str) -> Identity {
        Identity { tier: self.tier_of(user), ..Identity::new(user) }
    }

    /// Draws restrictions for `identity` and returns the behaviours they stand for.
    fn restrict(&mut self, identity: &mut Identity, code: &str, unix_millis: u64) -> Vec<Behaviour> {
        let mut behaviours = Vec::new();
        identity.tier = self.tier_of(&identity.user);
        if identity.tier.is_some() {
            behaviours.push(Behaviour::Tier);
        }
        let random = &mut self.restrictions;
        if random.percent(self.percents[1]) {
            let far = pick(random, &[0, 1, self.span, 4 * self.span, 40 * self.span]);
            identity.expires = Some(unix_millis + random.below(far + 1));
            behaviours.push(Behaviour::Expiry);
        }
        if random.percent(self.percents[2]) {
            let other = random.percent(30);
            identity.lobby = Some(if other { "elsewhere" } else { code }.into());
            behaviours.push(Behaviour::OneLobby);
        }
        behaviours
    }
}

/// Returns the percentage of authorizations that are answered later in a run.
pub(crate) fn percent_late(swarm: &Swarm) -> u64 {
    u64::from(swarm.weight(Behaviour::LateAuth)).min(60)
}
