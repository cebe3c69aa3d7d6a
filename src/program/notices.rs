//! Warnings at the start: options without effect, and unknown environment variables.

use clap::ArgMatches;
use clap::parser::ValueSource;
use lobbyd::Config;

/// Variables of the program that are not fields of the configuration.
const VARIABLES: &[&str] = &[
    "LOBBYD_APP",
    "LOBBYD_AUTH",
    "LOBBYD_TOKENS_FILE",
    "LOBBYD_JWT_SECRET_FILE",
    "LOBBYD_JWT_KEY_FILE",
    "LOBBYD_JWT_JWKS_FILE",
    "LOBBYD_JWT_AUDIENCE",
    "LOBBYD_JWT_ISSUER",
    "LOBBYD_JWT_LEEWAY",
    "LOBBYD_JWT_EXP",
    "LOBBYD_ON_APP_PANIC",
    "LOBBYD_LOG",
    "LOBBYD_SEED",
];

/// Returns a warning for each option that has no effect with the chosen application and authentication.
pub(crate) fn without_effect(matches: &ArgMatches, app: &str, has_tokens: bool) -> Vec<String> {
    let rules = [
        ("auth_timeout", false, "the built-in applications answer at once".to_owned()),
        ("max_commands", false, "nothing sends commands to the built-in applications".to_owned()),
        ("token_grace", has_tokens, "only the tokens of auth = tokens and auth = jwt expire".to_owned()),
        ("presence_max", app == "relay", format!("app = {app} sends no presence")),
        ("max_strikes", app == "relay", format!("app = {app} reads no JSON")),
    ];
    let unused = rules.into_iter().filter(|(field, has_effect, _)| !has_effect && is_given(matches, field));
    unused.map(|(field, _, cause)| format!("{field} has no effect: {cause}")).collect()
}

/// Returns whether an option was set by a flag or an environment variable.
pub(crate) fn is_given(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(name).is_some_and(|source| source != ValueSource::DefaultValue)
}

/// Returns a warning for each unknown variable that begins with `LOBBYD_`. They are not errors, because Kubernetes sets
/// variables such as `LOBBYD_SERVICE_HOST` in the containers of a namespace that has a service `lobbyd`. Values are not
/// shown, because they may be secrets.
pub(crate) fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<String> =
        Config::FIELDS.iter().map(|field| field.variable()).chain(VARIABLES.iter().copied().map(Into::into)).collect();
    // The order of the environment is not defined.
    let mut unknown: Vec<String> = names.filter(|name| name.starts_with("LOBBYD_") && !known.contains(name)).collect();
    unknown.sort();
    unknown
        .iter()
        .map(|name| {
            let shown = name.escape_debug();
            match nearest(&name.to_uppercase(), &known) {
                Some(nearest) => format!("the variable {shown} is not known; do you mean {nearest}?"),
                None => format!("the variable {shown} is not known"),
            }
        })
        .collect()
}

/// Returns the known name with the smallest distance to `name`, unless that distance is too large.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let distances = known.iter().map(|other| (distance(name, other), other.as_str()));
    // At most a third of the letters after the prefix may differ.
    let max_distance = name.len().saturating_sub("LOBBYD_".len()) / 3;
    distances.min().filter(|&(distance, _)| distance <= max_distance.max(1)).map(|(_, other)| other)
}

/// Returns the Levenshtein distance: the number of characters to insert, remove or replace.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &[&str]) {
        let names = [name, "PATH", "LOBBYD_LISTEN", "LOBBYD_AUTH"].map(String::from);
        assert_eq!(unknown_variables(names.into_iter()), expected);
    }

    #[test]
    fn misspelled_variables_get_a_suggestion() {
        let like = |name: &str, nearest: &str| {
            check(name, &[&format!("the variable {name} is not known; do you mean {nearest}?")]);
        };
        like("LOBBYD_MAX_CONECTIONS", "LOBBYD_MAX_CONNECTIONS");
        like("LOBBYD_TOKEN_FILE", "LOBBYD_TOKENS_FILE");
        like("LOBBYD_MAX-PER-LOBBY", "LOBBYD_MAX_PER_LOBBY");
        like("LOBBYD_auth", "LOBBYD_AUTH");
        like("LOBBYD_JWT_JWK_FILE", "LOBBYD_JWT_JWKS_FILE");
        check("LOBBYD_SERVICE_PORT", &["the variable LOBBYD_SERVICE_PORT is not known"]);
        check("LOBBYD_\n", &["the variable LOBBYD_\\n is not known"]);
        check("LOBBYD", &[]);
        check("MY_LOBBYD_AUTH", &[]);
    }

    #[test]
    fn distance_counts_edits() {
        for (from, to, expected) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }
}
