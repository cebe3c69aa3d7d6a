//! Several addresses, names and socket files to listen on. Only 127.0.0.1, ::1 and files of the test.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::{FileMode, Listen, ListenAddress};
use lobbyd::net::{ListenSocket, Server, Status};
use lobbyd::sim::wire::{self, Received};

use crate::common::files::Folder;
use crate::common::sockets::{BlockingClient, Client, SHORT};

fn bind(config: Config) -> Result<Server<Verbatim>, String> {
    Server::bind(config, Verbatim::default()).map_err(|error| error.to_string())
}

fn listening(listen: &str) -> Config {
    Config { listen: listen.parse().expect("addresses"), ..Config::default() }
}

/// Whether the machine has the address ::1. A test that needs it says so if not.
fn has_ipv6() -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        eprintln!("this machine does not have the address ::1: the test checks less");
    }
    has
}

/// A client of any kind of address.
type AnyClient = Client<Box<dyn Stream>>;

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

fn open(address: &ListenAddress) -> AnyClient {
    Client::over(match address {
        ListenAddress::Ip(address) => {
            let stream = TcpStream::connect(address).expect("the server listens");
            stream.set_nonblocking(true).expect("a socket can be set non-blocking");
            Box::new(stream)
        }
        ListenAddress::Unix(path) => {
            let stream = UnixStream::connect(path).expect("the server listens");
            stream.set_nonblocking(true).expect("a socket can be set non-blocking");
            Box::new(stream)
        }
        other => panic!("{other} is a name"),
    })
}

fn connect(address: &ListenAddress, user: &str) -> AnyClient {
    let mut client = open(address);
    client.send(&wire::upgrade_request(&format!("/ws/chess?token={user}"), &[]));
    client
}

/// Checks that members who use different addresses of the server reach each other.
#[track_caller]
fn check_all_served(server: &mut Server<Verbatim>) {
    let addresses = server.local_addrs().to_vec();
    let mut members: Vec<AnyClient> =
        addresses.iter().enumerate().map(|(n, address)| connect(address, &format!("u{n}"))).collect();
    for member in &mut members {
        assert!(matches!(member.next(server), Received::Answer(101, _)));
    }
    for sender in 0..members.len() {
        members[sender].send(&wire::text("move"));
        for (n, member) in members.iter_mut().enumerate() {
            if n != sender {
                assert_eq!(member.next(server), Received::Text("move".into()));
            }
        }
    }
}

#[test]
fn several_addresses_are_served_at_the_same_time() {
    let folder = Folder::new("several-addresses");
    let path = folder.0.join("lobbyd.sock");
    let config = listening(&format!("127.0.0.1:0,unix:{},127.0.0.1:0", path.display()));
    let mut server = bind(Config { admin: Some("127.0.0.1:0".parse().expect("an address")), ..config }).expect("free");
    let addresses = server.local_addrs();
    assert_eq!(addresses.len(), 3);
    assert_eq!(addresses[1], ListenAddress::Unix(path));
    assert_eq!(ListenAddress::Ip(server.local_addr().expect("there is one")), addresses[0]);
    assert_eq!(server.admin_addrs(), [ListenAddress::Ip(server.admin_addr().expect("there is one"))]);
    check_all_served(&mut server);
}

#[test]
fn operators_are_served_on_several_addresses_too() {
    let folder = Folder::new("admin-addresses");
    let admin: Listen = format!("unix:{},127.0.0.1:0", folder.0.join("admin.sock").display()).parse().expect("a list");
    let mut server = bind(Config { admin: Some(admin), ..listening("127.0.0.1:0") }).expect("free");
    for address in server.admin_addrs().to_vec() {
        let mut operator = open(&address);
        operator.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(matches!(operator.next(&mut server), Received::Answer(200, _)), "{address}");
    }
}

#[test]
fn localhost_is_both_families_with_one_port() {
    let mut server = bind(listening("localhost:0")).expect("free ports");
    let ports: Vec<SocketAddr> = server
        .local_addrs()
        .iter()
        .map(|address| match address {
            ListenAddress::Ip(address) => *address,
            other => panic!("{other} is not an IP address"),
        })
        .collect();
    assert_eq!(ports[0].ip().to_string(), "127.0.0.1");
    if has_ipv6() {
        assert_eq!(ports.len(), 2);
        assert_eq!((ports[1].ip().to_string(), ports[1].port()), ("::1".into(), ports[0].port()));
    }
    check_all_served(&mut server);
}

