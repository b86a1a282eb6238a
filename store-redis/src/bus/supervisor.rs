//! Keeps a node's subscriptions alive: reconnects, subscribes again, and proves it with probes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use strait_core::store::StoreError;
use strait_core::{Position, in_full};
use tokio::time::{sleep, sleep_until, timeout, timeout_at};

use super::heard::{Heard, Known};
use super::listener::{Link, Listener, Subscribed};
use super::node::{Bus, Place, register, stays_for};
use crate::call::Call;
use crate::error::Failure;
use crate::event::{Foreign, parse_position};
use crate::reply::{bytes, integer, list, position, text};
use crate::scripts;

/// The topics of one comparison with the heads.
const TOPICS_AT_ONCE: usize = 512;
/// After this many probes the supervisor checks everything again.
const LOOKS: u32 = 5;
/// The pause after a first failure; it grows with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// Mending and probing run side by side: a server that does not answer while it is mended must not stop the probes of
/// the others.
pub(super) async fn run(bus: Arc<Bus>) {
    tokio::join!(keep_mended(&bus), keep_probing(&bus));
}

async fn keep_mended(bus: &Arc<Bus>) {
    let config = Arc::clone(&bus.store.config);
    let (mut registered, mut compared, mut mended) = (Instant::now(), Instant::now(), None::<Instant>);
    let mut pause = FIRST_PAUSE;
    let registration = stays_for(&bus.store) / 4;
    let comparison = config.topic_time / 4;
    loop {
        let wait = if mended.is_none() { Duration::ZERO } else { config.probe_interval };
        // Tasks wake the supervisor when they need it; it also looks around by itself now and then.
        let woken = timeout(wait, bus.needed.notified()).await.is_ok();
        if woken || mended.is_none_or(|at| at.elapsed() >= config.probe_interval * LOOKS) {
            mended = Some(Instant::now());
            match mend(bus).await {
                Ok(()) => pause = FIRST_PAUSE,
                Err(failure) => {
                    tracing::warn!(error = %in_full(&failure), "the bus does not hear, trying again");
                    metrics::counter!("strait_bus_failures_total").increment(1);
                    let half = pause / 2;
                    sleep(half + half.mul_f64(f64::from(bus.store.random.check()) / f64::from(u32::MAX))).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    // If no server gives the assignment of slots, the next attempt fails like this one.
                    let _ = bus.store.router.refresh(bus.deadline()).await;
                    bus.needed.notify_one();
                }
            }
        }
        if registered.elapsed() >= registration {
            registered = Instant::now();
            match register(&bus.store, &bus.node, &bus.token, "stay").await {
                Ok(Some(_)) => {}
                Ok(None) => tracing::error!("another node of this name is on the bus"),
                Err(error) => {
                    tracing::warn!(error = %error.in_full(), "the node's place on the bus could not be renewed");
                }
            }
        }
        if compared.elapsed() >= comparison {
            compared = Instant::now();
            // The comparison also keeps the topics' counters alive.
            if let Err(error) = compare_all(bus).await {
                tracing::warn!(error = %error.in_full(), "what was heard could not be compared with what was published");
            }
        }
    }
}

async fn keep_probing(bus: &Arc<Bus>) {
    let interval = bus.store.config.probe_interval;
    loop {
        let due = Instant::now() + interval;
        let links = not_deaf(bus);
        // A server that does not answer must not hold up the next probes of the others.
        if timeout_at(due.into(), probe(bus, links)).await.is_err() {
            tracing::debug!("not all probes were sent in time");
        }
        // The server no longer takes writes, and its connections were given up.
        if bus.listeners.read().iter().any(|listener| !listener.is_new() && listener.link().is_none()) {
            bus.needed.notify_one();
        }
        sleep_until(due.into()).await;
    }
}

