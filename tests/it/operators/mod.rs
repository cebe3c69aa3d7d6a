//! The operators' API.

mod admin;
mod admin_answers;
mod metrics;
mod operating;
mod orders;
