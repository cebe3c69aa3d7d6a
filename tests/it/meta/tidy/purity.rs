//! Where I/O, clocks and tungstenite are allowed, and that each value has one owner. Comments do not count.

use super::check;
use super::files::src;
use super::source::Source;

/// Paths, or parts of paths, that only the drivers of the server and of the client, and the program, may use.
const IO: &[&[&str]] = &[
    &["mio"],
    &["socket2"],
    &["rustix"],
    &["signal_hook"],
    &["TcpStream"],
    &["TcpListener"],
    &["UdpSocket"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["thread", "sleep"],
    &["thread", "spawn"],
    &["io", "stdin"],
    &["io", "stdout"],
    &["io", "stderr"],
    &["Instant", "now"],
    &["SystemTime", "now"],
];

/// Types for values with several owners.
const SHARED: &[&str] = &["Rc", "RefCell", "Mutex", "RwLock", "Condvar", "mpsc"];

#[test]
fn only_the_driver_does_io_or_reads_a_clock() {
    let mut violations = Vec::new();
    for (file, text) in &src() {
        if ["net/", "client/net/", "program/", "main.rs"].iter().any(|driver| file.starts_with(driver)) {
            continue;
        }
        for path in Source::parse_with_tests(text).paths {
            if IO.iter().any(|io| path.names.windows(io.len()).any(|names| names == *io)) {
                violations.push(format!("{file}:{} uses {}", path.line, path.names.join("::")));
            }
        }
    }
    check("only net, client/net and the program do I/O and read clocks", &violations);
}

#[test]
fn only_ws_and_the_clients_driver_know_tungstenite() {
    let mut violations = Vec::new();
    for (file, text) in
        src().iter().filter(|(file, _)| !["ws/", "client/net/"].iter().any(|knows| file.starts_with(knows)))
    {
        for path in Source::parse_with_tests(text).paths.iter().filter(|path| path.names[0] == "tungstenite") {
            violations.push(format!("{file}:{} uses {}", path.line, path.names.join("::")));
        }
    }
    check("only ws and client/net use tungstenite", &violations);
}

#[test]
fn each_value_has_one_owner() {
    let mut violations = Vec::new();
    // Other threads send commands through the first file. The second one passes calls to the threads that perform them; these
    // wait for lookups of names in the third one. The fourth one is the client's: a thread resolves a name and asks the
    // application for a token. The load generator is a program without a server, and has threads.
    let between_threads = ["net/handle.rs", "net/http_client.rs", "net/host_lookups.rs", "client/net/preparing.rs"];
    let has_threads = |file: &str| between_threads.contains(&file) || file.starts_with("program/load/");
    for (file, text) in src().iter().filter(|(file, _)| !has_threads(file)) {
        for word in Source::parse_with_tests(text).words {
            if SHARED.contains(&word.text) {
                violations.push(format!("{file}:{} uses {}", word.line, word.text));
            }
        }
    }
    check("the server is single-threaded, and each value has one owner", &violations);
}