/// Makes every wanted subscription, for each server separately: a server that is away must not delay the others.
async fn mend(bus: &Arc<Bus>) -> Result<(), Failure> {
    if bus.moved.swap(false, Ordering::AcqRel) {
        bus.store.router.refresh(bus.deadline()).await?;
    }
    let topics: Vec<_> = bus.topics.read().values().cloned().collect();
    let (mut places, found) = bus.places(topics).await;
    let own = bus.listener(bus.mailbox.slot, &bus.runtime).await;
    if let Ok(own) = &own
        && !places.iter().any(|(listener, _)| Arc::ptr_eq(listener, own))
    {
        places.push((Arc::clone(own), Vec::new()));
    }
    let each = places.iter().map(|(listener, topics)| {
        let own = own.as_ref().is_ok_and(|own| Arc::ptr_eq(own, listener));
        listen(bus, listener, topics, own)
    });
    let listening: Result<(), Failure> = join_all(each).await.into_iter().collect();
    drop_unwanted(bus).await;
    listening.and(found).and(own)?;
    drop_idle(bus, &places);
    Ok(())
}

/// Makes a listener's missing subscriptions and compares their topics with the heads.
async fn listen(bus: &Arc<Bus>, listener: &Arc<Listener>, topics: &[Arc<Heard>], own: bool) -> Result<(), Failure> {
    let link = bus.link(listener).await?;
    if own {
        listen_to_mailbox(bus).await?;
    }
    let silent: Vec<_> = topics.iter().filter(|heard| !heard.is_on(link.number)).cloned().collect();
    for topics in silent.chunks(TOPICS_AT_ONCE) {
        bus.subscribe_at(listener, &link, topics).await?;
        compare(bus, listener, topics).await.map_err(|error| Failure::of(&error))?;
    }
    // A subscription from another task found another run of the server.
    let doubted: Vec<_> = topics.iter().filter(|heard| heard.is_doubted()).cloned().collect();
    for topics in doubted.chunks(TOPICS_AT_ONCE) {
        compare(bus, listener, topics).await.map_err(|error| Failure::of(&error))?;
    }
    let before = listener.whole.swap(link.number, Ordering::AcqRel);
    if before != link.number
        && let Some(sink) = bus.sink()
    {
        sink.reconnected();
    }
    Ok(())
}

/// Subscribes to the node's mailbox if need be, and reads the commands that it missed.
pub(super) async fn listen_to_mailbox(bus: &Arc<Bus>) -> Result<(), Failure> {
    let mailbox = &bus.mailbox;
    let listener = bus.listener(mailbox.slot, &bus.runtime).await?;
    let link = bus.link(&listener).await?;
    if !mailbox.is_on(link.number) {
        mailbox.doubt();
        match listener.subscribe(&link, std::slice::from_ref(&mailbox.channel), bus.deadline()).await?[..] {
            [Subscribed::Done] => mailbox.on.store(link.number, Ordering::Release),
            _ => {
                bus.moved.store(true, Ordering::Release);
                return Err(Failure::Topology("a slot is being moved".to_owned()));
            }
        }
    }
    while let Some(after) = mailbox.missing_after() {
        let Some(sink) = bus.sink() else { return Ok(()) };
        match commands(bus, &after).await? {
            Ok((commands, more)) => {
                mailbox.read(commands, &*sink);
                if more {
                    continue;
                }
            }
            Err(head) => {
                // Redis may have lost the node's registration along with the log.
                register(&bus.store, &bus.node, &bus.token, "stay").await.map_err(|error| Failure::of(&error))?;
                if head.epoch != after.epoch && head.offset > 0 {
                    // The log has begun anew: every command in it is new.
                    mailbox.lost(Position { offset: 0, check: 0, ..head });
                    continue;
                }
                mailbox.lost(head);
            }
        }
        if mailbox.caught_up() {
            break;
        }
    }
    Ok(())
}

type Commands = (Vec<(Position, Bytes)>, bool);

/// The commands after a position and whether more follow, or the head if some are lost.
async fn commands(bus: &Bus, after: &Position) -> Result<Result<Commands, Position>, Failure> {
    let keys = bus.store.keys.node(&bus.node);
    let call = Call::script(&scripts::REPLAY, keys.slot(), &[keys.mailbox(), keys.mailbox_log()]);
    let answer = bus.store.router.one("commands", bus.store.from(call, after, 256)).await;
    let answer = answer.map_err(|error| Failure::of(&error))?;
    let mut answer = list(answer)?.into_iter();
    let (kind, head) = (answer.next().ok_or(Foreign)?, answer.next().ok_or(Foreign)?);
    let head = position(&head)?;
    if integer(&kind)? == 0 {
        return Ok(Err(head));
    }
    let more = integer(&answer.next().ok_or(Foreign)?)? == 1;
    let mut commands = Vec::new();
    while let Some(id) = answer.next() {
        let at = parse_position(&format!("{}-{}", head.epoch, text(&id)?)).ok_or(Foreign)?;
        commands.push((at, bytes(answer.next().ok_or(Foreign)?)?));
    }
    Ok(Ok((commands, more)))
}

