//! The memory of a channel and a subscription (Linux only), and the time of a publication.
//!
//! `cargo run --release -p strait-store-memory --example footprint`

#![allow(clippy::print_stdout, reason = "it prints figures")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use strait_core::store::{
    ChannelStore, Command, EventBus, EventHubStore, Fence, LeaseTerm, Location, NewChannel, Publication, Sink,
    Subscription,
};
use strait_core::{ChannelId, ConnectionId, Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_memory::MemoryStore;

const CHANNELS: usize = 200_000;
const PUBLICATIONS: u32 = 1_000_000;

#[derive(Debug)]
struct Deaf;

impl Sink for Deaf {
    fn events(&self, _: &Topic, events: &[(Position, Arc<Event>)]) {
        black_box(events);
    }
    fn command(&self, _: Command) {}
    fn gap(&self, _: &[Topic]) {}
}

fn resident() -> anyhow::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).context("no VmRSS in /proc/self/status")?;
    let kibibytes: usize = line.split_whitespace().nth(1).context("VmRSS has no value")?.parse()?;
    Ok(kibibytes * 1024)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let store = MemoryStore::new();
    let node = NodeId::unique();
    store.lease(&node, LeaseTerm::Acquire, Duration::from_secs(600)).await?;
    let bus = store.start(&node, Arc::new(Deaf)).await?;
    let endpoint: Arc<str> = Arc::from("room");
    let mut fences: Vec<Fence> = Vec::with_capacity(CHANNELS);
    fences.resize_with(CHANNELS, || Fence { id: ChannelId::unique(), generation: 1 });
    let before = resident()?;
    let started = Instant::now();
    for fence in &fences {
        let location = Location::Node { node: node.clone(), connection: ConnectionId::from(fence.id.clone()) };
        let (id, endpoint, opening) = (fence.id.clone(), Arc::clone(&endpoint), Bytes::from_static(b"{}"));
        store
            .open(NewChannel { id, endpoint, location, opening, session: None, grace: None, token: None, due: None })
            .await?;
    }
    let took = started.elapsed() / u32::try_from(CHANNELS)?;
    println!("an idle channel: {} bytes without its id, opened in {took:?}", (resident()? - before) / CHANNELS);

    let topics = (0..1000).map(|n| Topic::new(format!("room:{n}"))).collect::<Result<Vec<_>, _>>()?;
    for (what, indexed, of) in [("a subscription", false, 0), ("an indexed subscription", true, 500)] {
        let before = resident()?;
        for (n, fence) in fences.iter().enumerate() {
            let topic = topics[of + n % 500].clone();
            store.subscribe(&[Subscription { fence: fence.clone(), topic, indexed, presence: None }]).await?;
        }
        println!("{what}: {} bytes", (resident()? - before) / CHANNELS);
    }

    bus.interest(&topics[..500], &[]).await?;
    let event = Arc::new(Event::message(Payload::text("hello")));
    let retention = Retention { count: 100, age: Duration::from_secs(60) };
    for (what, topic, retention, key) in [
        ("to one node", 0, None, false),
        ("to an indexed member only", 999, None, false),
        ("to one node, kept", 1, Some(retention), false),
        ("to one node, kept, with a key", 2, Some(retention), true),
    ] {
        let mut publication = Publication { topic: topics[topic].clone(), event: event.clone(), retention, key: None };
        let started = Instant::now();
        for n in 0..PUBLICATIONS {
            if key {
                publication.key = Some(Arc::from(n.to_string()));
            }
            black_box(store.publish(std::slice::from_ref(&publication)).await);
        }
        println!("publishing {what}: {:?}", started.elapsed() / PUBLICATIONS);
    }
    Ok(())
}
