//! Model of the users' message rates, over all connections of a user.
//!
//! Fed with the messages that reach the application. The engine also charges messages that do not reach it, so a
//! bucket of this model is never emptier than the engine's.

use std::collections::BTreeMap;

use crate::base::rate::{Bucket, Rate};
use crate::base::time::Time;
use crate::config::Config;

/// A number larger than that of the users in a run.
const MORE_THAN_USERS: usize = 1000;

/// The rate and the bucket of each user.
#[derive(Debug)]
pub(crate) struct UserRateModel {
    /// The message rate of a user without its own rate.
    user_rate: Option<Rate>,
    /// Whether the engine remembers the rates of all disconnected users.
    remembers: bool,
    /// Own rates of users.
    tiers: BTreeMap<String, Option<Rate>>,
    spent: BTreeMap<String, Bucket>,
}

impl UserRateModel {
    pub(crate) fn new(config: &Config) -> UserRateModel {
        UserRateModel {
            user_rate: config.user_message_rate(),
            remembers: config.max_remembered_rates as usize >= MORE_THAN_USERS,
            tiers: BTreeMap::new(),
            spent: BTreeMap::new(),
        }
    }

    /// An identity of `user` was returned, with its own rate or none. A user has the same in all its identities.
    pub(crate) fn authorized(&mut self, user: &str, tier: Option<Rate>) {
        self.tiers.insert(user.into(), tier);
    }

    /// A message of `user` reached the application. Checks that the user's rate allows it.
    pub(crate) fn charge(&mut self, user: &str, now: Time) -> Result<(), String> {
        let tier = self.tiers.get(user).copied().flatten();
        let Some(rate) = tier.or(self.user_rate).filter(|_| self.remembers) else { return Ok(()) };
        let spent = self.spent.entry(user.into()).or_default();
        spent
            .take(now, 1, rate)
            .map_err(|_| format!("{user} sent more messages than {rate} allows over all its connections"))
    }
}
