//! Crowds of clients: those that go before they are answered, and floods from one address.

use lobbyd::sim::wire::upgrade_request;

use super::*;

/// A backend that answers no question until the sender is dropped, and then allows all.
fn gated() -> (Backend, Sender<()>) {
    let (gate, closed) = channel::<()>();
    let backend = Backend::new(move |call| match call.body["token"].as_str() {
        None => Reply::Answer(200, "{}".into()),
        Some(user) => {
            closed.recv().expect_err("the test sends nothing");
            Reply::allow(user)
        }
    });
    (backend, gate)
}

/// One question is asked at a time.
fn patient(backend: &Backend, secret: &File) -> Config {
    Config { max_hook_calls: 1, trusted_proxies: 1, ..config(backend, secret) }
}

/// Connects as a client with this address.
fn connect(server: SocketAddr, address: &str, token: &str) -> Client {
    let mut client = Client::open(server);
    let header = format!("X-Forwarded-For: {address}");
    client.send(&upgrade_request(&format!("/ws/chess?token={token}"), &[&header]));
    client
}

#[track_caller]
fn wait_for(server: &mut Server<Relay>, name: &str, value: f64) {
    for _ in 0..1000 {
        if metric(server, name) == value {
            return;
        }
    }
    panic!("{name} is {} and not {value}", metric(server, name));
}

/// Returns the user of the `welcome`, or the close code.
#[track_caller]
fn outcome(server: &mut Server<Relay>, client: &mut Client) -> Result<String, u16> {
    loop {
        match client.next(server) {
            Received::Close(code, _) => return Err(code),
            Received::Text(text) if text.contains("\"welcome\"") => {
                let object: Value = serde_json::from_str(&text).expect("JSON");
                return Ok(object["user"].as_str().expect("a user").to_owned());
            }
            _ => {}
        }
    }
}

const PENDING: &str = "lobbyd_hook_questions_pending";

#[test]
fn clients_that_have_gone_are_not_asked_about() {
    let secret = File::new("hook-secret-gone", SECRET);
    let (backend, gate) = gated();
    let (mut server, address) = bind(patient(&backend, &secret));
    let mut first = connect(address, "192.0.2.1", "first");
    wait_for(&mut server, PENDING, 1.0);
    let gone: Vec<Client> = (0..10).map(|n| connect(address, "192.0.2.9", &format!("gone-{n}"))).collect();
    wait_for(&mut server, PENDING, 11.0);
    drop(gone);
    let mut last = connect(address, "192.0.2.2", "last");
    wait_for(&mut server, PENDING, 12.0);
    assert_eq!(server.engine().stats().pending, 2, "the server has noticed that they have gone");
    drop(gate);
    assert_eq!(outcome(&mut server, &mut first), Ok("first".into()));
    assert_eq!(outcome(&mut server, &mut last), Ok("last".into()));
    let asked: Vec<Call> = backend.calls.try_iter().filter(is_question).collect();
    let tokens: Vec<&str> = asked.iter().filter_map(|call| call.body["token"].as_str()).collect();
    assert_eq!(tokens, ["first", "last"]);
    assert_eq!(metric(&mut server, "lobbyd_hook_questions_total{result=\"gone\"}"), 10.0);
}

#[test]
fn a_flood_of_one_address_takes_no_place_of_others_in_the_queue() {
    let secret = File::new("hook-secret-crowd", SECRET);
    let (backend, gate) = gated();
    let (mut server, address) = bind(Config { max_hook_questions: 4, ..patient(&backend, &secret) });
    let mut flood = vec![connect(address, "192.0.2.9", "flood")];
    wait_for(&mut server, PENDING, 1.0);
    flood.extend((0..7).map(|n| connect(address, "192.0.2.9", &format!("flood-{n}"))));
    wait_for(&mut server, "lobbyd_hook_questions_total{result=\"overflow\"}", 3.0);
    let mut ann = connect(address, "192.0.2.1", "ann");
    let mut bob = connect(address, "192.0.2.2", "bob");
    wait_for(&mut server, "lobbyd_hook_questions_total{result=\"overflow\"}", 5.0);
    drop(gate);
    assert_eq!(outcome(&mut server, &mut ann), Ok("ann".into()));
    assert_eq!(outcome(&mut server, &mut bob), Ok("bob".into()));
    let outcomes: Vec<_> = flood.iter_mut().map(|client| outcome(&mut server, client)).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err(4101)).count(), 5, "{outcomes:?}");
}
