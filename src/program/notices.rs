//! Warnings at the start: options without effect, and unknown environment variables.

use super::suggestion::nearest;
use super::table::entries;
use super::values::{CONFIG_VARIABLE, Values};

/// Common beginning of the variables.
const PREFIX: &str = "LOBBYD_";

/// Returns a warning for each option that has no effect with the chosen application and authentication.
pub(crate) fn without_effect(values: &Values, app: &str, has_tokens: bool) -> Vec<String> {
    let asks_backend = values.text("auth") == "hook" || values.is_changed("jwt_jwks_url");
    let rules = [
        ("auth_timeout", asks_backend, "the built-in applications answer at once".to_owned()),
        ("max_commands", false, "nothing sends commands to the built-in applications".to_owned()),
        ("token_grace", has_tokens, "only the tokens of auth = tokens, jwt and hook expire".to_owned()),
        ("lobby_control", app == "relay", format!("app = {app} has no lobby control")),
        ("presence_max", app == "relay", format!("app = {app} sends no presence")),
        ("presence_count_interval", app == "relay", format!("app = {app} sends no presence")),
        ("binary_sender", app == "relay", format!("app = {app} names no senders")),
        ("serve_client", app == "relay", format!("app = {app} does not speak the client's protocol")),
        ("playground", app == "relay", format!("app = {app} does not speak the client's protocol")),
        ("max_json_depth", app == "relay", format!("app = {app} reads no JSON")),
        ("max_strikes", app == "relay", format!("app = {app} reads no JSON")),
    ];
    let unused = rules.into_iter().filter(|(field, has_effect, _)| !has_effect && values.is_changed(field));
    unused.map(|(field, _, cause)| format!("{field} has no effect: {cause}")).collect()
}

/// Returns a warning for each unknown variable that begins with `LOBBYD_`. They are not errors, because Kubernetes sets
/// variables such as `LOBBYD_SERVICE_HOST` in the containers of a namespace that has a service `lobbyd`. Values are not
/// shown, because they may be secrets.
pub(crate) fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<String> = entries().map(|entry| entry.variable()).chain([CONFIG_VARIABLE.to_owned()]).collect();
    // The order of the environment is not defined.
    let mut unknown: Vec<String> = names.filter(|name| name.starts_with(PREFIX) && !known.contains(name)).collect();
    unknown.sort();
    unknown
        .iter()
        .map(|name| {
            let shown = name.escape_debug();
            match nearest(&name.to_uppercase(), &known, PREFIX.len()) {
                Some(nearest) => format!("the variable {shown} is not known; do you mean {nearest}?"),
                None => format!("the variable {shown} is not known"),
            }
        })
        .collect()
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
}
