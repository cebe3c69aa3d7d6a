//! `lobbyd check`, `config`, `completions`, `man` and `--help`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use lobbyd::Config;

use super::start::refused;
use super::{PROGRAM, Program, command};
use crate::common::files::{File, Folder};
use crate::meta::documents::{check_program_options, section};

/// Returns the output of a command that succeeds without warnings.
#[track_caller]
fn output_of(arguments: &[&str]) -> String {
    let output = command(PROGRAM).args(arguments).output().expect("the program was built");
    let problems = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!((output.status.code(), problems.as_str()), (Some(0), ""), "{arguments:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn check_prints_ok_and_what_the_configuration_needs() {
    let output = output_of(&["check", "--max-connections", "1000", "--admin", "127.0.0.1:0"]);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "ok");
    assert!(lines[1].starts_with("limits: ") && lines[1].contains("max_connections=1000"), "{output}");
    assert!(lines[2].starts_with("worst-case memory with these limits: ") && lines[2].contains(" MiB"), "{output}");
    // 1000 + max_pending 256 + max_overflow 64 + max_closing 256 + accept_per_turn 16, 16 + 64 operators, 38 others.
    assert_eq!(lines[3], "file descriptors: at most 1710");
    assert!(output_of(&["check", "--max-connections", "unlimited", "--drain-batch", "1"]).contains("without a bound"));
    // The warnings of a start.
    let output = command(PROGRAM).args(["check", "--journal-sync", "on", "--auth-timeout", "1s"]).output();
    let output = output.expect("the program was built");
    assert_eq!((output.status.code(), &output.stdout[..3]), (Some(0), &b"ok\n"[..]));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "warning: auth_timeout has no effect: the built-in applications answer at once\n\
         warning: journal_sync = on: has no effect while journal is off\n"
    );
    let check = |app: &str| {
        let output = command(PROGRAM).args(["check", "--lobby-control", "on", "--app", app]).output();
        let output = output.expect("the program was built");
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"))
    };
    let [needed, warnings] = check("verbatim");
    assert_eq!(warnings, "warning: lobby_control has no effect: app = verbatim has no lobby control\n");
    assert_eq!(needed, output_of(&["check", "--app", "verbatim"]));
    assert_eq!(check("relay")[1], "");
}

/// Every refused start has the same report as the check, and the check needs neither the port nor the journal's lock.
#[test]
fn check_reports_what_a_start_would() {
    let folder = Folder::new("checked");
    let folder_name = folder.0.to_str().expect("UTF-8");
    let rules = ["--max-pending", "0", "--pong-timeout", "1h", "--listen", "nowhere", "--auth", "tokens"];
    assert_eq!(refused(&[&["check"], &rules[..]].concat()), refused(&rules));
    let never = ["--listen", "127.0.0.1:0", "--log", "off"];
    for (arguments, problem) in [
        (["--journal", "no/such/folder/session"], "journal = no/such/folder/session: no such file or directory"),
        (["--journal", folder_name], "it is a folder; name a file in it"),
        (["--journal", "Cargo.toml/session"], "not a directory"),
    ] {
        let output = refused(&[&["check"], &arguments[..]].concat());
        assert!(
            output.starts_with("lobbyd: invalid configuration\n  journal = ") && output.contains(problem),
            "{output}"
        );
        refused(&[&never[..], &arguments].concat());
    }
    let token = File::new("short-operators-token", "short");
    let operators = ["--admin", "127.0.0.1:0", "--admin-token-file", token.path()];
    let output = refused(&[&["check"], &operators[..]].concat());
    let rule = refused(&[&["--listen", "127.0.0.1:0"], &operators[..]].concat());
    let (_, rule) = rule.split_once("admin_token_file = ").expect("the start is refused for its token");
    assert_eq!(output, format!("lobbyd: invalid configuration\n  admin_token_file = {rule}"));
    // A file that nobody may read or write, unless by root.
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o500)).expect("the folder is ours");
    let journal = folder.journal();
    let journal = journal.to_str().expect("UTF-8");
    if fs::write(folder.0.join("probe"), "").is_err() {
        assert!(refused(&["check", "--journal", journal]).contains("permission denied"));
    }
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
    let _ = fs::remove_file(folder.0.join("probe"));

    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--journal", journal]);
    let listen = program.address.to_string();
    let before = folder.segments();
    assert!(output_of(&["check", "--listen", &listen, "--journal", journal]).starts_with("ok\n"));
    assert_eq!(folder.segments(), before, "nothing is written");
}

