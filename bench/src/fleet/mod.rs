//! Two nodes on one Redis: the throughput from one to the other, the delay, and the cost.

mod client;
mod nodes;
pub(crate) mod peer;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::time::{sleep_until, timeout};

use crate::latency::Latency;
use client::{Client, Speech};
use nodes::{Cost, Fleet};

/// Publications in flight over all topics.
const IN_FLIGHT: usize = 64;
/// An event that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of topics
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    topics: Vec<usize>,
    /// Publishers of each topic
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// Peers to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Speech::Strait, Speech::SocketIo])]
    peers: Vec<Speech>,
    /// Numbers of subscribed topics at which memory is measured; 0 for not at all
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 50_000])]
    memory: Vec<usize>,
    /// Seconds that count
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Publications a second at which the latency is measured
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Bytes of a publication
    #[arg(long, default_value_t = 100)]
    size: usize,
}

/// The findings of one measurement.
struct Found {
    publications: u64,
    time: Duration,
    latency: Latency,
    cost: Cost,
}

impl Found {
    fn rate(&self) -> f64 {
        self.publications as f64 / self.time.as_secs_f64()
    }

    fn each(&self, of: u64) -> f64 {
        of as f64 / self.publications.max(1) as f64
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |share| self.latency.quantile(share).as_secs_f64() * 1e6;
        let cpu = |of: Duration| of.as_secs_f64() * 1e6 / self.publications.max(1) as f64;
        write!(
            f,
            "{:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {:.0} | {:.0}",
            self.rate(),
            micros(0.5),
            micros(0.99),
            self.each(self.cost.requests),
            self.each(self.cost.commands),
            cpu(self.cost.nodes),
            cpu(self.cost.redis),
        )
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seconds = Duration::try_from_secs_f64(options.seconds)?;
    println!(
        "| peer | topics | load | publications/s | p50 µs | p99 µs | requests | commands | nodes' CPU µs | Redis' CPU µs |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for speech in options.peers.iter().copied() {
        for topics in &options.topics {
            for rate in [None, Some(options.rate)] {
                let load = rate.map_or_else(|| format!("{IN_FLIGHT} in flight"), |rate| format!("{rate:.0}/s"));
                let local = tokio::task::LocalSet::new();
                let found = local.block_on(&runtime, measure(speech, *topics, rate, seconds, options))?;
                println!("| {speech} | {topics} | {load} | {found} |");
            }
        }
    }
    let sizes = || options.memory.iter().copied().filter(|topics| *topics > 0);
    if sizes().next().is_none() {
        return Ok(());
    }
    println!();
    println!("| peer | subscribed topics | bytes of the node's memory each | bytes of Redis' memory each |");
    println!("|---|---|---|---|");
    for speech in options.peers.iter().copied() {
        for topics in sizes() {
            let (node, redis) = runtime.block_on(memory(speech, topics))?;
            println!("| {speech} | {topics} | {node:.0} | {redis:.0} |");
        }
    }
    Ok(())
}

/// The publications under way: the time when each was sent, by its number.
#[derive(Default)]
struct Flight {
    sent: HashMap<u64, Instant>,
    next: u64,
}

async fn measure(
    speech: Speech,
    topics: usize,
    rate: Option<f64>,
    seconds: Duration,
    options: &Options,
) -> Result<Found> {
    let fleet = Fleet::start(speech).await?;
    let mut pairs = Vec::new();
    for topic in 0..topics {
        let topic = format!("fan:{topic}");
        let mut subscriber = Client::connect(speech, fleet.address(1)).await?;
        subscriber.subscribe(&topic).await?;
        let mut publishers = Vec::new();
        for _ in 0..options.publishers.max(1) {
            publishers.push(Client::connect(speech, fleet.address(0)).await?);
        }
        pairs.push((topic, publishers, subscriber));
    }
    let warm = Instant::now() + Duration::from_secs(1);
    let end = warm + seconds;
    let latency = Rc::new(RefCell::new((Latency::new(), 0_u64)));
    let depth = (IN_FLIGHT / topics).max(1);
    let mut tasks = Vec::new();
    for (n, (topic, publishers, subscriber)) in pairs.into_iter().enumerate() {
        let pace = rate.map(|rate| Pace {
            every: Duration::from_secs_f64(topics as f64 / rate),
            first: Duration::from_secs_f64(n as f64 / rate),
        });
        let work = Work { topic, size: options.size, depth, pace, warm, end, found: Rc::clone(&latency) };
        tasks.push(tokio::task::spawn_local(pair(work, publishers, subscriber)));
    }
    sleep_until(warm.into()).await;
    let before = fleet.cost().await?;
    sleep_until(end.into()).await;
    let cost = fleet.cost().await? - before;
    for task in tasks {
        task.await??;
    }
    let (latency, publications) = Rc::into_inner(latency).context("all tasks have ended")?.into_inner();
    Ok(Found { publications, time: seconds, latency, cost })
}

/// The times when publications are due.
struct Pace {
    every: Duration,
    first: Duration,
}

struct Work {
    topic: String,
    size: usize,
    depth: usize,
    pace: Option<Pace>,
    warm: Instant,
    end: Instant,
    found: Rc<RefCell<(Latency, u64)>>,
}

/// Publishers that take turns, and one subscriber of a topic.
async fn pair(work: Work, publishers: Vec<Client>, mut subscriber: Client) -> Result<()> {
    let mut flight = Flight::default();
    let (mut publishing, mut draining) = (Vec::new(), Vec::new());
    for publisher in publishers {
        let (sending, answers) = publisher.split();
        publishing.push(sending);
        draining.push(tokio::task::spawn_local(answers.drain()));
    }
    let mut due = work.pace.as_ref().map(|pace| Instant::now() + pace.first);
    loop {
        let now = Instant::now();
        if now >= work.end && flight.sent.is_empty() {
            break;
        }
        let may_send = now < work.end
            && match due {
                Some(due) => now >= due,
                None => flight.sent.len() < work.depth,
            };
        if may_send {
            flight.sent.insert(flight.next, Instant::now());
            let turn = usize::try_from(flight.next)? % publishing.len();
            publishing[turn].publish(&work.topic, flight.next, work.size).await?;
            flight.next += 1;
            due = due.zip(work.pace.as_ref()).map(|(due, pace)| due + pace.every);
            continue;
        }
        let wait = due.filter(|_| now < work.end).map_or(PATIENCE, |due| due.saturating_duration_since(now));
        match timeout(wait.min(PATIENCE), subscriber.event()).await {
            Ok(number) => {
                let sent = flight.sent.remove(&number?).context("an event came twice, or was never published")?;
                let now = Instant::now();
                if (work.warm..work.end).contains(&now) {
                    let mut found = work.found.borrow_mut();
                    found.0.record(u64::try_from((now - sent).as_nanos())?);
                    found.1 += 1;
                }
            }
            Err(_) => ensure!(due.is_some() && wait < PATIENCE, "{} events were lost", flight.sent.len()),
        }
    }
    draining.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

/// The memory of the node and of Redis that a subscribed topic takes.
async fn memory(speech: Speech, topics: usize) -> Result<(f64, f64)> {
    let fleet = Fleet::start(speech).await?;
    let mut client = Client::connect(speech, fleet.address(1)).await?;
    for n in 0..1000 {
        client.subscribe(&format!("fan:warm {n}")).await?;
    }
    let before = (fleet.resident(1)?, fleet.redis_memory().await?);
    for n in 0..topics {
        client.subscribe(&format!("fan:topic {n}")).await?;
    }
    let after = (fleet.resident(1)?, fleet.redis_memory().await?);
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / topics as f64;
    Ok((each(before.0, after.0), each(before.1, after.1)))
}