/// Reports a gap for each topic with events that the listener has not received.
async fn compare(bus: &Arc<Bus>, listener: &Listener, topics: &[Arc<Heard>]) -> Result<(), StoreError> {
    // Read before the heads: a position known by now cannot be beyond them, unless Redis lost it.
    let known: Vec<_> = topics.iter().map(|heard| heard.known()).collect();
    let mut heads = bus.heads(topics, "compare").await?;
    begin_lost_anew(bus, topics, &known, &mut heads).await?;
    if let Some(link) = listener.link() {
        listener.barrier(&link, bus.deadline()).await.map_err(|failure| failure.store("compare"))?;
    }
    let Some(sink) = bus.sink() else { return Ok(()) };
    for ((heard, known), head) in topics.iter().zip(&known).zip(heads) {
        heard.compare(known.as_ref(), head, &*sink);
    }
    Ok(())
}

/// Begins another epoch for topics that lost received or acknowledged events, so that all subscribers notice. A client
/// of another node may hold a lost event's position, and would take the next event for it.
async fn begin_lost_anew(
    bus: &Bus,
    topics: &[Arc<Heard>],
    known: &[Option<Known>],
    heads: &mut [Position],
) -> Result<(), StoreError> {
    let (mut lost, mut calls) = (Vec::new(), Vec::new());
    for ((heard, known), head) in topics.iter().zip(known).zip(heads) {
        let Some(known) = known.filter(|known| known.may_be_lost(head)) else { continue };
        let (keys, position) = (bus.store.keys.topic(&heard.topic), known.position());
        let call = Call::script(&scripts::ROLLED_BACK, keys.slot(), &[keys.meta(), keys.log()])
            .arg(keys.channel())
            .arg(bus.store.random.epoch())
            .arg(position.epoch)
            .arg(position.offset)
            .arg(position.check);
        calls.push(call);
        lost.push((heard, head));
    }
    if calls.is_empty() {
        return Ok(());
    }
    let foreign = |foreign| Failure::from(foreign).store("compare");
    for ((heard, head), answer) in lost.into_iter().zip(bus.store.router.all("compare", &calls).await?) {
        let Some(now) = list(answer).map_err(foreign)?.into_iter().next() else { continue };
        let now = position(&now).map_err(foreign)?;
        if now.epoch != head.epoch {
            tracing::warn!(topic = %heard.topic, "the server has lost events that it had acknowledged");
            metrics::counter!("strait_store_rolled_back_total").increment(1);
        }
        *head = now;
    }
    Ok(())
}

async fn compare_all(bus: &Arc<Bus>) -> Result<(), StoreError> {
    let topics: Vec<_> = bus.topics.read().values().cloned().collect();
    let (places, found) = bus.places(topics).await;
    let mut result = found.map_err(|failure| failure.store("compare"));
    for (listener, topics) in places {
        for topics in topics.chunks(TOPICS_AT_ONCE) {
            result = result.and(compare(bus, &listener, topics).await);
        }
    }
    result
}

/// Ends subscriptions that no topic wants any more.
async fn drop_unwanted(bus: &Arc<Bus>) {
    let mut unwanted = std::mem::take(&mut *bus.unwanted.lock());
    unwanted.retain(|channel| {
        let topic = bus.store.keys.topic_of_channel(channel);
        !topic.is_some_and(|topic| bus.topics.read().contains_key(topic))
    });
    if unwanted.is_empty() {
        return;
    }
    let listeners = bus.listeners.read().clone();
    for listener in listeners {
        if let Some(link) = listener.link()
            && let Err(error) = listener.unsubscribe(&link, &unwanted, bus.deadline()).await
        {
            tracing::debug!(error = %in_full(&error), "a subscription could not be ended");
        }
    }
}

