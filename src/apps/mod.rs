//! The stock applications, written against the public [`App`](crate::App) trait like anybody's.

mod auth;
mod contained;
mod echo;
mod relay;
mod verbatim;

pub use auth::{Auth, Tokens};
pub use contained::Contained;
pub use echo::Echo;
pub use relay::Relay;
pub use verbatim::Verbatim;
