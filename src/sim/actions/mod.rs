//! What clients, the application and the operators do in a step.
//!
//! Each action draws its details, does its part, and notes it. The rules that it must not break are in the models.

pub(super) mod admin_port;
pub(super) mod app;
pub(super) mod claim;
pub(super) mod client;
pub(super) mod connect;
pub(super) mod lobby;
pub(super) mod operator;
pub(super) mod post;
pub(super) mod session;
