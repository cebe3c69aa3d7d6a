//! Every violation of RFC 6455 by a client, and its close code.

use lobbyd::apps::Echo;
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{CloseReason, Config};

use crate::common::scenario::World;
use crate::common::witness::Witness;

const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// A frame with a given first byte, which may have reserved bits and opcodes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::frame(Opcode::BINARY, true, payload, MASK);
    bytes[0] = first;
    bytes
}

/// `frames` close the connection with `reason`, whole or byte by byte. Input after them is ignored.
#[track_caller]
fn check(frames: &[Vec<u8>], reason: CloseReason) {
    let bytes = frames.concat();
    for step in [usize::MAX, 1] {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run(
            "bob > connect chess\nbob < upgrade, welcome, presence_state\n\
             ann > connect chess\nann < upgrade, welcome, presence_state\nbob < presence_diff +ann",
        );
        for piece in bytes.chunks(step) {
            world.send("ann", piece);
        }
        world.send("ann", &wire::text(r#"{"type":"broadcast","data":"after"}"#));
        world.flush();
        let (code, word) = (reason.code(), reason.word());
        world.run(&format!(
            "ann < goodbye code={code} reason={word}, close {code} {word}, eof\nbob < presence_diff -ann:dropped"
        ));
        assert_eq!(world.engine.stats().counters.closed(reason), 1);
        let log = world.engine.app_mut().take();
        assert_eq!(log, ["join bob", "join ann", "leave ann dropped"], "nothing of it reached the application");
    }
}

#[test]
fn unmasked_frames_are_a_protocol_error() {
    for bytes in [&b"\x81\x00"[..], b"\x81\x02hi", b"\x82\x01x", b"\x89\x00", b"\x8a\x00", b"\x88\x02\x03\xe8"] {
        check(&[bytes.to_vec()], CloseReason::ProtocolError);
    }
}

#[test]
fn reserved_bits_are_a_protocol_error() {
    for bit in [0x40, 0x20, 0x10] {
        for opcode in [0x81, 0x82, 0x89, 0x8a, 0x88] {
            check(&[frame(bit | opcode, b"")], CloseReason::ProtocolError);
        }
    }
}

#[test]
fn reserved_opcodes_are_a_protocol_error() {
    for opcode in (3..=7).chain(11..=15) {
        check(&[frame(0x80 | opcode, b"")], CloseReason::ProtocolError);
        check(&[frame(0x80 | opcode, b"payload")], CloseReason::ProtocolError);
        check(&[frame(opcode, b"")], CloseReason::ProtocolError);
    }
}

#[test]
fn control_frames_must_be_whole_and_short() {
    for opcode in [Opcode::PING, Opcode::PONG, Opcode::CLOSE] {
        check(&[wire::frame(opcode, false, b"", MASK)], CloseReason::ProtocolError);
        check(&[wire::frame(opcode, true, &[0; 126], MASK)], CloseReason::ProtocolError);
    }
}

#[test]
fn fragments_must_follow_a_first_frame() {
    let part = |opcode, is_final| wire::frame(opcode, is_final, b"x", MASK);
    check(&[part(Opcode::CONTINUATION, true)], CloseReason::ProtocolError);
    check(&[part(Opcode::CONTINUATION, false)], CloseReason::ProtocolError);
    for begun in [Opcode::TEXT, Opcode::BINARY] {
        for next in [Opcode::TEXT, Opcode::BINARY] {
            check(&[part(begun, false), part(next, true)], CloseReason::ProtocolError);
            check(
                &[part(begun, false), part(Opcode::CONTINUATION, false), part(next, false)],
                CloseReason::ProtocolError,
            );
        }
    }
}

#[test]
fn text_is_utf8() {
    let text = |payload: &[u8]| wire::frame(Opcode::TEXT, true, payload, MASK);
    for bad in [
        &b"\xff"[..],
        b"ok\x80",
        b"\xc0\xaf",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"{\"type\":\"broadcast\",\"data\":\"\xc3\"}",
    ] {
        check(&[text(bad)], CloseReason::BadUtf8);
        // The same in two fragments.
        let (front, back) = bad.split_at(bad.len() / 2);
        let begun = wire::frame(Opcode::TEXT, false, front, MASK);
        check(&[begun, wire::frame(Opcode::CONTINUATION, true, back, MASK)], CloseReason::BadUtf8);
    }
    let mut reason = 1000_u16.to_be_bytes().to_vec();
    reason.extend(b"bye\xff");
    check(&[wire::frame(Opcode::CLOSE, true, &reason, MASK)], CloseReason::BadUtf8);
}

#[test]
fn a_message_too_big_is_refused_by_its_header() {
    let header = |bytes: &[u8]| [bytes, &MASK[..]].concat();
    for first in [0x81, 0x82, 0x01] {
        check(&[header(&[first, 0xff, 0, 0, 0, 0, 0, 1, 0, 1])], CloseReason::MessageTooBig);
        check(&[header(&[first, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])], CloseReason::MessageTooBig);
    }
    let half = wire::frame(Opcode::TEXT, false, &[b'x'; 40_000], MASK);
    check(&[half.clone(), wire::frame(Opcode::CONTINUATION, false, &[b'x'; 40_000], MASK)], CloseReason::MessageTooBig);
}

/// RFC 6455 section 5.2: a length takes the fewest bytes, and its most significant bit is 0.
#[test]
fn a_length_that_is_not_in_its_shortest_form_is_a_protocol_error() {
    let with_length = |first: u8, length: &[u8], payload: &[u8]| {
        let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key);
        [&[first], length, &MASK[..]].concat().into_iter().chain(masked).collect::<Vec<u8>>()
    };
    for first in [0x81, 0x82, 0x01, 0x89, 0x8a, 0x88] {
        for payload in [&b""[..], b"\x03\xe8", &[b'x'; 125]] {
            let length = payload.len() as u8;
            check(&[with_length(first, &[0xfe, 0, length], payload)], CloseReason::ProtocolError);
            check(&[with_length(first, &[0xff, 0, 0, 0, 0, 0, 0, 0, length], payload)], CloseReason::ProtocolError);
        }
        // Found by the header, before the payload arrives.
        for length in [&[0, 126][..], &[0xff, 0xff]] {
            check(
                &[with_length(first, &[&[0xff, 0, 0, 0, 0, 0, 0], length].concat(), b"")],
                CloseReason::ProtocolError,
            );
        }
        for top in [0x80, 0xff] {
            check(&[with_length(first, &[0xff, top, 0, 0, 0, 0, 0, 0, 1], b"")], CloseReason::ProtocolError);
        }
    }
    // The same in a continuation.
    let begun = wire::frame(Opcode::BINARY, false, b"x", MASK);
    check(&[begun, with_length(0x80, &[0xfe, 0, 1], b"x")], CloseReason::ProtocolError);
}

#[test]
fn a_close_frame_of_one_byte_is_a_protocol_error() {
    check(&[wire::frame(Opcode::CLOSE, true, b"\x03", MASK)], CloseReason::ProtocolError);
}

// ---- closing handshake ----

/// A close frame is answered with its own code, or with 1002 if that code must not be sent (RFC 6455 section 7.4).
#[track_caller]
fn check_close(payload: &[u8], answer: &str) {
    for step in [usize::MAX, 1] {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run("ann joins chess");
        for piece in wire::frame(Opcode::CLOSE, true, payload, MASK).chunks(step) {
            world.send("ann", piece);
        }
        world.send("ann", &wire::text(r#"{"type":"ping"}"#));
        world.flush();
        world.run(&format!("ann < {answer}, eof"));
        assert_eq!(world.engine.app_mut().take(), ["join ann", "leave ann left"]);
        world.run("ann > hangup");
        // A page that is left or reloaded sends 1001 or no code.
        let is_gone = matches!(payload, [] | [0x03, 0xe9, ..]);
        let reason = if is_gone { CloseReason::PeerGone } else { CloseReason::PeerClosed };
        assert_eq!(world.engine.stats().counters.closed(reason), 1);
    }
}

#[test]
fn a_close_is_echoed_once() {
    check_close(b"", "close 1005 ");
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999_u16] {
        check_close(&code.to_be_bytes(), &format!("close {code} "));
        check_close(&[&code.to_be_bytes()[..], b"see you"].concat(), &format!("close {code} see you"));
    }
    let longest = "x".repeat(123);
    check_close(&[b"\x03\xe8", longest.as_bytes()].concat(), &format!("close 1000 {longest}"));
}

#[test]
fn codes_that_must_not_be_sent_are_answered_with_1002() {
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535_u16] {
        check(&[wire::frame(Opcode::CLOSE, true, &code.to_be_bytes(), MASK)], CloseReason::ProtocolError);
    }
}

#[test]
fn the_answer_to_our_close_ends_the_connection_and_is_not_answered() {
    for end in ["close 1000", "close 4321", "hangup"] {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run("ann joins chess");
        world.run("ann > {\"type\":\"leave\"}\nann < goodbye, close 1000 left");
        // Until the answer comes, other input is read and dropped.
        world.run("ann > {\"type\":\"ping\"}\nann > ping x\nann > binary x\nann < nothing");
        world.steps(&format!("ann > {end}"));
        if end != "hangup" {
            world.run("ann < eof\nann > ping x\nann < nothing\nann > hangup");
        }
        assert_eq!(world.engine.stats().closing, 0);
        assert_eq!(world.engine.stats().counters.closed(CloseReason::Left), 1);
        assert_eq!(world.engine.stats().counters.closed_in_all(), 1);
    }
}

/// A peer that answers our close with an invalid frame gets no second close frame.
#[test]
fn a_protocol_error_while_closing_ends_the_connection() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann joins chess");
    world.run("ann > {\"type\":\"leave\"}\nann < goodbye, close 1000 left");
    world.send("ann", b"\x81\x02hi");
    world.flush();
    world.run("ann < eof");
    assert_eq!(world.engine.stats().counters.closed(CloseReason::ProtocolError), 0, "the first reason stands");
}

