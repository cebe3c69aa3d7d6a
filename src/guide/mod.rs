//! The guide: how to use, operate, embed and change lobbyd.
//!
//! For users of the program:
//!
//! - [`protocol`]: the messages, close codes and seats
//! - [`lobbies`]: data, host, settings and start of lobbies, without code on the server
//! - [`clients`]: the clients for pages, Python, Godot and Rust
//! - [`client`]: writing a client in another language
//! - [`configuration`]: all flags, environment variables and fields of [`Config`](crate::Config)
//! - [`deploying`]: from nothing to a public server, with a proxy, JWT, metrics and alerts
//! - [`operating`]: starting and stopping, TLS, proxies, health, the log, rates, compression
//! - [`admin`]: the operators' page and API: look at lobbies, publish, kick, create lobbies for matches
//! - [`metrics`]: all metrics, for Prometheus
//! - [`load`]: load tests before launch day
//! - [`backend`]: questions and events for a backend of your own
//! - [`cluster`]: more than one machine
//! - [`security`]: tokens, origins, threats and defences
//!
//! For games:
//!
//! - [`embedding`]: an application of your own, from `cargo add` to a reproduced bug
//! - [`ticks`]: the game's clock
//! - [`recording`]: record and replay
//! - [`simulator`]: tests with injected faults
//! - [`forking`]: a game server of your own from this repository
//!
//! How it works and how it is made:
//!
//! - [`performance`]: measurements, with commands and the machine
//! - [`architecture`]: modules, invariants, a turn of the loop
//! - [`contributing`]: checks, tests, commits
//!
//! The pages are Markdown files beside this one, and readable there too.

/// Declares a module for each page.
///
/// A page refers to others by labels, and ends with the definitions of its labels for readers of the repository, such as
/// `[protocol]: protocol.md`. In Markdown the first definition of a label is in force, so those of `links.md`, which are for
/// rustdoc, are put before the page.
macro_rules! pages {
    ($($page:ident = $file:literal),* $(,)?) => {
        $(
            #[doc = include_str!("links.md")]
            #[doc = include_str!($file)]
            pub mod $page {}
        )*
    };
}

pages! {
    admin = "admin.md",
    architecture = "architecture.md",
    backend = "backend.md",
    client = "client.md",
    clients = "clients.md",
    cluster = "cluster.md",
    configuration = "configuration.md",
    contributing = "contributing.md",
    deploying = "deploying.md",
    embedding = "embedding.md",
    forking = "forking.md",
    load = "load.md",
    lobbies = "lobbies.md",
    metrics = "metrics.md",
    operating = "operating.md",
    performance = "performance.md",
    protocol = "protocol.md",
    recording = "recording.md",
    security = "security.md",
    simulator = "simulator.md",
    ticks = "ticks.md",
}
