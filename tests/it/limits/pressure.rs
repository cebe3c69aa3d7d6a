//! Slow readers as the application sees them: watermarks, counts, and frames that are replaced by newer ones.

use lobbyd::config::ByteSize;
use lobbyd::sending::Sent;
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{CloseReason, Config, ConnId, Exclude, Frame};

use crate::common::scenario::World;
use crate::common::witness::{React, Witness};

/// Watermarks at 1000 and 300 bytes, and an outbox of 20 000.
fn watermarks() -> Config {
    Config {
        outbound_high_mark: ByteSize(1000),
        outbound_low_mark: ByteSize(300),
        max_outbound_bytes: ByteSize(20_000),
        max_message_bytes: ByteSize(1000),
        history_bytes: ByteSize(2000),
        direct_bytes: ByteSize(500),
        ..Config::default()
    }
}

/// An application without messages of its own, and `ann` in the lobby `a`, whose socket takes nothing.
fn with_ann(react: React) -> (World<Witness<false>>, ConnId) {
    let mut world = World::new(watermarks(), Witness::reacting(react));
    world.run("ann > connect a\nann < upgrade\nann > window 0");
    world.engine.app_mut().take();
    let ann = world.conn("ann");
    (world, ann)
}

/// A frame of 100 bytes on the wire, with a text of the given letter.
fn hundred(letter: char) -> Frame {
    let frame = Frame::text(&String::from(letter).repeat(98));
    assert_eq!(frame.as_bytes().len(), 100);
    frame
}

/// Number of frames of 100 bytes that fit into 20 000, with 64 bytes of overhead for each frame queued before.
const FULL: usize = (20_000 - 100) / (100 + 64) + 1;

/// Ann's socket takes this many more bytes.
fn read(world: &mut World<Witness<false>>, bytes: usize) {
    world.act("ann", &format!("window {bytes}"));
    let ann = world.conn("ann");
    world.engine.handle_writable(world.now, ann);
    world.flush();
    world.engine.check();
}

/// The first letters of the frames that ann received.
fn letters(world: &mut World<Witness<false>>) -> String {
    world.take("ann").iter().map(|text| text.chars().next().expect("a letter")).collect()
}

fn queued(world: &mut World<Witness<false>>, conn: ConnId) -> usize {
    let queued = world.app(|_, cx| cx.queued_bytes(conn));
    assert_eq!(world.engine.queued_bytes(conn), queued);
    queued
}

// ---- watermarks ----

#[test]
fn pressure_is_reported_at_the_high_and_low_watermarks() {
    let (mut world, ann) = with_ann(|_, _, _| {});
    let send = |world: &mut World<Witness<false>>, count: usize| {
        (0..count).for_each(|_| assert!(world.app(|_, cx| cx.send_to_conn(ann, &hundred('x')))));
        (queued(world, ann), world.engine.app_mut().take())
    };
    let nothing: Vec<String> = Vec::new();
    assert_eq!(send(&mut world, 10), (1000, nothing.clone()), "the watermark itself is not above it");
    assert_eq!(send(&mut world, 1), (1100, vec!["pressure ann high 1100".into()]));
    assert_eq!(send(&mut world, 5), (1600, nothing.clone()), "it is reported once");
    read(&mut world, 1299);
    assert_eq!((queued(&mut world, ann), world.engine.app_mut().take()), (301, nothing.clone()));
    // Between the watermarks nothing is reported.
    assert_eq!(send(&mut world, 10), (1301, nothing.clone()));
    read(&mut world, 1001);
    assert_eq!((queued(&mut world, ann), world.engine.app_mut().take()), (300, vec!["pressure ann low 300".into()]));
    read(&mut world, 300);
    assert_eq!((queued(&mut world, ann), world.engine.app_mut().take()), (0, nothing.clone()));
    // The same a second time.
    read(&mut world, 0);
    assert_eq!(send(&mut world, 10), (1000, nothing.clone()));
    assert_eq!(send(&mut world, 1), (1100, vec!["pressure ann high 1100".into()]));
    assert_eq!(letters(&mut world), "x".repeat(26));
    world.act("ann", "read");
    world.flush();
    assert_eq!(letters(&mut world), "x".repeat(11));
    assert_eq!(world.engine.app_mut().take(), ["pressure ann low 0"]);
}

