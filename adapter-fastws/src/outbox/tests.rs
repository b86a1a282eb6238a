//! Frames come out in order for every behaviour of the socket; a notice tells of missing ones.

mod load;
mod property;

use super::*;
use crate::frame;

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a name")
}

fn text(text: &str) -> Frame {
    Frame::new(FrameKind::Text, &[text.as_bytes()])
}

fn policy(slow: SlowClient, limit: usize) -> Policy {
    Policy { limit, slow, gaps: Gaps::default() }
}

fn joined(slices: &[IoSlice<'_>]) -> Vec<u8> {
    slices.iter().flat_map(|slice| slice.iter().copied()).collect()
}

impl Outbox {
    /// A reply of one part.
    fn say(&mut self, text: &str) {
        self.reply(FrameKind::Text, &[text.as_bytes()]);
    }

    fn publish(&mut self, name: &str, message: &str, policy: &Policy) {
        self.event(&topic(name), text(message).bytes(), policy);
    }

    /// Writes at most `most` bytes; the socket is then full if anything is left.
    fn take(&mut self, most: usize, into: &mut Vec<u8>) {
        self.write(|slices| {
            let all = joined(slices);
            let taken = all.len().min(most);
            into.extend(&all[..taken]);
            Ok(taken)
        })
        .expect("memory takes it");
        self.blocked = !self.is_empty();
        self.check();
    }

    fn take_all(&mut self, into: &mut Vec<u8>) {
        while !self.is_empty() {
            self.take(usize::MAX, into);
        }
    }

    /// Checks the byte counts, and that no two notices stand for one run of losses.
    fn check(&self) {
        self.queue.check();
        let mut told: Vec<&Topic> = Vec::new();
        for piece in &self.queue.pieces {
            match &piece.kind {
                Kind::Gap(topic) => {
                    assert!(!told.contains(&topic), "two notices for one run of {topic}");
                    told.push(topic);
                }
                Kind::Event(topic) => told.retain(|other| *other != topic),
                Kind::Mixed => told.clear(),
                Kind::Kept | Kind::Hole => {}
            }
        }
    }
}

/// The client's view: texts as they are, control frames by their opcode.
fn read(mut bytes: &[u8]) -> Vec<String> {
    let mut read = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => panic!("nothing here is so long"),
            short => (usize::from(*short), rest),
        };
        let (payload, rest) = rest.split_at(length);
        bytes = rest;
        let payload = std::str::from_utf8(payload).unwrap_or("?");
        match first {
            0x81 => read.push(payload.to_owned()),
            0x88 => read.push("close".to_owned()),
            0x89 => read.push("ping".to_owned()),
            0x8a => read.push(format!("pong {payload}")),
            other => panic!("nothing here begins with {other:#x}"),
        }
    }
    assert!(bytes.is_empty(), "half a header is left: {bytes:?}");
    read
}

fn check(mut outbox: Outbox, expected: &[&str]) {
    let mut out = Vec::new();
    outbox.check();
    outbox.take_all(&mut out);
    assert_eq!(read(&out), expected);
    assert_eq!((outbox.waiting(), outbox.is_empty()), (0, true));
}

const GAP_A: &str = r#"{"gap":{"topic":"a"}}"#;
const GAP_B: &str = r#"{"gap":{"topic":"b"}}"#;

/// An outbox with a full socket; `waiting` is in front of all later frames.
fn blocked(waiting: &str) -> Outbox {
    let mut outbox = Outbox::new();
    outbox.say(waiting);
    outbox.take(1, &mut Vec::new());
    outbox
}

/// Checks the frames behind the first one, of which the socket has taken a byte.
fn check_blocked(mut outbox: Outbox, waiting: &str, expected: &[&str]) {
    let mut out = text(waiting).bytes()[..1].to_vec();
    outbox.check();
    outbox.take_all(&mut out);
    let found = read(&out);
    assert_eq!(found[0], waiting);
    assert_eq!(found[1..], *expected);
}

#[test]
fn everything_comes_out_in_the_order_it_went_in() {
    let (mut outbox, policy) = (Outbox::new(), policy(SlowClient::Disconnect, 100_000));
    let big = "x".repeat(SMALL + 1);
    outbox.say("one");
    outbox.publish("a", "two", &policy);
    outbox.publish("a", &big, &policy);
    outbox.reply(FrameKind::Text, &[b"thr", b"ee"]);
    outbox.send(text("four").bytes().clone(), &policy);
    outbox.control(&frame::pong(b"five"));
    outbox.publish("b", "six", &policy);
    outbox.gap(&topic("b"), &policy);
    outbox.control(&frame::ping());
    outbox.close(frame::close(Some(1000), ""));
    check(outbox, &["one", "two", &big, "three", "four", "pong five", "six", GAP_B, "ping", "close"]);
}

