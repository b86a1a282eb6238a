//! The counted cases.

use std::future::poll_fn;
use std::hint::black_box;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, ensure};
use hyper::HeaderMap;
use serde_json::value::RawValue;
use strait_core::machine::{Backlog, Effects, Event as MachineEvent, Machine, Weigh};
use strait_core::store::{EventHubStore, Publication, Replay};
use strait_core::{
    App, Channel, Conversation, Endpoint, Event, Frame, FrameKind, Inbound, Json, Limits, Outlet, Payload, Position,
    Publish, Retention, Topic, Transport,
};
use strait_store_memory::MemoryStore;
use tokio::runtime::Runtime;

/// One micro-benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// A message through its channel: routing, decoding, the handler, the reply's encoding.
    Message { size: usize },
    /// The machine alone, where a handler ends before the next message.
    MachineIdle,
    /// The machine alone, where messages wait for a handler.
    MachineBusy,
    /// A frame.
    Encode { size: usize },
    /// A publication to so many members, until each has it.
    Publish { members: usize },
    /// An event kept in a topic's log.
    Append,
    /// An event read from a topic's log.
    Replay,
}

impl Case {
    pub(crate) const ALL: [Self; 11] = [
        Self::Message { size: 32 },
        Self::Message { size: 1024 },
        Self::MachineIdle,
        Self::MachineBusy,
        Self::Encode { size: 32 },
        Self::Encode { size: 1024 },
        Self::Publish { members: 1 },
        Self::Publish { members: 1_000 },
        Self::Publish { members: 100_000 },
        Self::Append,
        Self::Replay,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Message { size: 32 } => "message of 32 B",
            Self::Message { .. } => "message of 1 KiB",
            Self::MachineIdle => "machine, idle",
            Self::MachineBusy => "machine, busy",
            Self::Encode { size: 32 } => "frame of 32 B",
            Self::Encode { .. } => "frame of 1 KiB",
            Self::Publish { members: 1 } => "publication to 1 member",
            Self::Publish { members: 1_000 } => "publication to 1,000 members, a member",
            Self::Publish { .. } => "publication to 100,000 members, a member",
            Self::Append => "log append",
            Self::Replay => "log replay",
        }
    }

    /// How many operations [`run`](Self::run) does.
    pub(crate) fn operations(self) -> u32 {
        match self {
            Self::Publish { members } if members > 1 => u32::try_from(members).expect("at most 100,000"),
            _ => ROUNDS,
        }
    }

    /// Does the work; the counted part of it runs inside of [`counted`].
    pub(crate) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        match self {
            Self::Message { size } => messages(&runtime, size),
            Self::MachineIdle => machine_idle(),
            Self::MachineBusy => machine_busy(),
            Self::Encode { size } => encode(size),
            Self::Publish { members } => publish(&runtime, members),
            Self::Append => append(&runtime),
            Self::Replay => replay(&runtime),
        }
    }
}

impl FromStr for Case {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|case| case.name() == name).with_context(|| format!("there is no case {name:?}"))
    }
}

/// The rounds of a short operation.
const ROUNDS: u32 = 1_000;

/// Callgrind counts the instructions in here: it knows the function by its name.
#[inline(never)]
fn counted<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// A client that counts its messages.
#[derive(Debug, Default)]
struct Counter(AtomicUsize);

impl Outlet for Counter {
    fn handler_begins(&self, _: u32) {}

    fn handler_ended(&self) {}