#[test]
fn one_frame_can_cross_both_watermarks() {
    let (mut world, ann) = with_ann(|_, _, _| {});
    let long = Frame::binary(&[0; 5000]);
    assert!(world.app(|_, cx| cx.send_to_conn(ann, &long)));
    world.act("ann", "read");
    world.flush();
    let size = long.as_bytes().len();
    assert_eq!(world.engine.app_mut().take(), [format!("pressure ann high {size}"), "pressure ann low 0".into()]);
    world.take("ann");
}

/// The pongs that a member's own pings cause count like other frames.
#[test]
fn pongs_count_towards_the_watermarks() {
    let (mut world, ann) = with_ann(|_, _, _| {});
    let ping = wire::frame(Opcode::PING, true, &[b'p'; 123], [1; 4]);
    for _ in 0..8 {
        world.send("ann", &ping);
        world.flush();
    }
    assert_eq!((queued(&mut world, ann), world.engine.app_mut().take()), (1000, vec![]));
    world.send("ann", &ping);
    world.flush();
    assert_eq!(world.engine.app_mut().take(), ["pressure ann high 1125"]);
    world.act("ann", "read");
    world.flush();
    assert_eq!(world.take("ann").len(), 9);
    assert_eq!(world.engine.app_mut().take(), ["pressure ann low 0"]);
}

/// A snapshot too large for the outbox removes the older one, which may bring the queue below the low watermark.
#[test]
fn a_dropped_snapshot_no_longer_counts() {
    let (mut world, ann) = with_ann(|_, _, _| {});
    assert!(world.app(|_, cx| cx.send_to_conn(ann, &hundred('x'))));
    assert!(world.app(|_, cx| cx.send_latest_to_conn(ann, 1, &Frame::binary(&[0; 1000]))));
    assert_eq!(world.engine.app_mut().take(), ["pressure ann high 1104"]);
    assert!(!world.app(|_, cx| cx.send_latest_to_conn(ann, 1, &Frame::binary(&[0; 20_000]))));
    assert_eq!(world.engine.app_mut().take(), ["pressure ann low 100"]);
}

/// Pressure is dispatched as a separate event, and the application may close the member during it.
#[test]
fn pressure_is_reported_before_the_leave_and_never_after_it() {
    let (mut world, ann) = with_ann(|cx, member, event| {
        if event.starts_with("pressure ann high") {
            cx.close(member.expect("ann").conn(), CloseReason::Kicked);
        }
    });
    world.app(|witness, cx| {
        for _ in 0..12 {
            cx.send_to_conn(ann, &hundred('x'));
        }
        assert!(witness.take().is_empty(), "no call runs inside another");
    });
    assert_eq!(world.engine.app_mut().take(), ["pressure ann high 1100", "leave ann kicked"]);
    world.act("ann", "read");
    world.flush();
    let got = world.take("ann");
    assert_eq!((got.len(), got[12].as_str()), (13, "close 4003 kicked"), "queued frames are delivered");
    assert_eq!(world.engine.app_mut().take(), [""; 0]);
}

/// An application that pauses at the high watermark and resumes at the low one loses no member.
#[test]
fn an_application_that_follows_the_watermarks_loses_no_member() {
    let (mut world, ann) = with_ann(|_, _, _| {});
    let (mut paused, mut sent, mut got) = (false, 0, 0);
    for round in 0..2000 {
        if !paused {
            assert!(world.app(|_, cx| cx.send_to_conn(ann, &hundred('x'))));
            sent += 1;
        }
        if round % 7 == 0 {
            read(&mut world, 150);
            got += world.take("ann").len();
        }
        for event in world.engine.app_mut().take() {
            paused = event.starts_with("pressure ann high");
        }
        assert!(queued(&mut world, ann) <= 1100);
    }
    assert!((400..500).contains(&sent), "the sender follows the pace of the reader: {sent}");
    world.act("ann", "read");
    world.flush();
    assert_eq!(got + world.take("ann").len(), sent);
}