#[test]
fn the_unspecified_ipv6_address_takes_ipv4_unless_ipv4_has_a_listener_of_its_own() {
    if !has_ipv6() {
        return;
    }
    let port = |server: &Server<Verbatim>, index: usize| match &server.local_addrs()[index] {
        ListenAddress::Ip(address) => address.port(),
        other => panic!("{other} has no port"),
    };
    let mut server = bind(listening("[::]:0")).expect("a free port");
    for ip in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(ip.parse().expect("an address"), port(&server, 0));
        let mut client = connect(&ListenAddress::Ip(address), "ann");
        assert!(matches!(client.next(&mut server), Received::Answer(101, _)), "{address}");
    }
    let is_refused = || {
        let server = bind(listening("0.0.0.0:0,[::]:0")).expect("free ports");
        assert!(TcpStream::connect(("127.0.0.1", port(&server, 0))).is_ok());
        assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port(&server, 1))).is_ok());
        let refused = TcpStream::connect(("127.0.0.1", port(&server, 1))).map_err(|error| error.kind());
        matches!(refused, Err(ErrorKind::ConnectionRefused))
    };
    // Another test may listen on 127.0.0.1 with the same port.
    assert!((0..5).any(|_| is_refused()));
}

/// The budget of a turn is shared: a flood at one address does not keep the clients of another one waiting.
#[test]
fn listeners_take_turns() {
    let config = Config { accept_per_turn: 2, ..listening("127.0.0.1:0,127.0.0.1:0") };
    let mut server = bind(config).expect("free ports");
    let addresses = server.local_addrs().to_vec();
    let flood: Vec<AnyClient> = (0..100).map(|_| open(&addresses[0])).collect();
    let mut client = connect(&addresses[1], "ann");
    for _ in 0..3 {
        server.turn(SHORT).expect("the turn succeeds");
    }
    assert!(matches!(client.poll(), Some(Received::Answer(101, _))));
    let accepted = server.engine().stats().counters.accepted;
    assert!((4..=6).contains(&accepted), "{accepted} were accepted in three turns");
    drop(flood);
}

#[test]
fn a_socket_file_has_its_mode_and_is_removed_at_the_end() {
    let folder = Folder::new("socket-file");
    let path = folder.0.join("lobbyd.sock");
    let config = listening(&format!("unix:{}", path.display()));
    for (mode, expected) in [(Config::default().listen_mode, 0o660), (FileMode(0o602), 0o602)] {
        let server = bind(Config { listen_mode: mode, ..config.clone() }).expect("a new file");
        let file = fs::symlink_metadata(&path).expect("the file exists");
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, expected);
        assert!(server.local_addr().is_err(), "no IP address");
        drop(server);
        assert!(!path.exists(), "removed");
    }
    // A file of somebody else with the same name stays.
    let server = bind(config).expect("a new file");
    fs::remove_file(&path).expect("the file exists");
    fs::write(&path, "other").expect("the folder can be written");
    drop(server);
    assert_eq!(fs::read_to_string(&path).expect("the file exists"), "other");
}

#[test]
fn the_file_of_a_living_server_is_refused_and_a_stale_one_is_replaced() {
    let folder = Folder::new("stale-socket");
    let path = folder.0.join("lobbyd.sock");
    let config = listening(&format!("unix:{}", path.display()));
    let check_refused = |words: &str| {
        let error = bind(config.clone()).err().expect("it is refused");
        let start = format!("cannot listen on unix:{}: ", path.display());
        assert!(error.starts_with(&start) && error.contains(words), "{error}");
    };
    let mut server = bind(config.clone()).expect("a new file");
    check_refused("another server listens on it and has locked ");
    check_all_served(&mut server);
    drop(server);

    // A server of another program holds no lock: one that lives, one whose backlog is full, and one that is dead.
    let other = UnixListener::bind(&path).expect("the file was removed");
    check_refused("address in use");
    other.set_nonblocking(true).expect("a socket can be set non-blocking");
    let mut backlog = Vec::new();
    loop {
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a descriptor");
        client.set_nonblocking(true).expect("a socket can be set non-blocking");
        match client.connect(&socket2::SockAddr::unix(&path).expect("a short path")) {
            Ok(()) => backlog.push(client),
            Err(_) => break,
        }
    }
    check_refused("address in use");
    drop((other, backlog));
    assert!(path.exists());
    // A child process that another test starts has a copy of the listener until it executes its program.
    let mut attempts = (0..1_000_000).map(|_| {
        std::thread::yield_now();
        bind(config.clone())
    });
    let mut server = attempts.find_map(Result::ok).expect("the stale file is replaced");
    check_all_served(&mut server);
    drop(server);

    fs::write(&path, "precious").expect("the folder can be written");
    check_refused("the file exists and is no socket; name another file");
    assert_eq!(fs::read_to_string(&path).expect("the file exists"), "precious");
}