#[test]
fn check_reports_socket_files_that_cannot_be_created() {
    let folder = Folder::new("checked-sockets");
    let name = |name: &str| format!("unix:{}", folder.0.join(name).display());
    fs::write(folder.0.join("file"), "").expect("the folder can be written");
    let refused_check = |option: &str, socket: &str, why: &str| {
        let problems = refused(&["check", option, socket]);
        assert_eq!(problems, format!("lobbyd: invalid configuration\n  cannot listen on {socket}: {why}\n"));
    };
    for option in ["--listen", "--admin"] {
        refused_check(option, &name("none/s.sock"), "no such file or directory; create its folder");
        refused_check(option, &name("file/s.sock"), "not a directory");
        refused_check(option, &name("file"), "the file exists and is no socket; name another file");
    }
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o500)).expect("the folder is ours");
    if fs::write(folder.0.join("probe"), "").is_err() {
        let why = "permission denied; the server must be permitted to create files in its folder";
        refused_check("--listen", &name("s.sock"), why);
    }
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
    let _ = fs::remove_file(folder.0.join("probe"));
    let both = ["--listen", &name("m.sock"), "--admin", &name("a.sock")];
    assert!(output_of(&[&["check"], &both[..]].concat()).starts_with("ok\n"));
    assert_eq!(folder.segments(), [folder.0.join("file")], "nothing is created");
}

#[test]
fn flags_before_a_subcommand_are_refused_and_variables_are_not() {
    let output = refused(&["--max-pending", "5", "check"]);
    assert!(
        output == "lobbyd: --max-pending: it stands before the command; write lobbyd check --max-pending\n",
        "{output}"
    );
    let output = command(PROGRAM).args(["check"]).env("LOBBYD_MAX_PENDING", "5").output();
    let output = output.expect("the program was built");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("max_pending=5 "));
    let output =
        command(PROGRAM).args(["simulate", "--seed", "1", "--steps", "1"]).env("LOBBYD_MAX_PENDING", "5").output();
    assert_eq!(output.expect("the program was built").status.code(), Some(0));
}

/// Removes the `#` before each commented option.
fn uncommented(file: &str) -> String {
    let is_option =
        |line: &str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    file.lines().map(|line| if is_option(line) { &line[1..] } else { line }).flat_map(|line| [line, "\n"]).collect()
}

/// Returns the values in force without their origins.
fn effective(arguments: &[&str]) -> String {
    let values = output_of(&[&["config", "--effective"], arguments].concat());
    values.lines().map(|line| line.rsplit_once(" # ").expect("each value has an origin").0.to_owned() + "\n").collect()
}

#[test]
fn the_printed_file_has_every_option_with_its_default() {
    let printed = output_of(&["config"]);
    assert!(printed.lines().all(|line| line.is_empty() || line.starts_with('#')), "nothing is set");
    assert!(printed.lines().all(|line| line.chars().count() <= 100), "lines are short");
    for field in Config::FIELDS {
        assert!(printed.contains(&format!("\n#{} = ", field.name)), "{}", field.name);
        let first_words: Vec<&str> = field.doc.split_whitespace().take(3).collect();
        assert!(printed.contains(&format!("\n# {}", first_words.join(" "))), "{}", field.name);
        assert_eq!(printed.matches(&format!("\n# ---- {} ----\n", field.group)).count(), 1, "{}", field.group);
    }
    // As printed, and with all options set, it is accepted and changes nothing.
    let defaults = effective(&[]);
    for contents in [&printed, &uncommented(&printed)] {
        let file = File::new("printed-config", contents);
        assert!(output_of(&["check", "--config", file.path()]).starts_with("ok\n"));
        assert_eq!(effective(&["--config", file.path()]), defaults);
    }
    let file = File::new("printed-and-set", &uncommented(&printed));
    let values = output_of(&["config", "--effective", "--config", file.path()]);
    assert!(!values.contains("# default"), "every option was set: {values}");
}