    fn reply(&self, _: FrameKind, parts: &[&[u8]]) {
        black_box(parts);
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn send(&self, _: &Frame) {}

    fn events(&self, _: &Topic, frames: &[Frame], _: Option<u32>) {
        self.0.fetch_add(frames.len(), Ordering::Relaxed);
    }

    fn gap(&self, _: &Topic) {}

    fn wake(&self) {}
}

async fn echo(input: Json<Box<RawValue>>) -> Json<Box<RawValue>> {
    input
}

async fn join(channel: Channel) -> Result<(), strait_core::Error> {
    channel.subscribe(&Topic::new("bench")?).await
}

async fn started() -> Result<App> {
    // The rate must not be the limit; checking it is part of a message's cost.
    let rate = strait_core::RateLimit { per_second: 1_000_000, burst: 1_000_000, ..Default::default() };
    let limits = || Limits { rate: Some(rate), ..Limits::default() };
    let app = App::new()
        .endpoint(Endpoint::new("echo", "/echo").public().limits(limits()).on("echo", echo))
        .endpoint(Endpoint::new("fan", "/fan").public().limits(limits()).on_connect(join))
        // Long enough for slow valgrind: no lease is renewed.
        .lease(Duration::from_secs(3_600))
        .store(MemoryStore::new())
        .build()?;
    app.start().await?;
    Ok(app)
}

/// A connected client: its `on_connect` has ended.
async fn connect(app: &App, path: &str, outlet: &Arc<Counter>) -> Result<Conversation> {
    let refused = |refusal: strait_core::Refusal| anyhow!("{}", refusal.message);
    let accepted = app.accept(path, None, &HeaderMap::new(), Transport::Plain).map_err(refused)?;
    let admitted = accepted.admit(HeaderMap::new(), None).await.map_err(refused)?;
    let mut conversation = admitted.open(Arc::clone(outlet) as Arc<dyn Outlet>).await.map_err(refused)?;
    let mut opened = false;
    poll_fn(|cx| {
        if !std::mem::replace(&mut opened, true) {
            conversation.opened(cx);
        }
        let _driven = conversation.poll(cx);
        if conversation.is_running() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    Ok(conversation)
}

fn message(size: usize) -> String {
    let head = r#"{"action":"echo","data":""#;
    if size == 32 {
        return r#"{"action":"echo","n":1000000000}"#.to_owned();
    }
    format!("{head}{}\"}}", "x".repeat(size - head.len() - 2))
}

fn messages(runtime: &Runtime, size: usize) -> Result<()> {
    let outlet = Arc::new(Counter::default());
    let app = runtime.block_on(started())?;
    let mut conversation = runtime.block_on(connect(&app, "/echo", &outlet))?;
    let text = message(size);
    let now = Instant::now();
    runtime.block_on(poll_fn(|cx| {
        counted(|| {
            for _ in 0..ROUNDS {
                let mut buffer = Inbound::buffer(text.len());
                buffer.extend_from_slice(text.as_bytes());
                let text = String::from_utf8(buffer).expect("a copy of text");
                conversation.receive(Inbound::text(text), now, cx);
            }
        });
        Poll::Ready(())
    }));
    ensure!(outlet.0.load(Ordering::Relaxed) == ROUNDS as usize, "not every message was answered");
    Ok(())
}

struct Item;

impl Weigh for Item {
    fn weight(&self) -> usize {
        32
    }
}

fn opened_machine() -> Machine<Item> {
    let (mut machine, mut effects) = (Machine::new(false), Effects::new());
    machine.handle(MachineEvent::Opened, Backlog::default(), &mut effects);
    machine.handle(MachineEvent::Ended, Backlog::default(), &mut effects);
    machine
}

fn machine_idle() -> Result<()> {
    let mut machine = opened_machine();
    let rested = counted(|| {
        let mut rested = 0;
        for _ in 0..ROUNDS {
            rested += u32::from(black_box(&mut machine).try_begin() && machine.try_rest());
        }
        rested
    });
    ensure!(rested == ROUNDS, "the machine did not rest");
    Ok(())
}

fn machine_busy() -> Result<()> {
    let mut machine = opened_machine();
    ensure!(machine.try_begin(), "the machine was not idle");
    let effects = counted(|| {
        let mut count = 0;
        for _ in 0..ROUNDS {
            let mut effects = Effects::new();
            machine.handle(MachineEvent::Received(black_box(Item)), Backlog::default(), &mut effects);
            machine.handle(MachineEvent::Ended, Backlog::default(), &mut effects);
            count += effects.len();
        }
        count
    });
    ensure!(effects == ROUNDS as usize, "each end begins the next message");
    Ok(())
}

fn encode(size: usize) -> Result<()> {
    let payload = message(size);
    let length = counted(|| {
        let frame = || black_box(Frame::new(FrameKind::Text, &[black_box(payload.as_bytes())])).bytes().len();
        (0..ROUNDS).map(|_| frame()).sum::<usize>()
    });
    ensure!(length > size * ROUNDS as usize, "a frame is longer than its payload");
    Ok(())
}

fn publish(runtime: &Runtime, members: usize) -> Result<()> {
    let outlet = Arc::new(Counter::default());
    let app = runtime.block_on(started())?;
    let joined = async {
        let mut joined = Vec::with_capacity(members);
        for _ in 0..members {
            joined.push(connect(&app, "/fan", &outlet).await?);
        }
        anyhow::Ok(joined)
    };
    let joined = runtime.block_on(joined)?;
    let rounds = if members == 1 { ROUNDS as usize } else { 1 };
    let topic = Topic::new("bench")?;
    counted(|| {
        runtime.block_on(async {
            for round in 1..=rounds {
                let publication = Publish::new(topic.clone(), Payload::text("x".repeat(100)));
                app.hub().publish(publication).await.map_err(|error| anyhow!("{}", error.message()))?;
                while outlet.0.load(Ordering::Relaxed) < members * round {
                    tokio::task::yield_now().await;
                }
            }
            anyhow::Ok(())
        })
    })?;
    drop(joined);
    Ok(())
}

fn publication() -> Result<Publication> {
    let retention = Retention { count: 2 * ROUNDS, age: Duration::from_secs(3_600) };
    let event = Arc::new(Event::message(Payload::text("x".repeat(100))));
    Ok(Publication { topic: Topic::new("bench")?, event, retention: Some(retention), key: None })
}

async fn append_all(store: &MemoryStore, publication: &Publication) -> Result<Vec<Position>> {
    let mut positions = Vec::with_capacity(ROUNDS as usize);
    for _ in 0..ROUNDS {
        for published in store.publish(std::slice::from_ref(publication)).await {
            positions.push(published?.position);
        }
    }
    Ok(positions)
}

fn append(runtime: &Runtime) -> Result<()> {
    let (store, publication) = (MemoryStore::new(), publication()?);
    let positions = counted(|| runtime.block_on(append_all(&store, &publication)))?;
    ensure!(positions.last().is_some_and(|last| last.offset == u64::from(ROUNDS)), "not all was kept");
    Ok(())
}

fn replay(runtime: &Runtime) -> Result<()> {
    let (store, publication) = (MemoryStore::new(), publication()?);
    // One more event than the replay reads: the replay begins after it.
    let first = runtime.block_on(store.publish(std::slice::from_ref(&publication)));
    let first = first.into_iter().next().context("one publication, one answer")??.position;
    runtime.block_on(append_all(&store, &publication))?;
    let replayed = counted(|| {
        runtime.block_on(async {
            let (mut after, mut replayed) = (first, 0);
            while replayed < ROUNDS as usize {
                let Replay::Events { events, .. } = store.replay(&publication.topic, &after, 100).await? else {
                    return Err(anyhow!("the log has a gap"));
                };
                replayed += events.len();
                after = events.last().context("the log ends early")?.0;
            }
            Ok(replayed)
        })
    })?;
    ensure!(replayed == ROUNDS as usize, "more was replayed than is there");
    Ok(())
}