#[test]
fn a_write_may_end_anywhere() {
    let fill = |outbox: &mut Outbox| {
        let policy = policy(SlowClient::Disconnect, 100_000);
        for n in 0..SLICES {
            outbox.send(text(&format!("send {n}")).bytes().clone(), &policy);
        }
        outbox.say("a reply");
        outbox.publish("a", &"x".repeat(300), &policy);
        outbox.send(text("the last").bytes().clone(), &policy);
    };
    let mut expected = Vec::new();
    let mut outbox = Outbox::new();
    fill(&mut outbox);
    let total = outbox.waiting();
    outbox.take_all(&mut expected);
    assert_eq!(expected.len(), total);
    for at in 0..=total {
        let (mut outbox, mut out) = (Outbox::new(), Vec::new());
        fill(&mut outbox);
        outbox.take(at, &mut out);
        outbox.take_all(&mut out);
        assert_eq!(out, expected, "{at}");
    }
}

#[test]
fn no_more_slices_than_a_write_takes() {
    let mut outbox = Outbox::new();
    for n in 0..3 * SLICES {
        outbox.send(text(&format!("{n:0600}")).bytes().clone(), &policy(SlowClient::Disconnect, 1 << 20));
    }
    let mut counts = Vec::new();
    while !outbox.is_empty() {
        outbox
            .write(|slices| {
                counts.push(slices.len());
                Ok(slices.iter().map(|slice| slice.len()).sum())
            })
            .expect("taken");
    }
    assert_eq!(counts, [SLICES; 3]);
}

#[test]
fn by_default_an_event_too_many_makes_the_client_too_slow() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::Disconnect, 50));
    outbox.publish("a", &"x".repeat(30), &policy);
    assert!(!outbox.is_too_slow());
    outbox.publish("a", &"y".repeat(30), &policy);
    assert!(outbox.is_too_slow());
    outbox.publish("a", "z", &policy);
    outbox.close(frame::close(Some(1008), "you read too slowly"));
    check_blocked(outbox, "first", &[&"x".repeat(30), "close"]);
}

#[test]
fn the_oldest_are_dropped_first_and_told_of_once() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::DropOldest, 240));
    let message = |n: usize| format!("{n:050}");
    for n in 0..20 {
        outbox.publish("a", &message(n), &policy);
        outbox.check();
        assert!(outbox.cost() <= 240);
    }
    outbox.say("a reply");
    // Each drop frees a quarter of the limit more than is needed.
    check_blocked(outbox, "first", &[GAP_A, &message(17), &message(18), &message(19), "a reply"]);
}

#[test]
fn a_notice_stands_where_the_run_began() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::DropOldest, 260));
    let message = |n: usize| format!("{n:050}");
    outbox.publish("a", &message(0), &policy);
    outbox.send(text("a send").bytes().clone(), &policy);
    outbox.publish("b", &message(1), &policy);
    for n in 2..7 {
        outbox.publish("a", &message(n), &policy);
    }
    check_blocked(outbox, "first", &[GAP_A, "a send", GAP_B, &message(6)]);
}

#[test]
fn only_the_latest_of_a_topic_waits() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::LatestPerTopic, 10_000));
    for n in 0..10 {
        outbox.publish("a", &format!("a{n}"), &policy);
        outbox.publish("b", &format!("b{n}"), &policy);
    }
    outbox.check();
    check_blocked(outbox, "first", &[GAP_A, GAP_B, "a9", "b9"]);
}

#[test]
fn what_the_client_has_begun_to_read_goes_on() {
    for slow in [SlowClient::DropOldest, SlowClient::LatestPerTopic] {
        let (mut outbox, policy) = (Outbox::new(), policy(slow, 100));
        outbox.blocked = true;
        outbox.publish("a", &"x".repeat(80), &policy);
        let mut out = Vec::new();
        outbox.take(10, &mut out);
        outbox.publish("a", &"y".repeat(20), &policy);
        outbox.publish("a", &"z".repeat(20), &policy);
        outbox.check();
        outbox.take_all(&mut out);
        let found = read(&out);
        assert_eq!(found[0], "x".repeat(80), "{slow:?}");
        assert_eq!(found.iter().filter(|text| *text == GAP_A).count(), 1, "{slow:?}: {found:?}");
    }
}

