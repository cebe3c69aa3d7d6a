//! Faults of the reference implementation, a connection manager of the usual kind. There is one test per fault. Its name
//! states the behaviour that is required instead.

mod delivery;
mod liveness;
mod logins;
mod totals;

use lobbyd::Config;
use lobbyd::config::{DuplicateLogin, Limit};

fn lobby_of(n: u32) -> Config {
    Config { max_per_lobby: Limit::at_most(n), ..Config::default() }
}

fn several_logins(n: u32) -> Config {
    Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(n), ..Config::default() }
}
