//! The command line of `lobbyd load`, and the plan that it describes.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::plan::{Plan, Tokens};
use super::target::Target;
use super::trust::read_trust;
use crate::program::exit;

/// Largest number of members.
const MAX_MEMBERS: u64 = 1_000_000;
/// Most bytes of the `data` of a message.
const MAX_BYTES: u64 = 1 << 20;
/// Members for each thread that the generator chooses itself.
const MEMBERS_PER_THREAD: usize = 2_500;
const MAX_THREADS: usize = 64;

pub(crate) fn command() -> Command {
    let command = Command::new("load")
        .about("Opens many members against running servers, lets them talk at a rate, and checks that nothing is lost")
        .next_line_help(true)
        .after_help(exit::help(
            "A message is due at a time that does not depend on the server (open loop), and latencies begin at this time:\n\
             a server that stops for a second shows a second, and not one slow message.\n\
             Members go to lobbies of their own, named by --lobby, and leave at the end.\n",
            exit::LOAD,
        ))
        .arg(
            Arg::new("url")
                .value_name("URL")
                .required(true)
                .num_args(1..)
                .value_parser(Target::parse)
                .help("Addresses of servers, ws://127.0.0.1:9001; with several nodes of a cluster, members are spread over them"),
        )
        .arg(number("members", "N", "100", 1..=MAX_MEMBERS).help("Members in all"))
        .arg(number("per-lobby", "N", "10", 1..=MAX_MEMBERS).help("Members of each lobby; each hears all others"))
        .arg(
            Arg::new("rate")
                .long("rate")
                .value_name("N")
                .default_value("1")
                .value_parser(parse_rate)
                .help("Messages per second of each member"),
        )
        .arg(
            Arg::new("total-rate")
                .long("total-rate")
                .value_name("N")
                .conflicts_with("rate")
                .value_parser(parse_rate)
                .help("Messages per second of all members together, in place of --rate"),
        )
        .arg(number("seconds", "N", "30", 1..=86_400).help("How long the members talk, after all have joined"))
        .arg(number("bytes", "N", "64", 1..=MAX_BYTES).help("Bytes of the data of each message, at least some 60"))
        .arg(
            Arg::new("ramp")
                .long("ramp")
                .value_name("N/s")
                .default_value("200/s")
                .value_parser(parse_rate)
                .help("Members that begin to connect per second"),
        );
    with_members(command)
}

/// Adds the arguments that say how members connect, and what is printed.
fn with_members(command: Command) -> Command {
    command
        .arg(
            Arg::new("sse")
                .long("sse")
                .value_name("PERCENT")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("100")
                .value_parser(value_parser!(u64).range(1..=100))
                .help(
                    "Members read server-sent events and send with POST, as lobby.js does where WebSockets are blocked;\n\
                     with --sse=25 a quarter of the members of each lobby",
                ),
        )
        .arg(
            number("handshakes", "N", "100", 1..=100_000).help("Members that are connecting at the same time, at most"),
        )
        .arg(
            Arg::new("token")
                .long("token")
                .value_name("TEMPLATE")
                .default_value("load-{member}")
                .help("Token of each member, with its number as {member}, and that of its lobby as {lobby}"),
        )
        .arg(
            Arg::new("token-file")
                .long("token-file")
                .value_name("FILE")
                .conflicts_with("token")
                .value_hint(clap::ValueHint::FilePath)
                .help("File with one token per line, for one member each; if one is refused, no member talks"),
        )
        .arg(
            Arg::new("lobby")
                .long("lobby")
                .value_name("TEMPLATE")
                .default_value("load-{run}-{lobby}")
                .help("Code of each lobby; {run} differs in each run"),
        )
        .arg(
            Arg::new("source")
                .long("source")
                .value_name("ADDRESS,…")
                .value_delimiter(',')
                .value_parser(value_parser!(IpAddr))
                .help("Addresses of this machine to connect from, in turn: each has ports for some 28,000 connections"),
        )
        .arg(
            Arg::new("ca-file")
                .long("ca-file")
                .value_name("FILE")
                .value_hint(clap::ValueHint::FilePath)
                .help("Certificates in PEM that are trusted for wss:// and https://; by default those of the system"),
        )
        .arg(number("threads", "N", "0", 0..=MAX_THREADS as u64).help("Threads; 0 chooses one for 2,500 members"))
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Prints one JSON object in place of the table, with durations in microseconds"),
        )
}

fn number(name: &'static str, unit: &'static str, default: &'static str, range: std::ops::RangeInclusive<u64>) -> Arg {
    Arg::new(name).long(name).value_name(unit).default_value(default).value_parser(value_parser!(u64).range(range))
}

