//! The file with the tokens or keys that decide about clients.

/// SIGHUP reads it again.
pub(crate) struct AuthFile {
    pub(crate) path: String,
    pub(crate) max_bytes: usize,
    /// What it contains, for the log.
    pub(crate) contents: &'static str,
    /// Whether the application accepts new contents.
    pub(crate) is_valid: fn(&[u8]) -> bool,
}
