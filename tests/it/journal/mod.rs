//! Recording and replay.

mod baseline;
mod damage;
#[cfg(feature = "bin")]
mod exit_codes;
mod failures;
mod files;
#[cfg(feature = "jwt")]
mod jwt;
mod printing;
mod recording;
mod secrets;
mod segments;
pub(crate) mod site;
mod timeline;
