//! The scripts that run in Redis, and the keys that they use. See `scripts/prelude.lua` for what is stored there.

use sha1::{Digest, Sha1};

/// A script, by its place in [`SCRIPTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Hello,
    Attach,
    Append,
    Heartbeat,
    Leave,
    Since,
    Restore,
    StatePut,
    StateGet,
}

const PRELUDE: &str = include_str!("scripts/prelude.lua");

/// All scripts, without the prelude.
const SCRIPTS: [(Script, &str); 9] = [
    (Script::Hello, include_str!("scripts/hello.lua")),
    (Script::Attach, include_str!("scripts/attach.lua")),
    (Script::Append, include_str!("scripts/append.lua")),
    (Script::Heartbeat, include_str!("scripts/heartbeat.lua")),
    (Script::Leave, include_str!("scripts/leave.lua")),
    (Script::Since, include_str!("scripts/since.lua")),
    (Script::Restore, include_str!("scripts/restore.lua")),
    (Script::StatePut, include_str!("scripts/state_put.lua")),
    (Script::StateGet, include_str!("scripts/state_get.lua")),
];

/// The scripts with their names in `EVALSHA`.
pub(crate) struct Scripts(Vec<(Script, String, String)>);

impl Scripts {
    pub(crate) fn new() -> Scripts {
        let complete = |(script, text): (Script, &str)| {
            let text = format!("{PRELUDE}\n{text}");
            let sha = hex(&Sha1::digest(text.as_bytes()));
            (script, sha, text)
        };
        Scripts(SCRIPTS.into_iter().map(complete).collect())
    }

    /// Returns the SHA1 of a script in hex digits.
    pub(crate) fn sha(&self, script: Script) -> &str {
        let (_, sha, _) = self.0.iter().find(|(known, ..)| *known == script).expect("SCRIPTS has every script");
        sha
    }

    /// Returns the script with this SHA1.
    pub(crate) fn of_sha(&self, sha: &[u8]) -> Option<Script> {
        self.0.iter().find(|(_, known, _)| known.as_bytes() == sha).map(|(script, ..)| *script)
    }

    /// Returns the SHA1 of the script whose text is at this place of [`Scripts::texts`].
    pub(crate) fn sha_at(&self, at: usize) -> &str {
        &self.0[at].1
    }

    /// Returns the texts for `SCRIPT LOAD`.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(.., text)| text.as_str())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The keys of one cluster. All have the same hash tag, so that they are in one slot of a Redis Cluster.
pub(crate) struct Keys {
    pub(crate) head: String,
    /// The stream, and the channel on which its entries are published.
    pub(crate) log: String,
    pub(crate) nodes: String,
    state: String,
}

impl Keys {
    /// Channels are the same for all databases of a Redis. So the number of the database is part of the names, unless it is 0.
    pub(crate) fn new(namespace: &str, database: u32) -> Keys {
        let prefix = if database == 0 { format!("{{{namespace}}}") } else { format!("{{{namespace}}}:{database}") };
        let key = |name: &str| format!("{prefix}:{name}");
        Keys { head: key("head"), log: key("log"), nodes: key("nodes"), state: key("state:") }
    }

    /// Returns the key of the state for a node that is attaching. `attach` gets it without an incarnation, to delete what is
    /// left of a log that was lost.
    pub(crate) fn state(&self, node: Option<u64>) -> String {
        node.map_or_else(|| self.state.clone(), |node| format!("{}{node}", self.state))
    }
}

/// The chained hash of an entry: 16 hex digits, of the first 8 bytes of the SHA1 of the hash before it and the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash(pub(crate) [u8; 16]);

impl Hash {
    /// The hash before the first entry.
    pub(crate) const BLANK: Hash = Hash(*b"0000000000000000");

    pub(crate) fn parse(text: &[u8]) -> Option<Hash> {
        text.try_into().ok().map(Hash)
    }

    /// Returns the hash of an entry that follows the one with this hash.
    pub(crate) fn chained(self, entry: &[u8]) -> Hash {
        let digest = Sha1::new().chain_update(self.0).chain_update(entry).finalize();
        Hash::parse(hex(&digest[..8]).as_bytes()).expect("8 bytes are 16 hex digits")
    }
}
