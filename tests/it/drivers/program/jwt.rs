//! `--auth jwt`: its options, its keys on SIGHUP, and a program without the feature.

use super::start::refused;
use super::{PROGRAM, command};
use crate::common::files::File;

/// A secret of 32 bytes.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn options_of_jwt_without_it_prevent_the_start() {
    let secret = File::new("jwt-unread", SECRET);
    for (flag, value) in [
        ("--jwt-secret-file", secret.path()),
        ("--jwt-key-file", "key.pem"),
        ("--jwt-jwks-file", "keys.json"),
        ("--jwt-audience", "game"),
        ("--jwt-issuer", "login"),
        ("--jwt-leeway", "1s"),
        ("--jwt-exp", "optional"),
    ] {
        let field = flag.trim_start_matches('-').replace('-', "_");
        let output = refused(&["--listen", "127.0.0.1:0", flag, value]);
        assert!(output.contains(&format!("{field}: is read only with auth = jwt, and auth is open")), "{output}");
        let variable = format!("LOBBYD_{}", field.to_uppercase());
        let by_variable = command(PROGRAM).args(["--listen", "127.0.0.1:0"]).env(&variable, value).output();
        let output = String::from_utf8(by_variable.expect("the program was built").stderr).expect("UTF-8");
        assert!(output.contains(&format!("{variable}: {field}: is read only")), "{output}");
        let file = File::new(&format!("{field}-unread"), &format!("max_pending = 9\n{field} = \"{value}\""));
        let output = refused(&["check", "--config", file.path()]);
        assert!(output.contains(&format!("{}:2: {field}: is read only", file.path())), "{output}");
    }
    // Their defaults restrict nothing.
    let defaults = ["--jwt-key-file", "off", "--jwt-audience", "off", "--jwt-leeway", "10s", "--jwt-exp", "required"];
    let output = command(PROGRAM).arg("check").args(defaults).output().expect("the program was built");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn jwt_needs_one_file_of_keys() {
    let jwt = ["--listen", "127.0.0.1:0", "--auth", "jwt"];
    assert!(refused(&jwt).contains("auth = jwt: name the keys with one of --jwt-secret-file, --jwt-key-file"));
    let secret = File::new("jwt-one", SECRET);
    let both = ["--jwt-secret-file", secret.path(), "--jwt-key-file", secret.path()];
    assert!(refused(&[&jwt[..], &both].concat()).contains("auth = jwt: give only one of --jwt-secret-file"));
    let echo = ["--jwt-secret-file", secret.path(), "--app", "echo"];
    assert!(refused(&[&jwt[..], &echo].concat()).contains("auth = jwt: app = echo admits every client"));
}

#[cfg(not(feature = "jwt"))]
#[test]
fn without_the_feature_the_start_names_it() {
    let secret = File::new("jwt-feature", SECRET);
    let output = refused(&["--listen", "127.0.0.1:0", "--auth", "jwt", "--jwt-secret-file", secret.path()]);
    assert!(
        output.contains("built without the cargo feature `jwt`; build it with `cargo build --release --features jwt`")
    );
    let file = File::new("jwt-feature-in-file", &format!("jwt_secret_file = \"{}\"\nauth = \"jwt\"", secret.path()));
    let output = refused(&["check", "--config", file.path()]);
    assert!(output.contains(&format!("{}:2: auth = jwt: this program was built without", file.path())), "{output}");
}

#[cfg(feature = "jwt")]
mod with_feature {
    use std::fs;

    use super::super::{PROGRAM, Program, check_token, command, connect, start::refused};
    use crate::common::files::{File, Folder};
    use crate::common::jwt::{Algorithm, file, signed};

    const JWT: [&str; 4] = ["--listen", "127.0.0.1:0", "--auth", "jwt"];

    fn set() -> String {
        String::from_utf8(file("set.jwks.json")).expect("ASCII")
    }

