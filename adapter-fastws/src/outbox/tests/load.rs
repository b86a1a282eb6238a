//! Many small frames for a client that does not read: the memory is bounded, and so is the cost of each frame.

use super::*;

const MANY: usize = 20_000;

#[test]
fn the_latest_of_a_topic_costs_the_same_however_many_topics_wait() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::LatestPerTopic, 1 << 20));
    let topics: Vec<Topic> = (0..2_000).map(|n| topic(&format!("topic {n}"))).collect();
    for n in 0..MANY {
        outbox.event(&topics[n % topics.len()], text(&n.to_string()).bytes(), &policy);
    }
    outbox.check();
    let looked_at = outbox.queue.looked_at();
    assert!(looked_at <= 4 * MANY, "{looked_at} pieces were looked at for {MANY} events");
    assert!(outbox.queue.pieces.len() <= 4 * topics.len() + 2, "what was dropped goes");
    let mut out = text("first").bytes()[..1].to_vec();
    outbox.take_all(&mut out);
    let found = read(&out);
    let expected = (MANY - topics.len()..MANY).map(|n| n.to_string());
    assert!(found[1 + topics.len()..].iter().cloned().eq(expected), "a notice each, and the latest of each in order");
}

#[test]
fn one_busy_topic_leaves_no_holes_behind() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::LatestPerTopic, 1 << 20));
    for n in 0..MANY {
        outbox.publish("a", &n.to_string(), &policy);
        assert!(outbox.queue.pieces.len() < 40);
    }
    check_blocked(outbox, "first", &[GAP_A, &(MANY - 1).to_string()]);
}

#[test]
fn what_cannot_be_dropped_is_looked_at_once() {
    for slow in [SlowClient::DropOldest, SlowClient::LatestPerTopic] {
        let (mut outbox, policy) = (blocked("first"), policy(slow, 1 << 20));
        let big = text(&"x".repeat(SMALL + 1));
        for _ in 0..3_500 {
            outbox.send(big.bytes().clone(), &policy);
        }
        assert!(!outbox.is_too_slow());
        for n in 0..MANY {
            outbox.publish("a", &n.to_string(), &policy);
        }
        outbox.check();
        let looked_at = outbox.queue.looked_at();
        assert!(looked_at <= 2 * MANY, "{looked_at} pieces were looked at for {MANY} events, {slow:?}");
    }
}

#[test]
fn tiny_events_count_as_what_they_take() {
    let limit = 64 * 1024;
    for slow in [SlowClient::DropOldest, SlowClient::LatestPerTopic] {
        let (mut outbox, policy) = (blocked("first"), policy(slow, limit));
        for n in 0..MANY {
            outbox.event(&topic(&format!("{}", n % 5_000)), text("x").bytes(), &policy);
        }
        outbox.check();
        let most = limit / queue::LEAST + 5_000;
        assert!(outbox.queue.pieces.len() <= most * 2, "{} pieces, {slow:?}", outbox.queue.pieces.len());
    }
    // A policy without drops stores events one after the other, without entries of their own.
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::Disconnect, limit));
    let mut taken = 0;
    while !outbox.is_too_slow() {
        outbox.publish("a", "x", &policy);
        taken += 1;
    }
    assert!(taken > limit / 4 && outbox.queue.pieces.len() <= 2, "{taken}");
}

#[test]
fn tiny_events_that_are_held_back_are_bounded() {
    let (mut outbox, policy) = (Outbox::new(), policy(SlowClient::DropOldest, 4_800));
    for _ in 0..MANY {
        outbox.hold(&topic("a"), &text("x"), &policy);
        assert!(outbox.held.len() <= 4_800 / queue::LEAST + 1);
    }
}

#[test]
fn small_sends_stand_behind_each_other() {
    let (mut outbox, policy) = (blocked("first"), policy(SlowClient::Disconnect, 64 * 1024));
    for n in 0..5_000 {
        outbox.send(text(&n.to_string()).bytes().clone(), &policy);
    }
    assert!(!outbox.is_too_slow());
    assert_eq!(outbox.queue.pieces.len(), 0, "all is behind the first reply");
}