/// Parses a rate such as `5`, `0.2` or `200/s`.
fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    rate.filter(|rate| (0.001..=1e7).contains(rate))
        .ok_or_else(|| format!("`{text}` is not a rate per second, from 0.001 to 10000000, such as 5 or 200/s"))
}

/// Reads the plan, and resolves the names of the servers.
///
/// # Errors
///
/// A sentence about the first problem.
pub(super) fn plan(matches: &ArgMatches, run: u64) -> Result<Plan, String> {
    let number = |name: &str| *matches.get_one::<u64>(name).expect("the argument has a default") as usize;
    let rate = |name: &str| matches.get_one::<f64>(name).copied();
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let targets = matches.get_many::<Target>("url").expect("the argument is required").map(|target| {
        let address = target.resolve().map_err(|error| format!("{}: {error}", target.authority))?;
        Ok((target.clone(), address))
    });
    let targets = targets.collect::<Result<Vec<_>, String>>()?;
    let (members, per_lobby) = (number("members"), number("per-lobby"));
    let tokens = match text("token-file") {
        Some(file) => Tokens::Listed(read_tokens(&file, members)?),
        None => Tokens::Template(text("token").expect("the argument has a default")),
    };
    let sources = matches.get_many::<IpAddr>("source").unwrap_or_default().copied().collect();
    let lobbies = members.div_ceil(per_lobby);
    let wanted = match number("threads") {
        0 => members.div_ceil(MEMBERS_PER_THREAD),
        threads => threads,
    };
    let each = rate("rate").expect("the argument has a default");
    let has_tls = targets.iter().any(|(target, _)| target.is_tls);
    let trust = has_tls.then(|| read_trust(text("ca-file").as_deref())).transpose()?;
    let plan = Plan {
        targets,
        trust,
        members,
        per_lobby,
        sse_percent: matches.get_one::<u64>("sse").map_or(0, |&percent| percent as usize),
        total_rate: rate("total-rate").unwrap_or(each * members as f64),
        seconds: number("seconds") as u64,
        bytes: number("bytes"),
        ramp: rate("ramp").expect("the argument has a default"),
        handshakes: number("handshakes"),
        tokens,
        lobby: text("lobby").expect("the argument has a default"),
        threads: wanted.min(lobbies).min(MAX_THREADS),
        sources,
        is_json: matches.get_flag("json"),
        run,
    };
    check_names(&plan)?;
    Ok(plan.with_loopback_sources())
}

/// Refuses what would be no valid request, or would put all members into one lobby.
fn check_names(plan: &Plan) -> Result<(), String> {
    let code = plan.lobby_code(plan.members - 1);
    let is_code = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    if !(1..=64).contains(&code.len()) || !code.bytes().all(is_code) {
        return Err(format!(
            "--lobby: `{}` is no lobby code: 1 to 64 letters, digits, `_` or `-`",
            code.escape_debug()
        ));
    }
    if plan.lobbies() > 1 && !plan.lobby.contains("{lobby}") {
        return Err("--lobby: the code of several lobbies needs {lobby}, or --per-lobby must be --members".into());
    }
    let is_token = |token: &str| !token.is_empty() && token.bytes().all(|c| (0x21..0x7f).contains(&c));
    if let Some(member) = [0, plan.members - 1].into_iter().find(|&member| !is_token(&plan.token(member))) {
        return Err(format!("the token of member {member} is empty, or has a character that no header may have"));
    }
    if let (Tokens::Template(template), true) = (&plan.tokens, plan.members > 1)
        && !template.contains("{member}")
    {
        return Err("--token: the tokens of several members need {member}, or they would all be the same user".into());
    }
    Ok(())
}

