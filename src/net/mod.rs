//! The mio driver: sockets, the clock and the event loop. The only module of the server that does I/O.
//!
//! It moves bytes between sockets and the [`Engine`](crate::Engine) and knows neither the WebSocket protocol nor
//! lobbies. One turn:
//!
//! 1. Wait for events, then read the clock: all events of the turn get the same time.
//! 2. Accept connections, at most `accept_per_turn`. From those of listed proxies, read the header of the PROXY protocol.
//! 3. Read from the Redis of the cluster, if there is one. Read the ready sockets, until the turn's budget of work is spent.
//! 4. If timers are due, poll once more and list the connections whose input is still unread.
//! 5. Carry out the operators' requests.
//! 6. End the turn: expire timers and run due ticks, write the queued bytes, usually with one system call for each
//!    connection, drop the sockets of closed connections, and complete the journal.
//! 7. Send the answers to operators, and to the cluster what is to be appended to its log.

mod accepting;
mod addresses;
mod check_files;
mod checked_for;
mod clock;
mod cluster;
mod commands;
mod descriptors;
mod ending;
mod error;
mod files;
mod handle;
mod hook;
#[cfg(feature = "hook")]
mod host_lookups;
#[cfg(feature = "hook")]
mod http_client;
mod http_report;
mod journal_files;
mod listen_socket;
mod listener;
mod listeners;
mod metrics;
#[cfg(not(feature = "hook"))]
mod no_http_client;
#[cfg(not(feature = "tls"))]
mod no_tls;
mod operators;
mod plain_stream;
mod print_replay;
#[cfg(target_os = "linux")]
mod process;
mod proxied;
mod proxy_header;
mod read_scheduler;
mod reloading;
mod server;
#[cfg(all(feature = "signals", unix))]
mod signal;
#[cfg(unix)]
mod socket_file;
mod sockets;
mod stopping;
mod stream;
mod system_certificates;
#[cfg(target_os = "linux")]
mod timerfd;
#[cfg(feature = "tls")]
mod tls;
mod tokens;

pub use self::check_files::{certificate_warning, check_files};
pub use self::descriptors::{raise_descriptor_limit, worst_case_descriptors};
pub use self::error::Error;
pub use self::files::read_file;
pub use self::handle::{Busy, Handle};
pub use self::journal_files::open_journal;
pub use self::listen_socket::ListenSocket;
#[cfg(not(feature = "tls"))]
use self::no_tls as tls;
pub use self::print_replay::{ReplayError, Timeline, print_replay};
pub use self::proxy_header::{ProxiedOrigin, ProxyHeader, ProxyHeaderFault};
pub use self::server::{Server, Status};
pub use self::system_certificates::system_certificates;