#[test]
fn an_event_that_never_fits_is_a_gap() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::DropOldest, 100));
    outbox.publish("a", "small", &policy);
    outbox.publish("b", &"x".repeat(500), &policy);
    outbox.publish("b", &"x".repeat(500), &policy);
    outbox.check();
    let mut out = text("first").bytes()[..1].to_vec();
    outbox.take_all(&mut out);
    let found = read(&out);
    assert_eq!(found.iter().filter(|text| *text == GAP_B).count(), 1, "{found:?}");
}

#[test]
fn while_the_socket_takes_all_nothing_is_dropped() {
    let (mut outbox, policy) = (Outbox::new(), policy(SlowClient::LatestPerTopic, 1_000));
    for n in 0..5 {
        outbox.publish("a", &n.to_string(), &policy);
    }
    check(outbox, &["0", "1", "2", "3", "4"]);
}

#[test]
fn what_is_held_back_goes_when_the_handler_has_ended() {
    let (mut outbox, policy) = (Outbox::new(), policy(SlowClient::Disconnect, 1_000));
    outbox.hold(&topic("a"), &text("own"), &policy);
    assert!(outbox.holds());
    outbox.hold(&topic("a"), &text("another's"), &policy);
    outbox.say("the reply");
    outbox.release(&policy);
    assert!(!outbox.holds());
    check(outbox, &["the reply", "own", "another's"]);
}

#[test]
fn no_more_is_held_back_than_may_wait() {
    let (mut outbox, policy) = (Outbox::new(), policy(SlowClient::DropOldest, 100));
    for n in 0..100 {
        outbox.hold(&topic("a"), &text(&format!("{n:040}")), &policy);
        assert!(outbox.held.len() <= 2);
        outbox.check();
        assert!(outbox.waiting() <= outbox.limit(&policy) + GAP_A.len());
    }
}

#[test]
fn nothing_follows_the_close() {
    let (mut outbox, policy) = (Outbox::new(), policy(SlowClient::DropOldest, 1_000));
    outbox.say("before");
    outbox.hold(&topic("a"), &text("held"), &policy);
    outbox.close(frame::close(Some(1000), ""));
    outbox.close(frame::close(Some(1001), ""));
    outbox.say("reply");
    outbox.send(text("send").bytes().clone(), &policy);
    outbox.control(&frame::ping());
    outbox.publish("a", "event", &policy);
    outbox.gap(&topic("a"), &policy);
    outbox.hold(&topic("a"), &text("held"), &policy);
    outbox.release(&policy);
    let mut out = Vec::new();
    outbox.take_all(&mut out);
    assert_eq!(read(&out), ["before", "close"]);
    outbox.write_through(&topic("a"), &[text("late")], &policy, |_| panic!("nothing is written"));
}

#[test]
fn without_a_socket_nothing_is_kept() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::DropOldest, 1_000));
    outbox.publish("a", &"x".repeat(600), &policy);
    outbox.discard();
    outbox.say("reply");
    outbox.publish("a", "event", &policy);
    assert_eq!((outbox.queue.pieces.capacity(), outbox.tail.capacity()), (0, 0));
    check(outbox, &[]);
}

#[test]
fn direct_sends_are_kept_until_they_are_too_many() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::DropOldest, 100));
    let send = text(&"s".repeat(60));
    outbox.send(send.bytes().clone(), &policy);
    outbox.publish("a", &"x".repeat(60), &policy);
    outbox.send(send.bytes().clone(), &policy);
    assert!(!outbox.is_too_slow());
    outbox.send(send.bytes().clone(), &policy);
    assert!(outbox.is_too_slow());
    // The notice stands where the event would have been.
    check_blocked(outbox, "first", &[&"s".repeat(60), GAP_A, &"s".repeat(60)]);
}

#[test]
fn the_memory_of_an_empty_outbox_is_given_back() {
    let (mut outbox, policy) = (Outbox::new(), policy(SlowClient::DropOldest, 100_000));
    for n in 0..100 {
        outbox.publish("a", &"x".repeat(1_000), &policy);
        outbox.say(&n.to_string());
    }
    outbox.take_all(&mut Vec::new());
    outbox.shrink();
    assert_eq!((outbox.queue.pieces.capacity(), outbox.tail.capacity(), outbox.held.capacity()), (0, 0, 0));
}
