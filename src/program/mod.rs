//! The program around the library: the command line, and one file for each command.
//!
//! Without a subcommand the program serves. Each command returns the exit code of the process; `exit` has the codes.
//!
//!     table ──► command_line ──► values (with config_file) ──► options ──► serve, check, print_config

mod activation;
mod auth_file;
pub(crate) mod check;
#[cfg(unix)]
pub(crate) mod cluster;
pub(crate) mod command_line;
pub(crate) mod completions;
mod config_file;
mod exit;
pub(crate) mod failure;
mod json_line;
mod jwt;
pub(crate) mod load;
mod logger;
pub(crate) mod manual;
mod notices;
mod options;
mod output;
pub(crate) mod print_config;
pub(crate) mod replay;
pub(crate) mod serve;
pub(crate) mod simulate;
mod suggestion;
mod summary;
mod supervisor;
mod table;
mod terminal;
mod values;
