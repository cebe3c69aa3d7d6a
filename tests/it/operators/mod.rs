//! The operators' API.

mod admin;
mod admin_answers;
mod operating;
mod orders;
