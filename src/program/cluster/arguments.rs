//! The command line of each node of `lobbyd cluster`.

use clap::ArgMatches;
use clap::parser::ValueSource;
use lobbyd::config::{Listen, ListenAddress};

use super::super::command_line;
use super::super::failure::Refusal;
use super::super::logger::Format;
use super::super::options::Options;
use super::super::table::{OFF, entries};
use super::super::values::{CONFIG, Values};

/// The options that differ from node to node, or are given by the command.
const OWN: &[&str] = &["listen", "admin", "journal", "cluster", "node"];
/// Operators' address of each node if none is given.
const ADMIN: &str = "127.0.0.1:0";

/// How a node is started.
pub(super) struct NodePlan {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) has_playground: bool,
    /// Form of its log lines.
    pub(super) format: Format,
}

/// Returns the plan of each node. The options are checked as at the start of a node.
///
/// # Errors
///
/// All problems of the options at once.
pub(super) fn plan(matches: &ArgMatches, redis_url: &str) -> Result<Vec<NodePlan>, Refusal> {
    let &nodes = matches.get_one::<u16>("nodes").expect("the argument has a default");
    let values = Values::read(matches);
    let refused = |problems: Vec<String>| Refusal { problems, format: Options::format(matches) };
    let own = own_values(&values).map_err(refused)?;
    let given = given_flags(matches);
    (0..nodes)
        .map(|number| {
            let name = format!("node-{}", number + 1);
            let mut arguments = given.clone();
            let mut add = |flag: &str, value: &str| arguments.push(format!("--{flag}={value}"));
            add("cluster", redis_url);
            add("node", &name);
            let address = |base: &Base| base.of(number).map_err(|problem| refused(vec![problem]));
            add("listen", &address(&own.listen)?);
            match &own.admin {
                Some(admin) => add("admin", &address(admin)?),
                None => add("admin", OFF),
            }
            match &own.journal {
                Some(journal) => add("journal", &format!("{journal}.{name}")),
                None => add("journal", OFF),
            }
            check(name, arguments)
        })
        .collect()
}

/// Parses the command line of a node, as the node itself does.
fn check(name: String, arguments: Vec<String>) -> Result<NodePlan, Refusal> {
    let words = ["lobbyd".to_owned()].into_iter().chain(arguments.iter().cloned());
    let matches = command_line::command(command_line::COLUMNS).try_get_matches_from(words);
    let matches =
        matches.map_err(|error| Refusal { problems: vec![error.kind().to_string()], format: Format::Text })?;
    let options = Options::read(&matches)?;
    let has_playground = options.config.playground && options.app_word == "relay";
    Ok(NodePlan { name, arguments, has_playground, format: options.format })
}

/// Returns the flags that were given and are the same for all nodes. Variables of the environment reach the nodes by themselves.
fn given_flags(matches: &ArgMatches) -> Vec<String> {
    let config = (CONFIG, CONFIG.to_owned());
    let flags = entries().filter(|entry| !OWN.contains(&entry.name)).map(|entry| (entry.name, entry.flag()));
    [config]
        .into_iter()
        .chain(flags)
        .filter(|(name, _)| matches.value_source(name) == Some(ValueSource::CommandLine))
        .filter_map(|(name, flag)| Some(format!("--{flag}={}", matches.get_one::<String>(name)?)))
        .collect()
}

struct OwnValues {
    listen: Base,
    admin: Option<Base>,
    journal: Option<String>,
}

fn own_values(values: &Values) -> Result<OwnValues, Vec<String>> {
    let mut problems = values.problems.clone();
    for name in ["cluster", "node"] {
        if values.is_given(name) && values.text(name) != OFF {
            let problem = format!("{name}: lobbyd cluster sets it for each node; leave it out");
            problems.push(values.locate(name, problem));
        }
    }
    let mut base = |name: &'static str, text: &str| {
        let base = Base::read(text).map_err(|problem| problems.push(values.locate(name, format!("{name}: {problem}"))));
        base.ok()
    };
    let listen = base("listen", values.text("listen"));
    let admin = match values.text("admin") {
        text if !values.is_given("admin") || text != OFF => {
            Some(base("admin", if values.is_given("admin") { text } else { ADMIN }))
        }
        _ => None,
    };
    let journal = Some(values.text("journal")).filter(|journal| *journal != OFF).map(str::to_owned);
    match (listen, admin) {
        (Some(listen), None) if problems.is_empty() => Ok(OwnValues { listen, admin: None, journal }),
        (Some(listen), Some(Some(admin))) if problems.is_empty() => {
            Ok(OwnValues { listen, admin: Some(admin), journal })
        }
        _ => Err(problems),
    }
}

/// The address of the first node.
struct Base {
    host: String,
    port: u16,
}

impl Base {
    fn read(text: &str) -> Result<Base, String> {
        let listen: Listen = text.parse()?;
        match listen.addresses() {
            [ListenAddress::Ip(address)] => {
                let host = if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() };
                Ok(Base { host, port: address.port() })
            }
            [ListenAddress::Name { host, port }] => Ok(Base { host: host.clone(), port: *port }),
            _ => Err(format!("`{text}` is not one host and port, from which the nodes' ports count up")),
        }
    }

    /// Returns the address of a node. Free ports do not count up.
    fn of(&self, number: u16) -> Result<String, String> {
        let step = if self.port == 0 { 0 } else { number };
        let port = self.port.checked_add(step);
        let port =
            port.ok_or_else(|| format!("{}:{}: the nodes' ports count up beyond 65535", self.host, self.port))?;
        Ok(format!("{}:{port}", self.host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, number: u16, expected: Option<&str>) {
        let address = Base::read(text).and_then(|base| base.of(number));
        assert_eq!(address.as_deref().ok(), expected, "{address:?}");
    }

    #[test]
    fn ports_count_up_unless_free_ones_are_asked_for() {
        check("127.0.0.1:9001", 0, Some("127.0.0.1:9001"));
        check("127.0.0.1:9001", 2, Some("127.0.0.1:9003"));
        check("[::1]:9001", 1, Some("[::1]:9002"));
        check("localhost:9001", 1, Some("localhost:9002"));
        check("127.0.0.1:0", 2, Some("127.0.0.1:0"));
        check("127.0.0.1:65534", 1, Some("127.0.0.1:65535"));
        check("127.0.0.1:65535", 1, None);
        check("127.0.0.1:1,127.0.0.1:2", 0, None);
        check("unix:/run/lobbyd.sock", 0, None);
        check("nowhere", 0, None);
    }
}
