//! The sources and the documents.

pub mod documents;
pub mod tidy;
