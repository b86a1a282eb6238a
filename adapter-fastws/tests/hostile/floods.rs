//! Floods: as much of each kind as a socket takes.

use bytes::Bytes;

use crate::kit::{Got, frame, header, ping, text};
use crate::siege::{Siege, client, flood, repeat, socket};
use crate::victim::Victim;

/// Each of 20 clients sends `first`, and then `then` again and again.
async fn twenty(name: &'static str, first: Vec<u8>, then: Vec<u8>) {
    let (first, times) = (Bytes::from(first), 10_000 / then.len());
    let then = Bytes::from(then.repeat(times));
    let attack = move |address, _| flood(address, first.clone(), then.clone());
    Siege { name, attackers: 20, mib: 16 }.by(attack).await;
}

#[tokio::test]
async fn messages_past_the_rate_limit() {
    twenty("20 flood with messages", Vec::new(), text("spam spam spam")).await;
}

#[tokio::test]
async fn pings() {
    twenty("20 flood with pings", Vec::new(), ping(b"are you there?")).await;
}

#[tokio::test]
async fn empty_fragments_without_end() {
    twenty("20 send empty fragments without end", frame(0x01, ""), frame(0x00, "")).await;
}

#[tokio::test]
async fn fragments_of_one_byte_without_end() {
    twenty("20 send fragments of 1 byte without end", frame(0x01, "x"), frame(0x00, "x")).await;
}

#[tokio::test]
async fn giants() {
    // An announced length is not reserved, and bytes over the limit are not kept.
    twenty("20 announce 8 EiB and begin to send them", header(0x82, usize::MAX >> 1), vec![0; 10_000]).await;
}

#[tokio::test]
async fn messages_that_never_get_their_last_byte() {
    let all_but_one = Bytes::from([header(0x82, 65_536), vec![0; 65_535]].concat());
    let attack = move |address, _| {
        let all_but_one = all_but_one.clone();
        async move {
            if let Some(mut client) = client(address, "/echo").await {
                client.try_send(&all_but_one).await;
                while !matches!(client.try_next().await, None | Some(Got::End | Got::Close(..))) {}
            }
        }
    };
    // Each client costs 64 KiB, and as much again while a buffer grows.
    Siege { name: "200 hold back the last byte of 64 KiB", attackers: 200, mib: 40 }.by(attack).await;
}

#[tokio::test]
async fn connections() {
    let attack = |address, _| async move {
        if let Some(client) = client(address, "/echo").await {
            client.reset();
        }
    };
    Siege { name: "20 connect, shake hands and reset, over and over", attackers: 20, mib: 16 }.by(attack).await;
}

#[tokio::test]
async fn noise() {
    let noise: Vec<u8> = (0..10_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let attack = move |address, number| {
        let noise = noise.clone();
        async move {
            let victim = if number % 2 == 0 { client(address, "/echo").await } else { socket(address).await };
            if let Some(victim) = victim {
                repeat(victim, &noise).await;
            }
        }
    };
    Siege { name: "20 send noise, as requests and as frames", attackers: 20, mib: 16 }.by(attack).await;
}

#[tokio::test]
async fn who_floods_is_told_and_closed() {
    let victim = Victim::start().await;
    let mut client = victim.client("/strict").await;
    client.send(text("spam").repeat(200)).await;
    let mut limited = 0;
    let reason = loop {
        client.try_send(text("spam")).await;
        match client.next().await {
            Got::Text(answer) if answer.contains("rate_limited") => limited += 1,
            Got::Text(_) => {}
            Got::Close(code, reason) => break (code, reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason, (1008, "flooding".to_owned()));
    assert!(limited > 0);
    drop(client);
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn who_floods_is_answered_ever_more_slowly() {
    let victim = Victim::patient().await;
    let mut client = victim.client("/echo").await;
    let start = std::time::Instant::now();
    // The burst passes at once; 32 of the 320 messages beyond it pass in 100 ms.
    client.send(text("spam").repeat(520)).await;
    let mut limited = 0;
    while limited < 200 {
        match client.next().await {
            Got::Text(answer) => limited += usize::from(answer.contains("rate_limited")),
            other => panic!("{other:?}"),
        }
    }
    assert!(start.elapsed() >= std::time::Duration::from_millis(500), "{:?}", start.elapsed());
    drop(client);
    victim.ends_unharmed().await;
}