    /// A token of this user that never expires.
    fn token(kid: &str, user: &str) -> String {
        let claims =
            format!(r#"{{"sub":"{user}","exp":253402300799,"aud":"game","iss":"login","data":"said-in-confidence"}}"#);
        signed(Algorithm::RS256, &format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#), &claims)
    }

    #[test]
    fn unusable_options_prevent_the_start_with_all_problems() {
        let short = File::new("jwt-short", "too-short-to-be-a-secret");
        let output = refused(
            &[
                &JWT[..],
                &["--jwt-secret-file", short.path(), "--jwt-leeway", "2h", "--jwt-audience", "", "--max-pending", "0"],
            ]
            .concat(),
        );
        let named = format!("jwt_secret_file = {}: the secret has 24 bytes, fewer than 32", short.path());
        for problem in [&*named, "jwt_leeway: must be at most 1h", "jwt_audience: must not be empty", "max_pending = 0"]
        {
            assert!(output.contains(problem), "all problems at once: {output}");
        }
        assert!(!output.contains("too-short"), "{output}");
        assert!(
            refused(&[&JWT[..], &["--jwt-key-file", "/nonexistent"]].concat())
                .contains("jwt_key_file = /nonexistent: ")
        );
        assert!(refused(&[&JWT[..], &["--jwt-jwks-file", "/dev/zero"]].concat()).contains("it is not a regular file"));
        let wrong = File::new("jwt-wrong", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2hvcnQ\"},7]}");
        let output = refused(&[&JWT[..], &["--jwt-jwks-file", wrong.path()]].concat());
        assert!(
            output.contains("key 1: the secret has 5 bytes") && output.contains("key 2: it is no JSON"),
            "{output}"
        );
    }

    #[test]
    fn a_configuration_file_may_have_the_options() {
        let folder = Folder::new("jwt-config");
        let write = |name: &str, contents: &[u8]| fs::write(folder.0.join(name), contents).expect("a new file");
        write("secret", super::SECRET.as_bytes());
        write("key.pem", &file("rsa.pub.pem"));
        write("keys.json", set().as_bytes());
        write("bad.pem", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
        let path = folder.0.join("lobbyd.toml");
        let path = path.to_str().expect("UTF-8");
        // The working directory is another one, and the files are beside the configuration.
        for keys in ["jwt_secret_file = \"secret\"", "jwt_key_file = \"key.pem\"", "jwt_jwks_file = \"keys.json\""] {
            let rules = "jwt_audience = \"game\"\njwt_issuer = false\njwt_leeway = \"1m\"\njwt_exp = \"optional\"";
            write("lobbyd.toml", format!("auth = \"jwt\"\n{keys}\n{rules}\n").as_bytes());
            let output = command(PROGRAM).args(["check", "--config", path]).output().expect("the program was built");
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        }
        let printed = command(PROGRAM).args(["config", "--effective", "--config", path]).output().expect("as above");
        let printed = String::from_utf8(printed.stdout).expect("UTF-8");
        for (name, value, line) in
            [("jwks_file", "", 2), ("audience", "game", 3), ("issuer", "off", 4), ("leeway", "1m", 5)]
        {
            let value =
                if name == "jwks_file" { folder.0.join("keys.json").display().to_string() } else { value.into() };
            assert!(printed.contains(&format!("\njwt_{name} = \"{value}\" # {path}:{line}\n")), "{name}: {printed}");
        }

        write(
            "lobbyd.toml",
            b"auth = \"jwt\"\njwt_key_file = \"bad.pem\"\njwt_leeway = \"2h\"\njwt_issuer = \"\"\njwt_exp = \"never\"\n",
        );
        let output = refused(&["check", "--config", path]);
        for problem in [
            format!("{path}:2: jwt_key_file: its contents are no public key in DER\n"),
            format!("{path}:3: jwt_leeway: must be at most 1h\n"),
            format!("{path}:4: jwt_issuer: must not be empty\n"),
            format!("{path}:5: jwt_exp: `never` is none of required, optional\n"),
        ] {
            assert!(output.contains(&problem), "{problem} in {output}");
        }
        write("lobbyd.toml", b"auth = \"jwt\"\njwt_key_file = \"key.pem\"\njwt_jwks_file = \"keys.json\"\n");
        assert!(refused(&["check", "--config", path]).contains(&format!("{path}:3: auth = jwt: give only one of")));
        write("lobbyd.toml", b"auth = \"jwt\"\n");
        assert!(refused(&["--config", path]).contains(&format!("{path}:1: auth = jwt: name the keys with one of")));
    }

    #[test]
    fn keys_are_read_again_on_sighup() {
        let keys = File::new("jwt-keys", &set());
        let arguments = ["--jwt-jwks-file", keys.path(), "--jwt-audience", "game", "--jwt-issuer", "login"];
        let all = ["--log", "trace,tungstenite=trace,tungstenite::protocol=trace"];
        let mut program = Program::start(PROGRAM, &[&JWT[..], &arguments, &all].concat());
        let started = program.log_lines.join("\n");
        assert!(started.contains("auth=jwt keys=4"), "{started}");
        assert!(started.contains("keys that are not used: key 5: its use is not sig; key 6:"), "{started}");
        check_token(&program, &token("r1", "ann"), Some("ann"));
        check_token(&program, &token("r2", "ann"), None);
        let line = program.wait_for("the token is refused");
        assert!(line.contains("DEBUG") && line.contains("its kid is not that of a key"), "{line}");

        // The next key beside the old one, then the next key alone.
        fs::write(keys.path(), set().replace("\"enc\"", "\"r2\"").replace("\"use\": \"r2\"", "\"use\": \"sig\""))
            .expect("a file");
        program.signal("-HUP");
        program.wait_for("5 keys read");
        check_token(&program, &token("r1", "ann"), Some("ann"));
        check_token(&program, &token("r2", "bob"), Some("bob"));
        fs::write(keys.path(), set().replace("\"r1\"", "\"r2\"")).expect("the file can be written");
        program.signal("-HUP");
        program.wait_for("4 keys read");
        check_token(&program, &token("r1", "ann"), None);
        check_token(&program, &token("r2", "bob"), Some("bob"));

        // An invalid set, or a missing one, changes nothing.
        fs::write(keys.path(), set().replace("AQAB", "AQ")).expect("the file can be written");
        program.signal("-HUP");
        assert!(program.wait_for("the old keys stay in force").contains("key 1: the RSA key has an invalid"));
        check_token(&program, &token("r2", "bob"), Some("bob"));
        fs::remove_file(keys.path()).expect("the file exists");
        program.signal("-HUP");
        assert!(program.wait_for("the old keys stay in force").contains(keys.path()));
        check_token(&program, &token("r2", "bob"), Some("bob"));

        program.signal("-TERM");
        program.signal("-TERM");
        assert!(matches!(program.exit_code(), Some(0 | 3)));
        for line in &program.log_lines {
            assert!(!line.contains("eyJ") && !line.contains("said-in-confidence"), "{line}");
        }
    }

    /// `lobbyd replay` knows no key.
    #[test]
    fn a_journal_of_a_program_with_jwt_can_be_replayed() {
        let folder = Folder::new("jwt-journal");
        let key = File::new("jwt-key", &String::from_utf8(file("rsa.pub.pem")).expect("ASCII"));
        let journal = folder.journal();
        let path = journal.to_str().expect("UTF-8");
        let arguments = ["--jwt-key-file", key.path(), "--jwt-audience", "game", "--journal", path];
        let mut program = Program::start(PROGRAM, &[&JWT[..], &arguments].concat());
        assert!(program.log_lines.iter().any(|line| line.contains("keys=1")));
        let (client, first) = connect(&program, &token("any", "ann"));
        assert_eq!(first["user"], "ann");
        check_token(&program, "x.y.z", None);
        drop(client);
        program.signal("-TERM");
        assert_eq!(program.exit_code(), Some(0));
        let replayed = command(PROGRAM).args(["replay", path, "--print"]).output().expect("the program was built");
        let output = String::from_utf8(replayed.stdout).expect("UTF-8");
        assert!(replayed.status.success() && output.contains("ann") && !output.contains("eyJ"), "{output}");
    }
}