/// Reads tokens with the numbers of their lines. No problem shows a line: it is a secret.
fn read_tokens(file: &str, members: usize) -> Result<Vec<(usize, String)>, String> {
    let contents = fs::read_to_string(file).map_err(|error| format!("--token-file: {error}"))?;
    let lines = (1..).zip(contents.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
    let tokens: Vec<(usize, String)> = lines.take(members).map(|(number, line)| (number, line.to_owned())).collect();
    if tokens.len() < members {
        return Err(format!("--token-file has {} tokens, and {members} members need one each", tokens.len()));
    }
    let mut seen = BTreeMap::new();
    for (number, token) in &tokens {
        if let Some(earlier) = seen.insert(token, number) {
            return Err(format!(
                "--token-file: lines {earlier} and {number} have the same token: each member needs its own"
            ));
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &str) -> Result<Plan, String> {
        let words = std::iter::once("load").chain(arguments.split(' '));
        plan(&command().try_get_matches_from(words).map_err(|error| error.to_string())?, 0xab_cdef)
    }

    #[test]
    fn a_plan_has_names_and_times_for_all_members() {
        let plan = read("ws://127.0.0.1:1 ws://127.0.0.2:1/a --members 25 --per-lobby 10 --rate 2 --ramp 50/s")
            .expect("valid");
        assert_eq!((plan.lobbies(), plan.members_of(0), plan.members_of(2)), (3, 10, 5));
        assert_eq!((plan.token(24), plan.lobby_code(24)), ("load-24".into(), "load-abcdef-2".into()));
        assert_eq!((plan.target(0, 0).0.prefix.as_str(), plan.target(1, 0).0.prefix.as_str()), ("", "/a"));
        assert_eq!(
            plan.target(8, plan.places_behind(8, "ws://127.0.0.2:1").expect("listed")).0.authority,
            "127.0.0.2:1"
        );
        assert_eq!(
            (plan.places_behind(9, "ws://127.0.0.2:1"), plan.places_behind(9, "ws://127.0.0.3:1")),
            (Some(0), None)
        );
        assert_eq!((plan.connects_at(0), plan.connects_at(25)), (0, 500_000));
        assert_eq!(plan.period(0), (500_000.0, 0.0));
        assert_eq!(plan.period(5), (500_000.0, 100_000.0));
        assert_eq!((plan.threads, plan.source(3, [127, 0, 0, 1].into())), (1, None));
        let plan = read("ws://127.0.0.1:1 --members 10 --total-rate 5 --threads 9 --source 127.0.0.2,127.0.0.3")
            .expect("valid");
        assert_eq!((plan.period(0).0, plan.threads), (2_000_000.0, 1));
        assert_eq!(plan.source(3, [127, 0, 0, 1].into()), Some([127, 0, 0, 3].into()));
    }

    /// More members than ports.
    #[test]
    fn many_members_of_this_machine_have_several_addresses() {
        let plan = read("ws://127.0.0.1:1 --members 50000").expect("valid");
        assert_eq!(plan.sources.len(), 3);
        assert_eq!(plan.source(0, [127, 0, 0, 1].into()), Some([127, 0, 0, 2].into()));
        assert_eq!(plan.threads, 20);
        let plan = read("http://127.0.0.1:1 --members 18000 --sse").expect("valid");
        assert_eq!((plan.sockets(), plan.sources.len()), (36_000, 2), "two sockets each");
        let plan = read("ws://127.0.0.1:1 --members 18000").expect("valid");
        assert_eq!((plan.sockets(), plan.sources.len()), (18_000, 0));
    }

    #[test]
    fn a_share_of_each_lobby_reads_event_streams() {
        let streams = |arguments: &str, lobby: usize| {
            let plan = read(&format!("ws://127.0.0.1:1 --members 100{arguments}")).expect("valid");
            assert_eq!((0..100).filter(|&member| plan.reads_events(member)).count(), plan.event_streams());
            (lobby * 10..lobby * 10 + 10).filter(|&member| plan.reads_events(member)).count()
        };
        for lobby in 0..10 {
            assert_eq!((streams("", lobby), streams(" --sse", lobby), streams(" --sse=50", lobby)), (0, 10, 5));
            assert!([2, 3].contains(&streams(" --sse=25", lobby)));
        }
    }

    #[test]
    fn a_plan_that_cannot_work_is_refused() {
        for (arguments, words) in [
            #[cfg(not(feature = "tls"))]
            ("wss://127.0.0.1:1", "this build has no TLS"),
            #[cfg(feature = "tls")]
            ("wss://127.0.0.1:1 --ca-file Cargo.toml", "no certificate in PEM"),
            ("ws://127.0.0.1:1 --rate 0", "is not a rate"),
            ("ws://127.0.0.1:1 --rate 1 --total-rate 5", "cannot be used with"),
            ("ws://127.0.0.1:1 --token ann", "need {member}"),
            ("ws://127.0.0.1:1 --token {member}\u{e9}", "no header may have"),
            ("ws://127.0.0.1:1 --lobby chess", "needs {lobby}"),
            ("ws://127.0.0.1:1 --lobby a.{lobby}", "is no lobby code"),
            ("ws://127.0.0.1:1 --token-file /no/such/file", "--token-file: "),
            ("ws://127.0.0.1:1 --members 0", "0 is not in"),
            ("ws://127.0.0.1:1 --sse=0", "0 is not in"),
        ] {
            let refused = read(arguments).expect_err(arguments);
            assert!(refused.contains(words), "{arguments}: {refused}");
        }
    }
}