/// A read ends behind bytes with which descriptors were sent, although more bytes follow.
#[cfg(target_os = "linux")]
#[test]
fn descriptors_sent_over_a_socket_file_do_not_stall_what_follows_them() {
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    let folder = Folder::new("descriptors");
    let path = folder.0.join("lobbyd.sock");
    let mut server = bind(listening(&format!("unix:{}", path.display()))).expect("a new file");
    let address = ListenAddress::Unix(path.clone());
    let mut bob = connect(&address, "bob");
    assert!(matches!(bob.next(&mut server), Received::Answer(101, _)));
    let mut ann = UnixStream::connect(&path).expect("the server listens");
    ann.write_all(&wire::upgrade_request("/ws/chess?token=ann", &[])).expect("the server reads");
    while server.engine().stats().total_connections < 2 {
        server.turn(SHORT).expect("the turn succeeds");
    }
    ann.write_all(&wire::text("before")).expect("the server reads");
    let descriptors = [ann.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = sendmsg(&ann, &[IoSlice::new(&wire::text("with"))], &mut control, SendFlags::empty());
    sent.expect("the server reads");
    ann.write_all(&wire::text("after")).expect("the server reads");
    for text in ["before", "with", "after"] {
        assert_eq!(bob.next(&mut server), Received::Text(text.into()));
    }
}

#[test]
fn a_name_without_an_address_prevents_the_start() {
    let error = bind(listening("unknown.invalid:0")).err().expect("the name is reserved (RFC 6761 section 6.4)");
    assert!(error.starts_with("cannot listen on unknown.invalid:0: "), "{error}");
}

/// As at a restart under a service manager: what connects while the first server drains is served by the second one.
#[test]
fn a_draining_server_leaves_newcomers_at_a_given_socket_to_the_next_one() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let start = || {
        let socket = ListenSocket::Tcp(listener.try_clone().expect("a descriptor"));
        let config = Config { listen: address.into(), ..Config::default() }.check().expect("a valid configuration");
        Server::bind_with_sockets(config, Relay::default(), Some(1), vec![socket]).expect("the socket listens")
    };
    let mut first = start();
    let mut ann = BlockingClient::open(address);
    ann.stream.write_all(&wire::upgrade_request("/ws/a?token=ann", &[])).expect("connected");
    while first.engine().stats().total_connections == 0 {
        first.turn(None).expect("the loop runs");
    }
    first.handle().stop();
    first.turn(Some(Duration::ZERO)).expect("the loop runs");
    assert!(first.engine().is_draining());
    let mut bob = BlockingClient::open(address);
    bob.stream.write_all(&wire::upgrade_request("/ws/a?token=bob", &[])).expect("in the backlog");
    drop(ann);
    while !matches!(first.turn(None).expect("the loop runs"), Status::Stopped(_)) {}
    assert_eq!(first.engine().stats().counters.accepted, 1, "bob was left in the backlog");
    drop(first);
    let mut second = start();
    while second.engine().stats().total_connections == 0 {
        second.turn(None).expect("the loop runs");
    }
    assert!(matches!(bob.next(), Received::Answer(101, _)));
}

#[test]
fn a_given_socket_whose_address_is_not_listed_is_refused() {
    let socket = ListenSocket::Tcp(TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let address = socket.address().expect("an address");
    let config = listening("127.0.0.1:0").check().expect("a valid configuration");
    let refused = Server::bind_with_sockets(config, Relay::default(), None, vec![socket]).err().expect("it is refused");
    assert_eq!(
        refused.to_string(),
        format!("cannot listen on {address}: a socket was given for it, but it is not listed")
    );
}

/// A connection that was accepted just before the signal is served, and then drained like any member.
#[test]
fn a_drain_at_a_given_socket_waits_for_the_requests_of_accepted_connections() {
    let socket = ListenSocket::Tcp(TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let listen: Listen = [socket.address().expect("an address")].into_iter().collect();
    let config = Config { listen, ..Config::default() }.check().expect("a valid configuration");
    let mut server = Server::bind_with_sockets(config, Relay::default(), Some(1), vec![socket]).expect("it listens");
    let address = server.local_addr().expect("an address");
    let mut ann = BlockingClient::open(address);
    while server.engine().stats().pending == 0 {
        server.turn(None).expect("the loop runs");
    }
    server.handle().stop();
    server.turn(Some(Duration::ZERO)).expect("the loop runs");
    assert!(!server.engine().is_draining());
    ann.stream.write_all(&wire::upgrade_request("/ws/a?token=ann", &[])).expect("connected");
    while !server.engine().is_draining() {
        server.turn(None).expect("the loop runs");
    }
    assert!(matches!(ann.next(), Received::Answer(101, _)));
    assert_eq!(server.engine().stats().counters.joined, 1);
    drop(ann);
    // One that sends nothing is not waited for any longer than that.
    while !matches!(server.turn(None).expect("the loop runs"), Status::Stopped(_)) {}
}
