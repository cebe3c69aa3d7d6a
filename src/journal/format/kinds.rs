//! The first byte of each entry. `FORMAT.md` specifies the entries.

macro_rules! kinds {
    ($($name:ident = $number:literal,)*) => {
        $( pub(crate) const $name: u8 = $number; )*

        /// All kinds with their names, to compare them with the specification.
        #[cfg(test)]
        pub(crate) const ALL: &[(u8, &str)] = &[$( ($number, stringify!($name)), )*];
    };
}

kinds! {
    SEGMENT = 1,
    TIME = 2,
    ACCEPT = 3,
    BYTES = 4,
    HEAD = 5,
    ASKED = 6,
    REFUSED = 7,
    ANSWERED = 8,
    REST = 9,
    UNREAD_REST = 10,
    HANGUP = 11,
    WRITABLE = 12,
    TIMEOUT = 13,
    AUTHORIZED = 14,
    COMMAND = 15,
    RELOAD = 16,
    OMITTED_RELOAD = 17,
    OPERATOR = 18,
    REPORT_TAKEN = 19,
    DRAIN = 20,
    STOP = 21,
    SHED = 22,
    CLOSURE = 23,
    FLUSH = 24,
    WROTE = 25,
    BLOCKED = 26,
    FAILED = 27,
    FLUSHED = 28,
    FLUSHED_NOTHING = 29,
    MAX_WORK = 30,
    UNREAD = 31,
    WALL_TIME = 32,
    JOIN_CLUSTER = 33,
    CLUSTER_STATE = 34,
    CLUSTER_ATTACHED = 35,
    CLUSTER_ENTRY = 36,
    CLUSTER_REACHABLE = 37,
    CLUSTER_DETACHED = 38,
    CLUSTER_TAKEN = 39,
}
