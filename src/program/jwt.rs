//! The options of `--auth jwt`, and the authentication that they describe.
//!
//! They exist in every build, so that configuration files and completions do not depend on it.

use super::auth_file::AuthFile;
use super::table::OFF;
use super::values::Values;

/// The options of which one names the keys: a file, or a URL.
const FILES: [&str; 4] = ["jwt_secret_file", "jwt_key_file", "jwt_jwks_file", "jwt_jwks_url"];
const OTHERS: [&str; 4] = ["jwt_audience", "jwt_issuer", "jwt_leeway", "jwt_exp"];

/// Returns a problem for each of these options that is set although `auth` reads none of them. They restrict access,
/// so they are not ignored.
pub(crate) fn unread(values: &Values, auth: &str) -> Vec<String> {
    let set = FILES.iter().chain(&OTHERS).filter(|name| auth != "jwt" && values.is_changed(name));
    set.map(|name| {
        let flag = name.replace('_', "-");
        let problem =
            format!("{name}: is read only with auth = jwt, and auth is {auth}; set --auth jwt, or leave --{flag} out");
        values.locate(name, problem)
    })
    .collect()
}

/// Returns the option that names the file of the keys, and its value.
fn keys_file(values: &Values) -> Result<(&'static str, &str), Vec<String>> {
    let named: Vec<&'static str> = FILES.into_iter().filter(|name| values.text(name) != OFF).collect();
    let flags = || FILES.map(|name| format!("--{}", name.replace('_', "-"))).join(", ");
    match named[..] {
        [name] => Ok((name, values.text(name))),
        [] => Err(vec![values.locate("auth", format!("auth = jwt: name the keys with one of {}", flags()))]),
        // The last one is located: it is the one too many.
        [.., last] => Err(vec![values.locate(last, format!("auth = jwt: give only one of {}", flags()))]),
    }
}

#[cfg(feature = "jwt")]
pub(crate) use with_feature::read;

#[cfg(feature = "jwt")]
mod with_feature {
    use std::time::Duration;

    use lobbyd::apps::{Auth, Jwt, JwtKeys};
    use lobbyd::config::parse_duration;
    use lobbyd::net::read_file;

    use super::{AuthFile, OFF, Values, keys_file};

    /// Bound of `--jwt-leeway`.
    const MAX_LEEWAY: Duration = Duration::from_secs(3600);

    /// Reads the keys and the rules of `--auth jwt`. Fails with all problems.
    ///
    /// Keys from a URL have no file to read again.
    pub(crate) fn read(values: &Values) -> Result<(Auth, Option<AuthFile>), Vec<String>> {
        let mut problems = Vec::new();
        let keys = keys_file(values)
            .and_then(|(name, path)| read_keys(values, name, path).map(|keys| (keys, name, path.to_owned())))
            .map_err(|found| problems.extend(found));
        let leeway = parse_duration(values.text("jwt_leeway"))
            .and_then(|leeway| if leeway <= MAX_LEEWAY { Ok(leeway) } else { Err("must be at most 1h".to_owned()) })
            .map_err(|problem| problems.push(values.locate("jwt_leeway", format!("jwt_leeway: {problem}"))));
        for name in ["jwt_audience", "jwt_issuer"] {
            // An empty variable is more likely a mistake than a name.
            if values.text(name).is_empty() {
                problems.push(values.locate(name, format!("{name}: must not be empty")));
            }
        }
        let (Ok((keys, name, path)), Ok(leeway)) = (keys, leeway) else { return Err(problems) };
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut jwt = Jwt::new(keys).leeway(leeway);
        let set = |option: &str| Some(values.text(option)).filter(|text| *text != OFF);
        if let Some(audience) = set("jwt_audience") {
            jwt = jwt.audience(audience);
        }
        if let Some(issuer) = set("jwt_issuer") {
            jwt = jwt.issuer(issuer);
        }
        if values.text("jwt_exp") == "optional" {
            jwt = jwt.exp_is_optional();
        }
        let is_valid = match name {
            "jwt_secret_file" => |contents: &[u8]| JwtKeys::secret(contents).is_ok(),
            "jwt_key_file" => |contents: &[u8]| JwtKeys::pem(contents).is_ok(),
            "jwt_jwks_url" => return Ok((Auth::Jwt(jwt), None)),
            _ => |contents: &[u8]| JwtKeys::jwks(contents).is_ok(),
        };
        Ok((Auth::Jwt(jwt), Some(AuthFile { path, max_bytes: JwtKeys::MAX_FILE, contents: "keys", is_valid })))
    }

    fn read_keys(values: &Values, name: &str, path: &str) -> Result<JwtKeys, Vec<String>> {
        if name == "jwt_jwks_url" {
            return JwtKeys::to_fetch();
        }
        let named = |problem: String| values.locate(name, format!("{name} = {path}: {problem}"));
        let contents = read_file(path.as_ref(), JwtKeys::MAX_FILE).map_err(|error| vec![named(error.to_string())])?;
        let keys = match name {
            "jwt_secret_file" => JwtKeys::secret(&contents),
            "jwt_key_file" => JwtKeys::pem(&contents),
            _ => JwtKeys::jwks(&contents),
        };
        keys.map_err(|problems| problems.into_iter().map(named).collect())
    }
}

/// Refuses `--auth jwt`.
#[cfg(not(feature = "jwt"))]
pub(crate) fn read(values: &Values) -> Result<(lobbyd::apps::Auth, Option<AuthFile>), Vec<String>> {
    let missing = "auth = jwt: this program was built without the cargo feature `jwt`; build it with `cargo build \
                   --release --features jwt`";
    let missing = values.locate("auth", missing.to_owned());
    Err(keys_file(values).err().into_iter().flatten().chain([missing]).collect())
}
