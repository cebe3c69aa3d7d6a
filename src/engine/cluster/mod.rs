//! This node's part in a cluster: see [`cluster`](crate::cluster).

pub(crate) mod snapshot;
