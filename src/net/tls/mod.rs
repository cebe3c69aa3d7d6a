//! TLS in front of members and operators.
//!
//! A transform between socket and engine: neither the engine nor its journal knows of it. `session` hides the library.

mod certificate;
mod records;
mod session;
mod shared;
mod stream;

pub(super) use self::shared::{Tls, check_files};
pub(super) use self::stream::TlsStream;
