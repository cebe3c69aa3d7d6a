//! What is written is read again as it was; other bytes are refused.

use super::*;
use crate::base::limit::MAX_FILE_BYTES;
use crate::journal::format::write::Put;

#[test]
fn numbers_survive_a_round_trip() {
    for number in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
        let mut bytes = Vec::new();
        bytes.put_number(number);
        assert_eq!(EntryReader::new(&bytes).number(), Ok(number));
        assert_eq!(EntryReader::new(&bytes[..bytes.len() - 1]).number(), Err(BadEntry));
    }
    assert_eq!(EntryReader::new(&[0xff; 10]).number(), Err(BadEntry), "more than 64 bits");
}

#[test]
fn publishes_survive_a_round_trip() {
    let payload = || Payload::Json("[1]".into());
    let publish = |exclude: &[&str], key: Option<&str>| OperatorCommand::Publish {
        lobby: "chess".into(),
        payload: payload(),
        exclude: exclude.iter().map(|&user| user.into()).collect(),
        idempotency_key: key.map(str::to_owned),
    };
    for (command, form) in [
        // The form that older builds read and write.
        (publish(&[], None), 0),
        (publish(&["ann", ""], None), 8),
        (publish(&[], Some("key")), 8),
        (publish(&["bob"], Some("")), 8),
    ] {
        let mut bytes = Vec::new();
        bytes.put_operator(&command);
        assert_eq!(bytes[0], form);
        let mut from = EntryReader::new(&bytes);
        assert_eq!((from.operator(), from.is_empty()), (Ok(command), true));
        assert_eq!(EntryReader::new(&bytes[..bytes.len() - 1]).operator(), Err(BadEntry));
    }
}

