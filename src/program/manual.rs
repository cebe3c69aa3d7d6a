//! `lobbyd man`: prints the man page, in section 8.
//!
//! Options are described by the command line itself, exit codes by `exit`; signals, files and the environment here.

use std::io;
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::command_line;
use super::exit;
use super::output;
use super::values::CONFIG;

/// A section: its title, a first paragraph, and terms with their descriptions.
type Section = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const SECTIONS: &[Section] = &[
    (
        "SIGNALS",
        "",
        &[
            (
                "SIGTERM, SIGINT",
                "The first one closes all connections in batches and ends the server. The second one ends it at once.",
            ),
            (
                "SIGHUP",
                "Reads the file of the tokens or keys, admin_token_file, tls_cert, tls_key, hook_secret_file and hook_ca_file again. Everything else is read at the start only, the \
                 configuration file too. If there is no such file, a server that was started in a terminal drains.",
            ),
        ],
    ),
    (
        "FILES",
        "All of them are optional, and no name is built in.",
        &[
            (
                "--config",
                "The configuration file: TOML with one key for each option. `lobbyd config` prints one, `lobbyd check` checks one. \
              Relative paths in it are relative to its folder.",
            ),
            ("--tokens-file", "The list of tokens and their users."),
            (
                "--jwt-secret-file, --jwt-key-file, --jwt-jwks-file",
                "The keys that verify JSON Web Tokens. One of them is read, with --auth jwt.",
            ),
            ("--admin-token-file", "The token of the operators."),
            ("--journal", "Begins the names of the segments of the recorded session."),
        ],
    ),
    (
        "ENVIRONMENT",
        "A flag wins over its variable, and a variable over the configuration file.",
        &[
            ("LOBBYD_CONFIG", "The same as --config."),
            ("LOBBYD_…", "Every other flag, for example LOBBYD_MAX_PER_LOBBY for --max-per-lobby."),
            ("NOTIFY_SOCKET", "Socket of the service manager, for notifications: see sd_notify(3)."),
            (
                "WATCHDOG_USEC",
                "Time in microseconds after which the service manager ends a server that hangs: see \
                               sd_watchdog_enabled(3).",
            ),
            (
                "LISTEN_FDS",
                "Number of sockets that the service manager has opened, from descriptor 3 on. They replace \
                            --listen: see sd_listen_fds(3).",
            ),
            (
                "LISTEN_FDNAMES",
                "Names of these sockets, separated by colons. Those with the name admin replace --admin.",
            ),
        ],
    ),
];

pub(crate) fn run() -> ExitCode {
    output::print(page().expect("a buffer in memory takes everything").as_bytes())
}

fn page() -> io::Result<String> {
    // Not wrapped: the formatter of the page breaks the lines.
    let mut command = command_line::command(usize::MAX);
    command.build();
    let man = Man::new(command.clone()).title("lobbyd").section("8").manual("System administration");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    synopsis(&command).to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    let options = options_of(&command)?;
    // The groups become subsections.
    page.extend(options.replace("\n.SH ", "\n.SS ").replacen("\n.SS OPTIONS", "\n.SH OPTIONS", 1).bytes());
    page.extend(b".SH COMMANDS\n");
    for subcommand in documented_subcommands(&command) {
        describe(subcommand).to_writer(&mut page)?;
        page.extend(options_of(&own_options(subcommand))?.replace("\n.SH OPTIONS\n", "\n").bytes());
    }
    sections().to_writer(&mut page)?;
    Ok(ascii(&String::from_utf8(page).expect("the page was written from strings")))
}

/// Writes other characters as escapes, because formatters do not agree on the encoding of a page.
fn ascii(page: &str) -> String {
    let escaped = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(escaped).collect()
}

fn documented_subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help")
}

fn synopsis(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold("lobbyd"), roman(" [OPTIONS]")]);
    for subcommand in documented_subcommands(command) {
        roff.control("br", []);
        roff.text([bold(format!("lobbyd {}", subcommand.get_name())), roman(" [OPTIONS]")]);
    }
    roff
}

fn options_of(command: &Command) -> io::Result<String> {
    let mut options = Vec::new();
    Man::new(command.clone()).render_options_section(&mut options)?;
    Ok(String::from_utf8(options).expect("the section was written from strings"))
}

/// Hides the options of the server, which are described once, and `--help`.
fn own_options(subcommand: &Command) -> Command {
    let is_described = |argument: &Arg| {
        argument.get_help_heading().is_some() || [CONFIG, "help"].iter().any(|name| argument.get_id() == name)
    };
    subcommand.clone().mut_args(|argument| {
        let is_hidden = is_described(&argument);
        argument.hide(is_hidden)
    })
}

fn describe(subcommand: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SS", [format!("lobbyd {}", subcommand.get_name()).as_str()]);
    let text = |text: Option<&StyledStr>| text.map(ToString::to_string);
    let takes_all = subcommand.get_arguments().any(|argument| argument.get_id() == CONFIG);
    let takes_all = takes_all.then(|| "Takes all options of the server.".to_owned());
    let sentences =
        [text(subcommand.get_about()).map(|about| about + "."), takes_all, text(subcommand.get_after_help())];
    roff.text([roman(sentences.into_iter().flatten().collect::<Vec<_>>().join(" "))]);
    roff
}

fn sections() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman(
        "Of the server. The other commands exit with 2 if their arguments are invalid; their help lists further codes.",
    )]);
    exit::SERVER.iter().for_each(|(code, meaning)| term(&mut roff, &code.to_string(), meaning));
    for (title, paragraph, terms) in SECTIONS {
        roff.control("SH", [*title]);
        if !paragraph.is_empty() {
            roff.text([roman(*paragraph)]);
        }
        terms.iter().for_each(|(name, description)| term(&mut roff, name, description));
    }
    roff
}

fn term(roff: &mut Roff, name: &str, description: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(description)]);
}
