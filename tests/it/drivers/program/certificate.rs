//! `--listen tls:…`: the certificate at the start, on SIGHUP and in `lobbyd check`; and a program without the feature.

use std::process::Command;

use super::{PROGRAM, command};

fn check(arguments: &[&str]) -> (Option<i32>, String) {
    let mut check: Command = command(PROGRAM);
    let output = check.arg("check").args(arguments).output().expect("the program was built");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_program_without_the_feature_says_how_to_build_it() {
    let arguments = ["--listen", "127.0.0.1:0,tls:127.0.0.1:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let (code, problem) = check(&arguments);
    assert_eq!(code, Some(2));
    let rule = "listen = 127.0.0.1:0,tls:127.0.0.1:0: has an address with tls:, and this build has no TLS; build it with \
                --features tls";
    assert!(problem.contains(rule), "{problem}");
}

#[cfg(feature = "tls")]
mod with_tls {
    use std::fs;
    use std::net::TcpListener;
    use std::process::Stdio;

    use super::super::Program;
    use super::*;
    use crate::common::files::Folder;

    const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/files");

    fn start(folder: &Folder, arguments: &[&str]) -> Program {
        let (cert, key) = (folder.0.join("cert.pem"), folder.0.join("key.pem"));
        let mut program = command(PROGRAM);
        program.args(["--tls-cert", cert.to_str().expect("UTF-8"), "--tls-key", key.to_str().expect("UTF-8")]);
        program.args(arguments).stderr(Stdio::piped()).stdout(Stdio::null());
        Program::unread(program.spawn().expect("the program was built"))
    }

    fn install(folder: &Folder, cert: &str, key: &str) {
        for (from, to) in [(cert, "cert.pem"), (key, "key.pem")] {
            fs::copy(format!("{FILES}/{from}"), folder.0.join(to)).expect("the folder can be written");
        }
    }

    #[test]
    fn a_certificate_is_read_again_on_sighup_unless_it_is_broken() {
        let folder = Folder::new("program-certificate");
        install(&folder, "first.pem", "first.key");
        let mut program = start(&folder, &["--listen", "tls:127.0.0.1:0"]);
        program.wait_for("the certificate for first.example, localhost, valid until 2126-11-02 23:23:10 UTC is used");
        program.wait_for("listening on tls:127.0.0.1:");
        program.wait_for("playground on https://127.0.0.1:");
        install(&folder, "second.pem", "first.key");
        program.signal("-HUP");
        let path = folder.0.join("key.pem");
        program.wait_for(&format!(
            "the old certificate stays in force: tls_key = {}: it is not the key of the certificate in tls_cert",
            path.display()
        ));
        install(&folder, "second.pem", "second.key");
        program.signal("-HUP");
        program.wait_for("the certificate for second.example, localhost, valid until 2126");
        program.signal("-TERM");
        assert_eq!(program.exit_code(), Some(0));
    }

    #[test]
    fn a_socket_of_the_manager_has_tls_if_its_name_says_so() {
        let folder = Folder::new("given-certificate");
        install(&folder, "first.pem", "first.key");
        for (name, line) in [("tls", "listening on tls:"), ("admin-tls", "admin API on https://")] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("an address");
            let mut command = command("sh");
            let script = "exec 3<&0 </dev/null && LISTEN_PID=$$ exec \"$0\" \"$@\"";
            let [cert, key] = ["cert.pem", "key.pem"].map(|file| folder.0.join(file).display().to_string());
            command.args(["-c", script, PROGRAM, "--listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key]);
            command
                .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
                .stderr(Stdio::piped())
                .stdout(Stdio::null());
            command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
            let mut program = Program::unread(command.spawn().expect("a shell"));
            program.wait_for(&format!("{line}{address}"));
        }
    }

    #[test]
    fn check_reads_the_certificate_and_warns_of_its_end() {
        let folder = Folder::new("checked-certificate");
        install(&folder, "expired.pem", "first.key");
        let [cert, key] = ["cert.pem", "key.pem"].map(|file| folder.0.join(file).display().to_string());
        let arguments = ["--listen", "tls:127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
        let warning = "warning: tls_cert: the certificate has expired on 2020-01-02 00:00:00 UTC; clients refuse it\n";
        assert_eq!(check(&arguments), (Some(0), warning.to_owned()));
        install(&folder, "first.pem", "second.key");
        let (code, problem) = check(&arguments);
        assert_eq!(code, Some(2));
        assert!(problem.contains("tls_key = ") && problem.contains("not the key of the certificate"), "{problem}");
    }
}
