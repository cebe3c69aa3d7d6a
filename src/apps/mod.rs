//! The built-in applications. They use only the public [`App`](crate::App) trait, like any other application.

mod auth;
mod catch_panics;
mod echo;
#[cfg(feature = "jwt")]
mod jwt;
mod relay;
mod verbatim;

pub use auth::{Auth, Tokens};
pub use catch_panics::CatchPanics;
pub use echo::Echo;
#[cfg(feature = "jwt")]
pub use jwt::{Jwt, JwtKeys, JwtRefusal};
pub use relay::Relay;
pub use verbatim::Verbatim;