#[test]
fn commands_of_lobby_control_survive_a_round_trip() {
    let change = |change| OperatorCommand::Change { lobby: "chess".into(), change };
    let data = |of, if_seq| LobbyChange::Data { of, if_seq, data: r#"{"a":1}"#.into() };
    let new = NewLobby::new(Duration::from_millis(1500));
    let whole = NewLobby {
        code: Some("a".into()),
        seats: vec!["ann".into(), "bob".into()],
        settings: Some(SettingsText("{}".into())),
        data: Some("{}".into()),
        pool: Some("duel".into()),
        ..new.clone()
    };
    for command in [
        change(data(None, None)),
        change(data(Some(SeatId(300)), Some(1 << 40))),
        change(LobbyChange::Settings(SettingsText("{}".into()))),
        change(LobbyChange::Host(SeatId(3))),
        change(LobbyChange::Ban("ann".into())),
        change(LobbyChange::Unban("ann".into())),
        OperatorCommand::Create(new),
        OperatorCommand::Create(whole),
    ] {
        let mut bytes = Vec::new();
        bytes.put_operator(&command);
        let mut from = EntryReader::new(&bytes);
        assert_eq!((from.operator(), from.is_empty()), (Ok(command), true));
        assert_eq!(EntryReader::new(&bytes[..bytes.len() - 1]).operator(), Err(BadEntry));
    }
}

#[test]
fn peers_survive_a_round_trip() {
    let addresses = ["10.0.0.1:4000", "[2001:db8::7%3]:1"].map(|text| text.parse().expect("an address"));
    for peer in addresses.into_iter().chain([Peer::Unix]) {
        let mut bytes = Vec::new();
        bytes.put_peer(peer);
        let mut from = EntryReader::new(&bytes);
        assert_eq!((from.peer(), from.is_empty()), (Ok(peer), true));
        assert_eq!(EntryReader::new(&bytes[..bytes.len() - 1]).peer(), Err(BadEntry));
    }
    assert_eq!(EntryReader::new(&[1, 2, 3, 4, 5, 6, 7, 8]).peer(), Err(BadEntry));
}

/// The contents are not recorded: they are `x` when they are read.
#[test]
fn a_file_is_recorded_with_its_length_only() {
    let file = |status, length| FileResponse::from_parts(status, "ETag: \"1\"\r\n".into(), length);
    for (status, length) in [(200, 300), (304, 0), (200, MAX_FILE_BYTES as u64)] {
        let facts = Facts {
            probe: None,
            is_head_request: true,
            address: IpAddr::from([10, 0, 0, 1]),
            is_origin_allowed: true,
            claim: Ok(None),
            entry: Ok(Entry::ORDINARY),
            cors: None,
            form: Err(PlainResponse::new(426, "no upgrade")),
            file: file(status, length).map(Box::new),
            list: None,
        };
        let mut bytes = Vec::new();
        bytes.put_facts(&facts);
        assert!(bytes.len() < 150, "{}", bytes.len());
        assert_eq!(EntryReader::new(&bytes).facts(Edition::CURRENT, 3), Ok(facts));
    }
    assert_eq!(file(200, MAX_FILE_BYTES as u64 + 1), None);
    assert_eq!(file(200, u64::MAX), None);
}

#[test]
fn facts_survive_a_round_trip() {
    let position = Position { epoch: 1, seq: Position::END - 1, n: 0 };
    let (session, was) = (SessionHash::from_bits(u128::MAX - 7), SessionHash::from_bits(300));
    let claim = |was, position| Ok(Some(Claim { session, was, position }));
    let response = PlainResponse::new(426, "no upgrade");
    let upgrade = |deflate| Upgrade { accept_key: "key".into(), subprotocol: Some("xxx".into()), deflate };
    let post = PostHead { length: 300, keep_alive: true, expects_continue: false };
    let cors = || Some(Cors::Origin("xxx".into()));
    let forms = [
        (Ok(Acceptance::WebSocket(upgrade(None))), None),
        (Ok(Acceptance::WebSocket(upgrade(Deflate::new(None)))), None),
        (Ok(Acceptance::WebSocket(upgrade(Deflate::new(Some(9))))), None),
        (Err(response.clone()), None),
        (Err(response), cors()),
        (Ok(Acceptance::Events), None),
        (Ok(Acceptance::Events), Some(Cors::Any)),
        (Ok(Acceptance::Post(post)), cors()),
    ];
    for claim in [
        Ok(None),
        Err(BadClaim),
        claim(None, None),
        claim(Some(was), None),
        claim(None, Some(position)),
        claim(Some(was), Some(position)),
    ] {
        for (form, cors) in forms.clone() {
            let address = IpAddr::from([10, 0, 0, 1]);
            let facts = Facts {
                probe: None,
                is_head_request: true,
                address,
                is_origin_allowed: false,
                claim,
                entry: Ok(Entry::ORDINARY),
                cors,
                form,
                file: None,
                list: None,
            };
            let mut bytes = Vec::new();
            bytes.put_facts(&facts);
            let read = |bytes, edition| {
                let mut from = EntryReader::new(bytes);
                (from.facts(edition, 3), from.left())
            };
            assert_eq!(read(&bytes, Edition::Third), (Ok(facts.clone()), 0));
            let cut = &bytes[..bytes.len() - 1];
            assert_eq!(read(cut, Edition::Third).0, Err(BadEntry));
            // The facts of earlier editions end before the claim.
            let without_claim = Facts { claim: Ok(None), ..facts };
            let mut bytes = Vec::new();
            bytes.put_facts(&without_claim);
            assert_eq!(read(&bytes[..bytes.len() - 1], Edition::Second), (Ok(without_claim), 0));
        }
    }
}

#[test]
fn requests_for_the_list_of_lobbies_survive_a_round_trip() {
    let tag = |key: &str| (key.into(), "v".into());
    let filter = ListFilter { pool: Some("p".into()), tags: vec![tag("a"), tag("b")] };
    let lists = [
        Ok(ListQuery::default()),
        Ok(ListQuery { filter: filter.clone(), after: Position::END - 1 }),
        Err(PlainResponse::new(400, "a bad query")),
    ];
    for list in lists {
        let facts = Facts {
            probe: None,
            is_head_request: false,
            address: IpAddr::from([10, 0, 0, 1]),
            is_origin_allowed: true,
            claim: Ok(None),
            entry: Ok(Entry::ORDINARY),
            cors: Some(Cors::Any),
            form: Err(PlainResponse::new(426, "no upgrade")),
            file: None,
            list: Some(Box::new(list)),
        };
        let mut bytes = Vec::new();
        bytes.put_facts(&facts);
        assert_eq!(EntryReader::new(&bytes[..bytes.len() - 1]).facts(Edition::CURRENT, 3), Err(BadEntry));
        assert_eq!(EntryReader::new(&bytes).facts(Edition::CURRENT, 3), Ok(facts));
    }
    for filter in [None, Some(filter)] {
        let decisions = Decisions { destination: Some(Destination::Lobbies(filter)), ..Decisions::default() };
        let mut bytes = Vec::new();
        bytes.put_decisions(&decisions);
        assert_eq!(EntryReader::new(&bytes).decisions(), Ok(decisions));
    }
    // No client can ask for this: keys out of order, one twice, an empty value, a long name, too many tags.
    let tags = |keys: &[&str]| ListFilter { pool: None, tags: keys.iter().map(|key| tag(key)).collect() };
    let pool = |name: String| ListFilter { pool: Some(name.into()), tags: Vec::new() };
    let bad =
        [tags(&["b", "a"]), tags(&["a", "a"]), tags(&[""]), pool("x".repeat(33)), tags(&["a", "b", "c", "d", "e"])];
    for filter in bad {
        let mut bytes = Vec::new();
        bytes.put_list_filter(&filter);
        assert_eq!(EntryReader::new(&bytes).list_filter(), Err(BadEntry), "{filter:?}");
    }
}

#[test]
fn the_ways_to_enter_a_lobby_survive_a_round_trip() {
    let facts = |entry| Facts {
        probe: None,
        is_head_request: false,
        address: IpAddr::from([10, 0, 0, 1]),
        is_origin_allowed: true,
        claim: Ok(None),
        entry,
        cors: None,
        form: Ok(Acceptance::Events),
        file: None,
        list: None,
    };
    let password = PasswordHash::of("a rose");
    let mut lengths = Vec::new();
    for entry in [
        Ok(Entry::ORDINARY),
        Err(entry::BadEntry),
        Ok(Entry { create: false, ..Entry::ORDINARY }),
        Ok(Entry { role: Role::Watch, seats: Some(300), ..Entry::ORDINARY }),
        Ok(Entry { create: false, role: Role::Watch, password, seats: Some(u32::MAX) }),
    ] {
        let mut bytes = Vec::new();
        bytes.put_facts(&facts(entry));
        let mut from = EntryReader::new(&bytes);
        assert_eq!((from.facts(Edition::Third, 3), from.left()), (Ok(facts(entry)), 0));
        assert_eq!(EntryReader::new(&bytes[..bytes.len() - 1]).facts(Edition::Third, 3), Err(BadEntry));
        assert!(!bytes.windows(6).any(|window| window == b"a rose"));
        lengths.push(bytes.len());
    }
    assert_eq!(lengths, [lengths[0], lengths[0] + 1, lengths[0] + 3, lengths[0] + 5, lengths[0] + 24]);
    for bytes in [&[2, 0, 0][..], &[9, 0, 0], &[1, 2, 0], &[1, 0, 1, 0]] {
        assert_eq!(EntryReader::new(bytes).entry(), Err(BadEntry), "{bytes:?}");
    }
}

#[test]
fn a_claim_of_another_form_is_no_entry() {
    let mut bytes = vec![1];
    bytes.put_bytes(&[7; 16]);
    bytes.put_bytes(&[0, 1]);
    for number in [1, 2, Position::END] {
        bytes.put_number(number);
    }
    assert_eq!(EntryReader::new(&bytes).claim(), Err(BadEntry), "a number that no client can send");
    for (at, value) in [(0, 3), (17, 2), (18, 2)] {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        assert_eq!(EntryReader::new(&bytes).claim(), Err(BadEntry), "{value} at {at}");
    }
}

#[test]
fn a_shape_keeps_only_the_line_ends_of_a_request() {
    for text in ["GET /ws/a?token=secret HTTP/1.1\r\nA: b\r\n\r\n", "\n", "", "x", "get\r", "\r\r\nA", "Ab\n"] {
        let mut bytes = Vec::new();
        bytes.put_shape(text.as_bytes());
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        let mut shape = Vec::new();
        EntryReader::new(&bytes).shape(&mut shape).expect("put_shape() wrote it");
        assert_eq!(shape.len(), text.len());
        for (at, (original, read)) in text.bytes().zip(shape).enumerate() {
            let expected = match original {
                b'\r' | b'\n' => original,
                _ if at == 0 && original.is_ascii_uppercase() => b'X',
                _ => b'x',
            };
            assert_eq!(read, expected, "{text:?} at {at}");
        }
    }
}
