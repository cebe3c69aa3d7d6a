//! The options of `--auth jwt`, and the authentication that they describe.

use clap::{Arg, ArgMatches};

use super::auth_file::AuthFile;
use super::notices::is_given;

/// Names of the options of which one names the file of the keys.
const FILES: [&str; 3] = ["jwt-secret-file", "jwt-key-file", "jwt-jwks-file"];
const OTHERS: [&str; 4] = ["jwt-audience", "jwt-issuer", "jwt-leeway", "jwt-exp"];

pub(crate) fn options() -> [Arg; 7] {
    let [secret, key, jwks] = FILES;
    let [audience, issuer, leeway, exp] = OTHERS;
    let args = [
        (secret, "FILE", "File with the secret of --auth jwt, for HS256: at least 32 bytes; read again on SIGHUP"),
        (
            key,
            "FILE",
            "File with the public key of --auth jwt in PEM form, for RS256, ES256 or EdDSA; read again on SIGHUP",
        ),
        (jwks, "FILE", "File with the set of keys of --auth jwt, a JWKS; read again on SIGHUP"),
        (
            audience,
            "AUDIENCE",
            "Audience that tokens must name in `aud`; without the option, tokens that name one are refused",
        ),
        (issuer, "ISSUER", "Issuer that tokens must name in `iss`"),
        (leeway, "DURATION", "Largest difference between the issuer's clock and this one, at most 1h"),
        (exp, "WORD", "Whether tokens must have an expiry, `exp`: required or optional"),
    ];
    args.map(|(name, value, help)| {
        let variable = format!("LOBBYD_{}", name.to_uppercase().replace('-', "_"));
        let arg = Arg::new(name).long(name).env(variable).hide_env(true).value_name(value).help(help);
        match name {
            "jwt-leeway" => arg.default_value("10s"),
            "jwt-exp" => arg.default_value("required").value_parser(["required", "optional"]),
            _ => arg,
        }
    })
}

/// Returns a problem for each of these options that is given although `auth` reads none of them. They restrict access,
/// so they are not ignored.
pub(crate) fn unread(matches: &ArgMatches, auth: &str) -> Vec<String> {
    let given = FILES.iter().chain(&OTHERS).filter(|name| auth != "jwt" && is_given(matches, name));
    given
        .map(|name| {
            let field = name.replace('-', "_");
            format!("{field}: is read only with auth = jwt, and auth is {auth}; set --auth jwt, or leave --{name} out")
        })
        .collect()
}

/// Returns the option that names the file of the keys, and its value.
fn keys_file(matches: &ArgMatches) -> Result<(&'static str, String), Vec<String>> {
    let given = FILES.iter().filter_map(|name| Some((*name, matches.get_one::<String>(name)?.clone())));
    match &given.collect::<Vec<_>>()[..] {
        [file] => Ok(file.clone()),
        [] => Err(vec![format!("auth = jwt: name the keys with one of --{}", FILES.join(", --"))]),
        [_, ..] => Err(vec![format!("auth = jwt: give only one of --{}", FILES.join(", --"))]),
    }
}

#[cfg(feature = "jwt")]
pub(crate) use with_feature::read;

#[cfg(feature = "jwt")]
mod with_feature {
    use lobbyd::apps::{Auth, Jwt, JwtKeys};
    use lobbyd::config::parse_duration;
    use lobbyd::net::read_file;

    use super::{ArgMatches, AuthFile, keys_file};

    /// Bound of `--jwt-leeway`.
    const MAX_LEEWAY: std::time::Duration = std::time::Duration::from_secs(3600);

    /// Reads the keys and the rules of `--auth jwt`. Fails with all problems.
    pub(crate) fn read(matches: &ArgMatches) -> Result<(Auth, AuthFile), Vec<String>> {
        let word = |name: &str| matches.get_one::<String>(name).cloned();
        let mut problems = Vec::new();
        let keys = keys_file(matches)
            .and_then(|(option, path)| read_keys(option, &path).map(|keys| (keys, path)))
            .map_err(|found| problems.extend(found));
        let leeway = parse_duration(&word("jwt-leeway").expect("the argument has a default"))
            .and_then(|leeway| if leeway <= MAX_LEEWAY { Ok(leeway) } else { Err("must be at most 1h".to_owned()) })
            .map_err(|problem| problems.push(format!("jwt_leeway: {problem}")));
        for name in ["jwt-audience", "jwt-issuer"] {
            // An empty variable is more likely a mistake than a name.
            if word(name).is_some_and(|word| word.is_empty()) {
                problems.push(format!("{}: must not be empty", name.replace('-', "_")));
            }
        }
        let (Ok((keys, path)), Ok(leeway)) = (keys, leeway) else { return Err(problems) };
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut jwt = Jwt::new(keys).leeway(leeway);
        if let Some(audience) = word("jwt-audience") {
            jwt = jwt.audience(audience);
        }
        if let Some(issuer) = word("jwt-issuer") {
            jwt = jwt.issuer(issuer);
        }
        if word("jwt-exp").as_deref() == Some("optional") {
            jwt = jwt.exp_is_optional();
        }
        Ok((Auth::Jwt(jwt), AuthFile { path, max_bytes: JwtKeys::MAX_FILE, contents: "keys" }))
    }

    fn read_keys(option: &str, path: &str) -> Result<JwtKeys, Vec<String>> {
        let named = |problem: String| format!("{} = {path}: {problem}", option.replace('-', "_"));
        let contents = read_file(path.as_ref(), JwtKeys::MAX_FILE).map_err(|error| vec![named(error.to_string())])?;
        let keys = match option {
            "jwt-secret-file" => JwtKeys::secret(&contents),
            "jwt-key-file" => JwtKeys::pem(&contents),
            _ => JwtKeys::jwks(&contents),
        };
        keys.map_err(|problems| problems.into_iter().map(named).collect())
    }
}

/// Refuses `--auth jwt`.
#[cfg(not(feature = "jwt"))]
pub(crate) fn read(matches: &ArgMatches) -> Result<(lobbyd::apps::Auth, AuthFile), Vec<String>> {
    let missing = "auth = jwt: this program was built without the cargo feature `jwt`; build it with `cargo build \
                   --release --features jwt`";
    Err(keys_file(matches).err().into_iter().flatten().chain([missing.to_owned()]).collect())
}