/// Closes connections without subscriptions. A wanted listener stays, even if its connection has just ended.
fn drop_idle(bus: &Bus, wanted: &[Place]) {
    let mut used: HashSet<u64> = bus.topics.read().values().map(|heard| heard.on.load(Ordering::Acquire)).collect();
    used.insert(bus.mailbox.on.load(Ordering::Acquire));
    let new = bus.store.config.command_timeout;
    bus.listeners.write().retain(|listener| {
        let is_wanted = wanted.iter().any(|(known, _)| Arc::ptr_eq(known, listener));
        let used = is_wanted
            || match listener.link() {
                // Another task may be about to subscribe on it.
                Some(link) => used.contains(&link.number) || link.since.elapsed() < new,
                None => listener.is_new(),
            };
        if !used {
            listener.hang_up();
        }
        used
    });
}

/// Has each listener's runtime check whether its connection has been silent for too long. Returns the connections that
/// hold all wanted subscriptions.
fn not_deaf(bus: &Arc<Bus>) -> Vec<(Arc<Listener>, Link)> {
    let mut links = Vec::new();
    for listener in bus.listeners.read().iter() {
        let Some(link) = listener.link() else { continue };
        // Until then no probes are sent, and the requests have time-outs of their own.
        if listener.whole.load(Ordering::Acquire) != link.number {
            continue;
        }
        links.push((Arc::clone(listener), link.clone()));
        let (bus, at) = (Arc::clone(bus), Arc::clone(listener));
        listener.spawn(async move { hang_up_if_deaf(&bus, &at, &link) });
    }
    links
}

fn hang_up_if_deaf(bus: &Bus, listener: &Listener, link: &Link) {
    let config = &bus.store.config;
    let silent = listener.count_silence(link, config.probe_interval * 3 / 2);
    let current = listener.link().is_some_and(|current| current.number == link.number);
    if current && silent > config.probe_timeout {
        tracing::warn!(server = %listener.server.address, "the bus is deaf, connecting anew");
        metrics::counter!("strait_bus_deaf_total").increment(1);
        listener.hang_up();
        bus.needed.notify_one();
    }
}

/// Publishes a probe to each server that has subscriptions.
async fn probe(bus: &Arc<Bus>, links: Vec<(Arc<Listener>, Link)>) {
    let mut probes = HashMap::new();
    for (listener, link) in links {
        match hear_probes(bus, &listener, &link).await {
            Ok((channel, slot)) => drop(probes.insert(channel, slot)),
            Err(failure) => tracing::debug!(error = %in_full(&failure), "a probe cannot be heard"),
        }
    }
    let sent = format!("{} {}", bus.token, bus.origin.elapsed().as_micros());
    let call = |(channel, slot)| Call::script(&scripts::PROBE, slot, &[channel]).arg(&sent);
    let calls: Vec<Call> = probes.into_iter().map(call).collect();
    for answer in bus.store.router.run("probe", &calls).await {
        if let Err(error) = answer {
            tracing::debug!(error = %error.in_full(), "a probe could not be sent");
        }
    }
}

/// Subscribes to a listener's probe channel if need be; returns the channel and its slot.
async fn hear_probes(bus: &Arc<Bus>, listener: &Arc<Listener>, link: &Link) -> Result<(String, u16), Failure> {
    let (channel, slot) = probe_channel(bus, listener).await?;
    if link.probe(&channel) {
        listener.subscribe(link, std::slice::from_ref(&channel), bus.deadline()).await?;
    }
    Ok((channel, slot))
}

/// A shard channel in a slot of the listener's server.
async fn probe_channel(bus: &Arc<Bus>, listener: &Listener) -> Result<(String, u16), Failure> {
    let keys = bus.store.keys.node(&bus.node);
    if Arc::ptr_eq(&bus.store.router.server(keys.slot()).await?, &listener.server) {
        return Ok((keys.probe(), keys.slot()));
    }
    for (channel, slot) in bus.store.keys.probes(&bus.node) {
        if Arc::ptr_eq(&bus.store.router.server(slot).await?, &listener.server) {
            return Ok((channel, slot));
        }
    }
    Err(Failure::Topology("the server has no slots any more".to_owned()))
}
