//! Rules of the source tree and of the documents.

pub mod documents;
pub mod tidy;
