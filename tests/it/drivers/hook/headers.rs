//! Headers of the client's request in a question.

use lobbyd::sim::wire::upgrade_request;

use super::*;

/// Sends a request with these lines. Returns the status of the answer.
#[track_caller]
fn status(server: &mut Server<Relay>, address: SocketAddr, lines: &[&str]) -> u16 {
    let mut client = Client::open(address);
    client.send(&upgrade_request("/ws/chess?token=ann", lines));
    match client.next(server) {
        Received::Answer(status, _) => status,
        other => panic!("{other:?}"),
    }
}

/// A proxy may append its line to one that the client has sent. Then it is not known whose is meant.
#[test]
fn a_header_of_a_question_occurs_once_in_the_request() {
    let secret = File::new("hook-secret-headers", SECRET);
    let backend =
        Backend::new(|call| if is_question(call) { Reply::allow("ann") } else { Reply::Answer(200, "{}".into()) });
    let headers = "x-user,cookie".parse().expect("names");
    let (mut server, address) = bind(Config { hook_headers: headers, ..config(&backend, &secret) });
    for lines in [["X-User: eve", "X-User: ann"], ["x-user: ann", "X-USER: ann"], ["X-User:", "X-User: ann"]] {
        assert_eq!(status(&mut server, address, &lines), 400, "{lines:?}");
    }
    assert_eq!(backend.calls.try_iter().filter(is_question).count(), 0);
    let lines = ["X-User: ann", "Cookie: a=1", "X-Other: 1", "Cookie: b=2; c=3", "X-Other: 2"];
    assert_eq!(status(&mut server, address, &lines), 101);
    let question = backend.calls.try_iter().find(is_question).expect("a question");
    assert_eq!(question.body["headers"], json!({"x-user": "ann", "cookie": "a=1; b=2; c=3"}));
}
