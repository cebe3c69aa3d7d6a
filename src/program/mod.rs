//! The program around the library: the command line, and one file for each command.
//!
//! Without a subcommand the program serves. Each command returns the exit code of the process and documents its codes.

mod auth_file;
pub(crate) mod command_line;
mod jwt;
mod logger;
mod notices;
mod options;
pub(crate) mod replay;
pub(crate) mod serve;
pub(crate) mod simulate;