#[test]
fn nothing_is_queued_for_a_closed_connection() {
    let (mut world, ann) = with_ann(|_, _, _| {});
    assert!(world.app(|_, cx| cx.send_to_conn(ann, &hundred('x'))));
    assert_eq!(queued(&mut world, ann), 100);
    world.run("ann > hangup\nadvance 2s\nbob > connect a\nbob < upgrade\nbob > window 0");
    assert_eq!(world.conn("bob").index(), ann.index());
    assert_eq!(queued(&mut world, ann), 0);
    world.app(|_, cx| {
        assert!(!cx.send_to_conn(ann, &hundred('y')));
        assert!(!cx.send_latest_to_conn(ann, 1, &hundred('y')));
    });
    let bob = world.conn("bob");
    assert_eq!(queued(&mut world, bob), 0);
}

// ---- counts of a broadcast ----

#[test]
fn a_broadcast_counts_queued_dropped_and_excluded_receivers() {
    let mut world = World::new(watermarks(), Witness::<false>::default());
    for name in ["ann", "bob", "cid", "dan"] {
        world.run(&format!("{name} > connect a\n{name} < upgrade"));
    }
    let bob = world.conn("bob");
    let sent = |queued, dropped, excluded| Sent { queued, dropped, excluded };
    world.app(|_, cx| {
        let frame = hundred('x');
        assert_eq!(cx.broadcast_to_lobby("a", Exclude::None, &frame), sent(4, 0, 0));
        assert_eq!(cx.broadcast_to_lobby("a", Exclude::Conn(bob), &frame), sent(3, 0, 1));
        assert_eq!(cx.broadcast_to_lobby("a", Exclude::User("eve"), &frame), sent(4, 0, 0));
        assert_eq!(cx.broadcast_to_lobby("a", Exclude::Users(&["ann", "dan", "eve"]), &frame), sent(2, 0, 2));
        assert_eq!(cx.broadcast_latest("a", Exclude::User("ann"), 7, &frame), sent(3, 0, 1));
        assert_eq!(cx.broadcast_to_lobby("nowhere", Exclude::None, &frame), sent(0, 0, 0));
        assert_eq!(cx.send_to_user("cid", &frame), sent(1, 0, 0));
        assert_eq!(cx.send_to_user("eve", &frame), sent(0, 0, 0));
    });
    for (name, frames) in [("ann", 3), ("bob", 4), ("cid", 6), ("dan", 4)] {
        assert_eq!(world.take(name).len(), frames, "{name}");
    }
    // Bob's socket takes nothing more.
    world.act("bob", "window 0");
    for n in 0..FULL + 1 {
        let got = world.app(|_, cx| cx.broadcast_to_lobby("a", Exclude::User("ann"), &hundred('y')));
        assert_eq!(got, if n < FULL { sent(3, 0, 1) } else { sent(2, 1, 1) }, "{n}");
    }
    assert_eq!(world.app(|_, cx| cx.broadcast_to_lobby("a", Exclude::None, &hundred('z'))), sent(3, 0, 0));
    let log = world.engine.app_mut().take();
    assert_eq!(log[4..], ["pressure bob high 1100", "leave bob slow"]);
    world.steps("bob > read\nbob < close 4102 slow_consumer\nbob < nothing");
    assert_eq!(world.engine.stats().counters.closed(CloseReason::SlowConsumer), 1);
}

// ---- latest wins ----

#[test]
fn a_latest_frame_replaces_the_older_one_of_its_key() {
    let (mut world, ann) = with_ann(|_, _, _| {});
    let latest = |world: &mut World<Witness<false>>, key: u64, letter: char| {
        assert!(world.app(|_, cx| cx.send_latest_to_conn(ann, key, &hundred(letter))));
    };
    let replaced = |world: &World<Witness<false>>| world.engine.stats().counters.frames_replaced;
    latest(&mut world, 1, 'a');
    latest(&mut world, 2, 'b');
    world.app(|_, cx| assert!(cx.send_to_conn(ann, &hundred('r'))));
    assert_eq!(replaced(&world), 0);
    // The new frame is queued behind frames sent meanwhile, since it may refer to them.
    latest(&mut world, 1, 'c');
    assert_eq!((queued(&mut world, ann), replaced(&world)), (300, 1));
    // A partly written frame is completed, and the new one follows it.
    read(&mut world, 30);
    latest(&mut world, 2, 'd');
    latest(&mut world, 2, 'e');
    assert_eq!((queued(&mut world, ann), replaced(&world)), (370, 2));
    world.act("ann", "read");
    world.flush();
    assert_eq!(letters(&mut world), "brce");
    // A delivered frame is not replaced.
    latest(&mut world, 1, 'f');
    latest(&mut world, 1, 'g');
    assert_eq!((letters(&mut world).as_str(), replaced(&world)), ("fg", 2));
}

