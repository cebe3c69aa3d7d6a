//! The command line of `lobbyd cluster`.

use std::ffi::OsString;

use clap::{Arg, Command, value_parser};

use super::child;
use crate::program::exit;

/// Defines the subcommand, without the options of the server.
pub(crate) fn command() -> Command {
    Command::new("cluster")
        .about("Starts a Redis and several nodes on this machine, to try a cluster")
        .next_line_help(true)
        .after_help(exit::help(
            "Needs redis-server or valkey-server in PATH; its socket file is in a temporary folder, and it keeps nothing.\n\
             The ports of the nodes count up from those of --listen and --admin; with port 0 each gets a free one.\n\
             The journal of each node is --journal with the node's name behind it. No process is started again.\n\
             SIGINT and SIGTERM drain one node after the other; the second one ends all of them at once.\n",
            exit::CLUSTER,
        ))
        .arg(
            Arg::new("nodes")
                .long("nodes")
                .value_name("N")
                .default_value("3")
                .value_parser(value_parser!(u16).range(1..=16))
                .help("Number of nodes, at most 16"),
        )
        .arg(
            // How this program starts the others: see `child`.
            Arg::new(child::ARGUMENT)
                .long(child::ARGUMENT)
                .hide(true)
                .num_args(2..)
                .allow_hyphen_values(true)
                .value_parser(value_parser!(OsString)),
        )
}