/// A peer that violates the protocol after our close frame has not sent its own and may go on sending. Its input is read and
/// dropped, as after any other protocol error: otherwise a reset would destroy the goodbye. This includes an error that ends
/// with the last byte received.
#[test]
fn after_a_protocol_error_while_closing_input_is_still_read() {
    let too_big = [&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1][..], &MASK].concat();
    let breaches = [
        too_big,
        frame(0x81, b"\xff\xff"),
        wire::frame(Opcode::PING, false, b"", MASK),
        wire::frame(Opcode::CONTINUATION, true, b"", MASK),
    ];
    for breach in breaches {
        for behind in [&b"x"[..], b""] {
            let mut world = World::new(Config::default(), Witness::<true>::default());
            world.run("ann joins chess");
            world.run("ann > {\"type\":\"leave\"}\nann < goodbye, close 1000 left");
            world.send("ann", &[&breach, behind].concat());
            world.flush();
            world.run("ann < eof");
            assert!(world.is_open("ann"), "{breach:02x?} and {} bytes: the socket is dropped at once", behind.len());
        }
    }
}

#[test]
fn pings_are_answered_with_their_payload_in_order() {
    let mut world = World::new(Config::default(), Echo);
    world.run("ann > get /\nann < upgrade");
    let mut bytes = Vec::new();
    for payload in [&b""[..], b"one", &[b'x'; 125]] {
        bytes.extend(wire::frame(Opcode::PING, true, payload, MASK));
        bytes.extend(wire::text("between"));
    }
    world.send("ann", &bytes);
    world.flush();
    world.run(&format!("ann < pong, between, pong one, between, pong {}, between", "x".repeat(125)));
    // In an application without JSON the close code alone reports the protocol error.
    world.send("ann", b"\x81\x00");
    world.flush();
    world.run("ann < close 1002 protocol_error, eof");
}