#[test]
fn a_slow_member_gets_the_newest_snapshot_and_no_other() {
    let mut world = World::new(watermarks(), Witness::<false>::default());
    world.run("ann > connect a\nann < upgrade\nbob > connect a\nbob < upgrade\nann > window 0");
    for n in 0..1000 {
        let frame = Frame::text(&format!("snapshot {n}"));
        let sent = world.app(|_, cx| cx.broadcast_latest("a", Exclude::None, 1, &frame));
        assert_eq!(sent, Sent { queued: 2, dropped: 0, excluded: 0 });
    }
    assert_eq!(world.take("bob").len(), 1000);
    world.run("ann > read\nann < snapshot 999");
    let counters = world.engine.stats().counters;
    assert_eq!((counters.frames_replaced, counters.frames_dropped), (999, 0));
    assert_eq!(world.engine.app_mut().take(), ["join ann", "join bob"], "no watermark was crossed");
}

/// A snapshot that does not fit is dropped. This does not close the connection.
#[test]
fn a_snapshot_without_room_is_dropped_and_its_receiver_stays() {
    let (mut world, ann) = with_ann(|_, _, _| {});
    (0..FULL).for_each(|_| assert!(world.app(|_, cx| cx.send_to_conn(ann, &hundred('r')))));
    let sent = world.app(|_, cx| cx.broadcast_latest("a", Exclude::None, 1, &hundred('s')));
    assert_eq!(sent, Sent { queued: 0, dropped: 1, excluded: 0 });
    assert!(!world.app(|_, cx| cx.send_latest_to_conn(ann, 1, &hundred('t'))));
    assert_eq!(world.engine.stats().counters.frames_dropped, 2);
    world.act("ann", "read");
    world.flush();
    assert_eq!(letters(&mut world), "r".repeat(FULL));
    let sent = world.app(|_, cx| cx.broadcast_latest("a", Exclude::None, 1, &hundred('u')));
    assert_eq!((sent.queued, letters(&mut world).as_str()), (1, "u"));
    // A frame that is not a snapshot is never dropped silently.
    world.act("ann", "window 0");
    (0..FULL).for_each(|_| assert!(world.app(|_, cx| cx.send_to_conn(ann, &hundred('r')))));
    assert!(!world.app(|_, cx| cx.send_to_conn(ann, &hundred('v'))));
    world.run("ann > read\nann < close 4102 slow_consumer");
}

/// Pongs and pings keep their position when snapshots around them are replaced.
#[test]
fn control_frames_are_never_dropped() {
    let (mut world, ann) = with_ann(|_, _, _| {});
    let latest = |world: &mut World<Witness<false>>, text: &str| {
        assert!(world.app(|_, cx| cx.send_latest_to_conn(ann, 0, &Frame::text(text))));
    };
    latest(&mut world, "one");
    world.steps("ann > ping 1");
    latest(&mut world, "two");
    world.steps("advance 20s\nann > ping 2");
    latest(&mut world, "three");
    // The server's own ping waited between the two pongs.
    world.run("ann > read\nann < pong 1, ping, pong 2, three");
    // The same if there is no room for a snapshot.
    world.act("ann", "window 0");
    (0..FULL - 1).for_each(|_| assert!(world.app(|_, cx| cx.send_to_conn(ann, &hundred('r')))));
    world.steps("ann > ping 3");
    assert!(!world.app(|_, cx| cx.send_latest_to_conn(ann, 0, &hundred('s'))));
    world.act("ann", "read");
    world.flush();
    assert_eq!(world.take("ann").last().expect("a frame was received"), "pong 3");
}
