//! The command line of the server, and its subcommands.

use clap::{Arg, Command};
use lobbyd::Config;

use super::{jwt, replay, simulate};

/// Defines the command line. Every field of [`Config`] becomes a flag and an environment variable.
pub(crate) fn command() -> Command {
    Command::new("lobbyd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A WebSocket lobby server: ws://ADDRESS/ws/{lobby_code}?token={user}")
        .after_help(
            "Limits of seats, lobbies and connections per address, and all rates, may be `unlimited`.\n\
             Sizes are written as 65536, 64KiB or 16MiB, durations as 500ms, 20s, 5m or 1h.\n\
             Every flag is also an environment variable: --max-per-lobby is LOBBYD_MAX_PER_LOBBY.",
        )
        .args(program_options())
        .args(jwt::options())
        .args(Config::FIELDS.iter().map(|field| {
            let (short, rest) = field.doc.trim().split_once(':').unwrap_or((field.doc.trim(), ""));
            let help = if rest.is_empty() { short.to_owned() } else { format!("{short}:{rest}") };
            Arg::new(field.name)
                .long(field.flag())
                .env(field.variable())
                .hide_env(true)
                .value_name("VALUE")
                .default_value(field.default)
                .help(help)
        }))
        .subcommand(simulate::command())
        .subcommand(replay::command())
}

/// The options of the program that are not fields of the configuration.
fn program_options() -> [Arg; 6] {
    let option = |name: &'static str, variable: &'static str, help: &'static str| {
        Arg::new(name).long(name).env(variable).hide_env(true).help(help)
    };
    [
        option(
            "app",
            "LOBBYD_APP",
            "The application: relay implements the JSON protocol; verbatim passes messages on without parsing them; \
             echo sends each message back, on any path",
        )
        .default_value("relay")
        .value_parser(["relay", "verbatim", "echo"]),
        option(
            "auth",
            "LOBBYD_AUTH",
            "How users are authenticated: open uses the token as the user id, on a loopback address only; \
             open-to-anybody does so on any address; tokens looks the token up in --tokens-file; jwt accepts tokens that \
             are signed by the key in --jwt-secret-file, --jwt-key-file or --jwt-jwks-file (cargo feature jwt)",
        )
        .default_value("open")
        .value_parser(["open", "open-to-anybody", "tokens", "jwt"]),
        option(
            "tokens-file",
            "LOBBYD_TOKENS_FILE",
            "File with one `token user [tier=free|pro|enterprise] [lobby=CODE] [expires=MILLISECONDS]` per line; \
             read again on SIGHUP",
        )
        .value_name("FILE"),
        option(
            "on-app-panic",
            "LOBBYD_ON_APP_PANIC",
            "Reaction to a panic in the application: abort ends the process, since all lobbies share the application's \
             state; close-lobby closes only the lobby of the member whose callback panicked",
        )
        .default_value("abort")
        .value_parser(["abort", "close-lobby"]),
        option(
            "log",
            "LOBBYD_LOG",
            "Log level: off, error, warn, info, debug or trace; for one module: info,lobbyd::net=debug",
        )
        .value_name("LEVEL[,MODULE=LEVEL]")
        .default_value("info"),
        option(
            "seed",
            "LOBBYD_SEED",
            "Seed of the application's random generator [default: from the operating system]",
        )
        .value_name("NUMBER")
        .value_parser(clap::value_parser!(u64)),
    ]
}
