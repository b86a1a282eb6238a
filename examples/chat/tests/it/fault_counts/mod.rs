//! Counts the messages that are lost, come twice or come late through each fault. Numbered messages go from one node to
//! another one, on a topic that is kept and on one that is not. Prints the rows of the book's tables.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::kit::{Client, Server};

const LEASE: Duration = Duration::from_millis(1000);
/// A message that takes longer is late.
const LATE: Duration = Duration::from_millis(250);
const EVERY: Duration = Duration::from_millis(10);
const QUIET: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topic {
    Kept,
    Passing,
}

#[derive(Default)]
struct Seen {
    /// Numbers with an answer, by the time they were sent.
    published: BTreeMap<u64, Instant>,
    refused: usize,
    heard: Vec<(u64, Instant)>,
    gaps: usize,
    closes: usize,
}

impl Topic {
    fn name(self) -> &'static str {
        match self {
            Self::Kept => "fan:kept:a",
            Self::Passing => "fan:a",
        }
    }
}

/// A subscribed connection to the first node that lets it in.
async fn connected(topic: Topic, nodes: &[String]) -> Client {
    let subscribe = json!({ "action": "subscribe", "topic": topic.name() }).to_string();
    loop {
        for node in nodes {
            if let Some(mut client) = Client::connect(node, "/fan").await
                && client.try_send(subscribe.clone()).await
                && answer(&mut client, "subscribe").await.is_some_and(|answer| answer.get("error").is_none())
            {
                return client;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Reads on to the answer; `None` if the connection ends before.
async fn answer(client: &mut Client, action: &str) -> Option<Value> {
    loop {
        match client.try_next().await? {
            Message::Text(text) => {
                let got: Value = serde_json::from_str(&text).expect("JSON");
                if got["action"] == action {
                    return Some(got);
                }
            }
            _ => return None,
        }
    }
}

async fn publish(topic: Topic, nodes: Arc<[String]>, seen: Arc<Mutex<Seen>>, stop: Arc<AtomicBool>) {
    let mut client = connected(topic, &nodes).await;
    for n in 0_u64.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let request = json!({ "action": "publish", "topic": topic.name(), "data": { "n": n } });
        let sent = Instant::now();
        let sending = client.try_send(request.to_string()).await;
        let answered = if sending { answer(&mut client, "publish").await } else { None };
        match answered {
            Some(answer) if answer.get("error").is_none() => {
                seen.lock().published.insert(n, sent);
            }
            Some(_) => seen.lock().refused += 1,
            None => {
                seen.lock().refused += 1;
                client = connected(topic, &nodes).await;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn listen(topic: Topic, nodes: Arc<[String]>, seen: Arc<Mutex<Seen>>) {
    let last = &nodes[nodes.len() - 1..];
    let mut client = connected(topic, last).await;
    loop {
        match client.try_next().await {
            Some(Message::Text(text)) => {
                let got: Value = serde_json::from_str(&text).expect("JSON");
                let mut seen = seen.lock();
                seen.gaps += usize::from(got.get("gap").is_some());
                seen.heard.extend(got["n"].as_u64().map(|n| (n, Instant::now())));
            }
            _ => {
                seen.lock().closes += 1;
                client = connected(topic, last).await;
            }
        }
    }
}

/// The counts of one topic's run.
struct Counts {
    lost: usize,
    twice: usize,
    gaps: usize,
    closes: usize,
}

impl Seen {
    fn count(&self, what: &str, topic: Topic) -> Counts {
        let mut first = BTreeMap::new();
        for (n, at) in &self.heard {
            first.entry(*n).or_insert(*at);
        }
        let twice = self.heard.len() - first.len();
        // Messages published before the listener had subscribed were not for it.
        let from = first.keys().next().copied().unwrap_or_default();
        let lost = self.published.range(from..).filter(|(n, _)| !first.contains_key(n)).count();
        let delays = self.published.iter().filter_map(|(n, sent)| Some(first.get(n)?.duration_since(*sent)));
        let (mut late, mut longest) = (0, Duration::ZERO);
        for delay in delays {
            late += usize::from(delay > LATE);
            longest = longest.max(delay);
        }
        eprintln!(
            "| {what} | {topic:?} | {} | {} | {lost} | {twice} | {late} | {} ms | {} | {} |",
            self.published.len(),
            self.refused,
            longest.as_millis(),
            self.gaps,
            self.closes,
        );
        Counts { lost, twice, gaps: self.gaps, closes: self.closes }
    }
}

/// Runs numbered messages through a fault. `kept_loses` is whether also a retained topic may lose some.
async fn through(
    what: &str,
    nodes: &[Server],
    kept_loses: bool,
    fault: impl Future<Output = ()>,
) -> Vec<(Topic, Counts)> {
    let addresses: Arc<[String]> = nodes.iter().map(|node| node.address.clone()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let mut all = Vec::new();
    for topic in [Topic::Kept, Topic::Passing] {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let listening = tokio::spawn(listen(topic, Arc::clone(&addresses), Arc::clone(&seen)));
        let publishing = tokio::spawn(publish(topic, Arc::clone(&addresses), Arc::clone(&seen), Arc::clone(&stop)));
        all.push((topic, seen, publishing, listening));
    }
    for (_, seen, ..) in &all {
        while seen.lock().heard.len() < 20 {
            tokio::time::sleep(EVERY).await;
        }
    }
    fault.await;
    // Waits until messages arrive again, however long that takes.
    for (topic, seen, ..) in &all {
        let (before, began) = (seen.lock().heard.len(), Instant::now());
        while seen.lock().heard.len() < before + 50 {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: {topic:?} does not go on");
            tokio::time::sleep(EVERY).await;
        }
    }
    stop.store(true, Ordering::Release);
    let mut counted = Vec::new();
    for (topic, seen, publishing, listening) in all {
        publishing.await.expect("it published");
        loop {
            let heard = seen.lock().heard.len();
            tokio::time::sleep(QUIET).await;
            if seen.lock().heard.len() == heard {
                break;
            }
        }
        listening.abort();
        let counts = seen.lock().count(what, topic);
        assert_eq!(counts.twice, 0, "{what}, {topic:?}: nothing comes twice");
        assert!(counts.lost == 0 || counts.gaps + counts.closes > 0, "{what}, {topic:?}: who missed something is told");
        assert!(counts.lost == 0 || kept_loses || topic == Topic::Passing, "{what}: what is kept is not lost");
        counted.push((topic, counts));
    }
    counted
}