/// So a command line can be turned into a file.
#[test]
fn the_printed_file_sets_what_was_given() {
    let list = File::new("quoted \"tokens\" \u{7f}", "secret-1 ann");
    let given = ["--max-connections", "1000", "--journal-sync", "on", "--allowed-origin", "https://a.example,null"];
    let given =
        [&given[..], &["--auth", "tokens", "--tokens-file", list.path(), "--seed", "007", "--log", "off,a=info"]]
            .concat();
    let printed = output_of(&[&["config"], &given[..]].concat());
    for line in ["max_connections = 1000", "journal_sync = true", "allowed_origin = [\"https://a.example\", \"null\"]"]
    {
        assert!(printed.contains(&format!("\n{line}\n")), "{printed}");
    }
    assert_eq!(printed.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count(), 7, "{printed}");
    for contents in [printed, output_of(&[&["config", "--effective"], &given[..]].concat())] {
        let file = File::new("from-flags", &contents);
        assert_eq!(effective(&["--config", file.path()]), effective(&given));
    }
    // What is invalid is reported, and nothing is printed.
    let output = refused(&["config", "--max-pending", "0"]);
    assert!(output.contains("max_pending = 0: must be from 1"), "{output}");
}

/// The guide has a table of the options that are not fields of the configuration.
#[test]
fn the_guide_lists_the_options_of_the_program() {
    let values = output_of(&["config", "--effective"]);
    let names = values.lines().filter_map(|line| line.split_once(" = "));
    let own = names.filter(|(name, _)| Config::FIELDS.iter().all(|field| field.name != *name));
    let own: Vec<(String, String)> = own
        .map(|(name, rest)| {
            let value = rest.rsplit_once(" # ").expect("each value has an origin").0;
            (format!("--{}", name.replace('_', "-")), value.trim_matches(['[', ']', '"']).to_owned())
        })
        .collect();
    // Words are separated by `|` in the placeholder: `--auth <open|tokens>`.
    let help = output_of(&["--help"]);
    let words_of = |flag: &str| -> Vec<String> {
        let (_, rest) =
            help.split_once(&format!("\n      {flag} <")).unwrap_or_else(|| panic!("{flag} is in the help"));
        let (placeholder, _) = rest.split_once('>').expect("the placeholder ends");
        placeholder.split('|').filter(|_| placeholder.contains('|')).map(str::to_owned).collect()
    };
    assert_eq!(words_of("--jwt-exp"), ["required", "optional"]);
    check_program_options(&own, words_of);
}

#[test]
fn help_is_grouped_and_names_every_option_with_its_default() {
    let help = output_of(&["--help"]);
    for field in Config::FIELDS {
        assert!(help.contains(&format!("\n      --{} <", field.flag())), "{}", field.name);
        assert_eq!(help.matches(&format!("\n{}:\n", field.group)).count(), 1, "{}", field.group);
    }
    assert_eq!(help.matches("[default: ").count(), output_of(&["config", "--effective"]).lines().count());
    for words in ["LOBBYD_MAX_PER_LOBBY", "lobbyd config", "lobbyd check", "  check\n", "--config <FILE>"] {
        assert!(help.contains(words), "{words}");
    }
    let longest = help.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(130), "{longest:?} columns");
    assert!(!help.contains(env!("CARGO_MANIFEST_DIR")));
}

/// Completes the last of `words` as bash does, with the printed script. `None` without bash.
fn complete(words: &[&str]) -> Option<Vec<String>> {
    let script =
        File::new(&format!("completions-{}", words.join("-").replace('/', "-")), &output_of(&["completions", "bash"]));
    let code = r#"
        source "$1" && shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _lobbyd lobbyd "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash").args(["-c", code, "bash", script.path()]).args(words).output();
    let Ok(output) = output else {
        eprintln!("skipped: bash cannot be started");
        return None;
    };
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Some(String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect())
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let Some(flags) = complete(&["lobbyd", "--max-con"]) else { return };
    assert_eq!(flags, ["--max-connections"]);
    for (words, expected) in [
        (&["lobbyd", "che"][..], &["check"][..]),
        (&["lobbyd", "check", "--max-con"], &["--max-connections"]),
        (&["lobbyd", "config", "--eff"], &["--effective"]),
        (&["lobbyd", "--flush", "t"], &["turn", "tick"]),
        (&["lobbyd", "--journal-sync", ""], &["on", "off"]),
        (&["lobbyd", "--app", "v"], &["verbatim"]),
        (&["lobbyd", "--auth", "j"], &["jwt"]),
        (&["lobbyd", "check", "--jwt-exp", ""], &["required", "optional"]),
        (&["lobbyd", "completions", "b"], &["bash"]),
    ] {
        assert_eq!(
            complete(words).as_deref(),
            Some(&expected.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()[..]),
            "{words:?}"
        );
    }
}

