//! The PROXY protocol on real sockets: 127.0.0.1 is the proxy, and the clients have addresses of documentation networks.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::Limit;
use lobbyd::net::Server;
use lobbyd::sim::wire::{self, Received};
use lobbyd::{Config, Time};

use crate::common::scrape::Scrape;
use crate::common::sockets::{Client, SHORT, TURNS, on_free_port};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A configuration in which connections of this machine come from a proxy.
fn behind_a_proxy() -> Config {
    Config {
        proxy_protocol: Some("127.0.0.1,::1".parse().expect("addresses")),
        admin: Some("127.0.0.1:0".parse().expect("an address")),
        ..on_free_port()
    }
}

struct Rig {
    server: Server<Relay>,
    address: SocketAddr,
}

impl Rig {
    fn new(config: Config) -> Rig {
        let server = Server::bind(config, Relay::default()).expect("a free port");
        let address = server.local_addr().expect("the server listens");
        Rig { server, address }
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.server.turn(SHORT).expect("the turn succeeds");
        }
    }

    /// Opens a connection that begins with these bytes.
    fn open(&self, bytes: &[u8]) -> Client {
        let mut client = Client::open(self.address);
        client.send(bytes);
        client
    }

    fn now(&mut self) -> Time {
        self.server.act(|_, cx| cx.now())
    }

    /// Opens a connection with a header, and joins a lobby in the same packet.
    #[track_caller]
    fn join(&mut self, header: &[u8], user: &str) -> Client {
        let request = wire::upgrade_request(&format!("/ws/chess?token={user}"), &[]);
        let mut client = self.open(&[header, &request].concat());
        assert!(matches!(client.next(&mut self.server), Received::Answer(101, _)), "{user}");
        assert_eq!(client.json(&mut self.server)["type"], "welcome");
        client
    }

    /// Asks on the operators' port.
    #[track_caller]
    fn ask(&mut self, path: &str) -> String {
        let mut client = Client::open(self.server.admin_addr().expect("admin is on"));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
        let (mut answer, mut bytes) = (Vec::new(), [0; 65_536]);
        for _ in 0..TURNS {
            match client.stream.read(&mut bytes) {
                Ok(0) => {
                    return String::from_utf8(answer)
                        .expect("UTF-8")
                        .split_once("\r\n\r\n")
                        .expect("a head")
                        .1
                        .to_owned();
                }
                Ok(count) => answer.extend_from_slice(&bytes[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            self.turns(1);
        }
        panic!("no answer")
    }

    #[track_caller]
    fn peer_of(&mut self, user: &str) -> String {
        let answer: serde_json::Value = serde_json::from_str(&self.ask(&format!("/users/{user}"))).expect("JSON");
        answer["seats"][0]["peer"].as_str().expect("a peer").to_owned()
    }

    #[track_caller]
    fn metric(&mut self, name: &str) -> f64 {
        Scrape::parse(&self.ask("/metrics")).get(name)
    }

    fn closes(&mut self, reason: &str) -> f64 {
        self.metric(&format!("lobbyd_proxy_closes_total{{reason=\"{reason}\"}}"))
    }

    /// Runs turns until the server has closed a connection of which it has read less than a header.
    #[track_caller]
    fn expect_closed(&mut self, client: &mut Client) {
        for _ in 0..TURNS {
            match client.stream.read(&mut [0; 16]) {
                Ok(0) => return,
                Ok(_) => panic!("something was answered"),
                // Bytes of the client that were not read.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            self.turns(1);
        }
        panic!("the connection stays open");
    }
}

#[test]
fn the_address_in_the_header_is_that_of_the_member() {
    let mut rig = Rig::new(behind_a_proxy());
    let _ann = rig.join(V1, "ann");
    let _bob = rig.join(V2, "bob");
    let six = b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 443\r\n";
    let _cid = rig.join(six, "cid");
    assert_eq!(rig.peer_of("ann"), "192.0.2.1:56324");
    assert_eq!(rig.peer_of("bob"), "192.0.2.1:56324");
    assert_eq!(rig.peer_of("cid"), "[2001:db8::1]:4000");
    assert_eq!(rig.metric("lobbyd_proxy_headers_total{origin=\"client\"}"), 3.0);
    assert_eq!(rig.metric("lobbyd_proxy_pending"), 0.0);
}

/// However the header and the request are cut into packets, all of it is served.
#[test]
fn a_header_in_any_pieces_is_read_and_nothing_behind_it_is_lost() {
    let mut rig = Rig::new(behind_a_proxy());
    for (version, header) in [V1, V2].into_iter().enumerate() {
        for cut in (0..=header.len()).chain([header.len() + 1]) {
            let user = format!("u{version}-{cut}");
            let request = wire::upgrade_request(&format!("/ws/l{version}-{cut}?token={user}"), &[]);
            let bytes = [header, &request].concat();
            let mut client = rig.open(&bytes[..cut]);
            client.stream.set_nodelay(true).expect("a socket of TCP");
            rig.turns(2);
            client.send(&bytes[cut..]);
            assert!(matches!(client.next(&mut rig.server), Received::Answer(101, _)), "{user}");
        }
    }
    let mut client = rig.open(b"");
    for byte in V1.iter().chain(&wire::upgrade_request("/ws/bytes?token=slow", &[])) {
        client.send(&[*byte]);
        rig.turns(1);
    }
    assert!(matches!(client.next(&mut rig.server), Received::Answer(101, _)));
    assert_eq!(rig.peer_of("slow"), "192.0.2.1:56324");
}

/// The proxy speaks for itself: the address is that of its socket.
#[test]
fn local_and_unknown_connections_keep_the_address_of_the_socket() {
    let mut rig = Rig::new(behind_a_proxy());
    for (user, header) in [("ann", LOCAL), ("bob", b"PROXY UNKNOWN\r\n"), ("cid", b"PROXY UNKNOWN ::1 ::1 1 2\r\n")] {
        let client = rig.join(header, user);
        assert_eq!(rig.peer_of(user), client.stream.local_addr().expect("a socket").to_string());
    }
    assert_eq!(rig.metric("lobbyd_proxy_headers_total{origin=\"proxy\"}"), 3.0);
}

/// HAProxy's health check: `LOCAL` with nothing behind it, and then a reset.
#[test]
fn a_health_check_that_resets_is_neither_charged_nor_counted_as_a_fault() {
    let config = Config { attempts_per_minute: Limit::at_most(1), attempt_burst: 1, ..behind_a_proxy() };
    let mut rig = Rig::new(config);
    for _ in 0..20 {
        let client = rig.open(LOCAL);
        socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).expect("a socket of TCP");
        rig.turns(1);
        drop(client);
        rig.turns(1);
    }
    // A check that connects and closes, without a header.
    drop(rig.open(b""));
    rig.turns(2);
    assert_eq!(rig.closes("hangup"), 1.0);
    let faults = ["signature", "malformed", "too_long", "family", "checksum", "timeout", "displaced"];
    assert!(faults.iter().all(|reason| rig.closes(reason) == 0.0));
    assert_eq!(rig.server.engine().stats().total_connections, 0);
    let _ann = rig.join(LOCAL, "ann");
}

#[test]
fn limits_per_address_count_the_clients_and_not_the_proxy() {
    let mut rig = Rig::new(Config { max_per_ip: Limit::at_most(1), ..behind_a_proxy() });
    let header = |address: &str| format!("PROXY TCP4 {address} 198.51.100.1 4000 443\r\n").into_bytes();
    let _ann = rig.join(&header("192.0.2.1"), "ann");
    let _bob = rig.join(&header("192.0.2.2"), "bob");
    let request = wire::upgrade_request("/ws/chess?token=cid", &[]);
    let mut cid = rig.open(&[header("192.0.2.1"), request].concat());
    assert!(matches!(cid.next(&mut rig.server), Received::Answer(101, _)));
    assert_eq!(cid.json(&mut rig.server)["code"], 4002);
}

/// A header that a proxy puts in front, and the `X-Forwarded-For` of another one in front of that.
#[test]
fn the_forwarded_header_counts_only_with_trusted_proxies() {
    for (trusted_proxies, expected) in [(0, "192.0.2.1"), (1, "203.0.113.9")] {
        let mut rig = Rig::new(Config { trusted_proxies, ..behind_a_proxy() });
        let request = wire::upgrade_request("/ws/chess?token=ann", &["X-Forwarded-For: 203.0.113.9"]);
        let mut ann = rig.open(&[V1, &request].concat());
        assert!(matches!(ann.next(&mut rig.server), Received::Answer(101, _)));
        ann.json(&mut rig.server);
        let answer: serde_json::Value = serde_json::from_str(&rig.ask("/users/ann")).expect("JSON");
        assert_eq!(answer["seats"][0]["address"], expected, "{answer}");
    }
}

#[test]
fn a_listed_proxy_must_send_a_header() {
    let mut rig = Rig::new(behind_a_proxy());
    let get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[0; 216]].concat();
    let long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\0"[..], &[0; 1000]].concat();
    let mut checksum = V2.to_vec();
    checksum[15] += 7;
    checksum.extend_from_slice(b"\x03\0\x04\x01\x02\x03\x04");
    for (bytes, reason) in [
        (&get[..], "signature"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "signature"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 http\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n", "malformed"),
        (&unix, "family"),
        (&long, "too_long"),
        (&[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(), "too_long"),
        (&checksum, "checksum"),
    ] {
        let before = rig.closes(reason);
        let mut client = rig.open(bytes);
        rig.expect_closed(&mut client);
        assert_eq!(rig.closes(reason), before + 1.0, "{}", bytes.escape_ascii());
    }
    assert_eq!(rig.server.engine().stats().counters.accepted, 0, "the engine has seen none of them");
}

/// From any other peer the header is a malformed request, so that no client chooses its address.
#[test]
fn a_header_of_a_peer_that_is_not_listed_is_refused() {
    let mut rig =
        Rig::new(Config { proxy_protocol: Some("192.0.2.0/24,unix:".parse().expect("addresses")), ..behind_a_proxy() });
    for header in [V1, V2, LOCAL] {
        let mut client = rig.open(header);
        assert!(matches!(client.next(&mut rig.server), Received::Answer(400, _)));
    }
    let mut client = Client::connect(rig.address, "chess", "ann");
    assert!(matches!(client.next(&mut rig.server), Received::Answer(101, _)));
    assert!(rig.peer_of("ann").starts_with("127.0.0.1:"));
}

/// A client that sends a header through the proxy: the proxy's own is in front of it.
#[test]
fn a_second_header_is_a_malformed_request() {
    let mut rig = Rig::new(behind_a_proxy());
    for (first, second) in [(V1, V1), (V2, V1), (V1, V2)] {
        let mut client = rig.open(&[first, second].concat());
        assert!(matches!(client.next(&mut rig.server), Received::Answer(400, _)));
    }
}

/// The operators' port never expects a header.
#[test]
fn the_admin_port_accepts_no_header() {
    let rig = &mut Rig::new(behind_a_proxy());
    let mut client = Client::open(rig.server.admin_addr().expect("admin is on"));
    client.send(V1);
    assert!(matches!(client.next(&mut rig.server), Received::Answer(400, _)));
}

#[test]
fn a_header_that_does_not_come_or_trickles_in_is_timed_out() {
    let config = Config { handshake_timeout: Duration::from_millis(50), ..behind_a_proxy() };
    let mut rig = Rig::new(config);
    let mut silent = rig.open(b"");
    rig.expect_closed(&mut silent);
    let mut slow = rig.open(b"PROXY");
    rig.turns(1);
    let mut bytes = b" TCP4 192.0.2.1 198.51.100.1 ".iter().cycle();
    for _ in 0..TURNS {
        match slow.stream.write(&[*bytes.next().expect("it cycles")]).and_then(|_| slow.stream.read(&mut [0; 16])) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => rig.turns(1),
            _ => break,
        }
    }
    assert_eq!(rig.closes("timeout") + rig.closes("malformed") + rig.closes("too_long"), 2.0);
    assert!(rig.closes("timeout") >= 1.0);
    assert_eq!(rig.metric("lobbyd_proxy_pending"), 0.0);
}

#[test]
fn the_oldest_connection_without_a_header_gives_way() {
    let mut rig = Rig::new(Config { max_pending: 3, ..behind_a_proxy() });
    let mut silent: Vec<Client> = Vec::new();
    for _ in 0..5 {
        silent.push(rig.open(b"PROXY"));
        rig.turns(2);
    }
    assert_eq!((rig.metric("lobbyd_proxy_pending"), rig.closes("displaced")), (3.0, 2.0));
    silent[..2].iter_mut().for_each(|client| rig.expect_closed(client));
    let _ann = rig.join(V1, "ann");
    let rest = [&V1[5..], &wire::upgrade_request("/ws/chess?token=bob", &[])].concat();
    silent[4].send(&rest);
    assert!(matches!(silent[4].next(&mut rig.server), Received::Answer(101, _)), "it still waits for its header");
}

/// A whole header that is in the kernel is not late, however late the server reads it.
#[test]
fn a_header_that_has_arrived_is_not_timed_out() {
    let mut rig = Rig::new(Config { handshake_timeout: Duration::from_millis(20), ..behind_a_proxy() });
    let mut client = rig.open(b"PROXY");
    rig.turns(1);
    client.send(&[&V1[5..], &wire::upgrade_request("/ws/chess?token=ann", &[])].concat());
    // The deadline passes by the server's own clock, and no turn reads the socket meanwhile.
    let sent_at = rig.now();
    while rig.now() < sent_at + Duration::from_millis(40) {
        std::thread::yield_now();
    }
    assert!(matches!(client.next(&mut rig.server), Received::Answer(101, _)));
}

#[cfg(unix)]
#[test]
fn a_local_proxy_may_use_a_socket_file() {
    use std::os::unix::net::UnixStream;

    use lobbyd::config::ListenAddress;

    let folder = crate::common::files::Folder::new("proxied-socket");
    let path = folder.0.join("lobbyd.sock");
    let listen = [ListenAddress::Unix(path.clone())].into_iter().collect();
    let config = Config { listen, proxy_protocol: Some("unix:".parse().expect("a list")), ..behind_a_proxy() };
    let server = Server::bind(config, Relay::default()).expect("a new file");
    let mut rig = Rig { server, address: ([127, 0, 0, 1], 0).into() };
    let mut stream = UnixStream::connect(path).expect("the server listens");
    stream.write_all(V2).expect("the socket takes it");
    rig.turns(2);
    stream.write_all(&wire::upgrade_request("/ws/chess?token=ann", &[])).expect("the socket takes it");
    rig.turns(3);
    assert_eq!(rig.peer_of("ann"), "192.0.2.1:56324");
}

/// Without the option nothing of it is in the metrics.
#[test]
fn metrics_of_headers_exist_with_the_option_only() {
    let mut rig = Rig::new(Config { proxy_protocol: None, ..behind_a_proxy() });
    assert!(!rig.ask("/metrics").contains("lobbyd_proxy"));
}

/// The check of descriptors and the memory count the sockets that wait.
#[test]
fn waiting_sockets_count_in_the_worst_case() {
    let (off, on) = (Config { proxy_protocol: None, ..behind_a_proxy() }, behind_a_proxy());
    assert_eq!(on.worst_case_sockets().zip(off.worst_case_sockets()).map(|(on, off)| on - off), Some(256));
    assert!(on.worst_case_memory() > off.worst_case_memory());
}