#[test]
fn completion_scripts_have_no_syntax_errors() {
    for (shell, check) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = output_of(&["completions", shell]);
        assert!(script.contains("max-connections"), "{shell}");
        assert!(!script.contains(env!("CARGO_MANIFEST_DIR")), "{shell}");
        let file = File::new(&format!("completions.{shell}"), &script);
        match Command::new(shell).args(check).arg(file.path()).output() {
            Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}"),
            Err(error) => eprintln!("skipped: {shell} cannot be started: {error}"),
        }
    }
}

#[test]
fn the_man_page_has_all_options_and_the_exit_codes_of_the_guide() {
    let page = output_of(&["man"]);
    assert!(page.is_ascii() && !page.contains(env!("CARGO_MANIFEST_DIR")));
    let text = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "");
    for field in Config::FIELDS {
        assert!(text.contains(&format!("\n--{} ", field.flag())), "{}", field.name);
    }
    for title in ["SYNOPSIS", "OPTIONS", "COMMANDS", "EXIT STATUS", "SIGNALS", "FILES", "ENVIRONMENT"] {
        let is_title = |line: &&str| *line == format!(".SH {title}") || *line == format!(".SH \"{title}\"");
        assert_eq!(text.lines().filter(is_title).count(), 1, "{title}");
    }
    for command in ["check", "config", "simulate", "load", "replay", "completions", "man", "cluster"] {
        assert!(text.contains(&format!(".SS \"lobbyd {command}\"\n")), "{command}");
    }
    // The guide's table of exit codes has the same codes, and begins with the same words.
    let status = text.split_once(".SH \"EXIT STATUS\"").expect("the section is there").1;
    let status = status.split_once(".SH").expect("another section follows").0;
    let codes: BTreeSet<&str> = status.lines().filter(|line| line.parse::<u8>().is_ok()).collect();
    let table = section("<!-- exit codes:");
    let rows = rows(&table);
    assert_eq!(codes, rows.iter().map(|row| row[0]).collect());
    for row in rows {
        let meaning = row[1].split(" (").next().expect("a beginning");
        assert!(status.contains(&format!("\n{}\n{meaning}", row[0])), "{row:?} in {status}");
    }
}

fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_guide_explains_the_exit_codes_of_the_help() {
    for command in ["load", "replay"] {
        let help = output_of(&[command, "--help"]);
        let (_, codes) = help.split_once("\nExit codes:\n").expect("the help ends with the codes");
        let codes: Vec<(&str, &str)> = codes
            .lines()
            .map(|line| line.trim_end_matches([';', '.']).split_once(' ').expect("a code and its meaning"))
            .collect();
        let table = section(&format!("<!-- exit codes of {command}:"));
        let rows = rows(&table);
        assert_eq!(
            rows.iter().map(|row| row[0]).collect::<Vec<_>>(),
            codes.iter().map(|code| code.0).collect::<Vec<_>>()
        );
        for (row, (code, meaning)) in rows.iter().zip(codes) {
            assert!(row[1].starts_with(meaning), "{command}, {code}: {meaning}, but in the guide: {}", row[1]);
        }
    }
}

#[test]
fn the_man_page_is_formatted_without_warnings() {
    let page = output_of(&["man"]);
    let groff = Command::new("groff")
        .args(["-ww", "-man", "-Tutf8"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut groff) = groff else {
        eprintln!("skipped: groff cannot be started");
        return;
    };
    let mut stdin = groff.stdin.take().expect("the stream is piped");
    let writer = std::thread::spawn(move || stdin.write_all(page.as_bytes()));
    let output = groff.wait_with_output().expect("groff ends");
    writer.join().expect("the writer ends").expect("groff reads everything");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let formatted = String::from_utf8_lossy(&output.stdout).replace('\u{8}', "");
    assert!(formatted.lines().count() > 300, "{formatted}");
}

/// `lobbyd config | head` ends the output early.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for arguments in [&["config"][..], &["man"], &["completions", "zsh"]] {
        let child = command(PROGRAM).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program was built");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("the program ends");
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn the_manual_has_the_variables_of_the_service_manager() {
    let page = output_of(&["man"]);
    let (_, environment) = page.split_once(".SH ENVIRONMENT\n").expect("the section is there");
    let environment = environment.split("\n.SH ").next().expect("the section");
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        assert!(environment.contains(&format!("\\fB{variable}\\fR\n")), "{variable} in {environment}");
    }
}
