//! Recovery after a break in the feed: retained topics are replayed from the node's position, the others have a gap.

use std::collections::HashSet;
use std::sync::Arc;

use strait_core::store::{Replay, StoreError};
use strait_core::{Position, Topic};

use super::hearing::{Registration, Start};
use super::node::{Change, Node, hear};
use crate::database::{Lane, Values};
use crate::store::PostgresStore;
use crate::values::{Read, get};

/// The events of one replay.
const AT_ONCE: usize = 500;

/// Catches up, at a new place if the node has lost its own. Polling continues from its mark, which is older than
/// the heads, so that no event falls in between.
pub(super) async fn resync(store: &PostgresStore, node: &Arc<Node>, is_on: bool) -> Result<(), StoreError> {
    let starts = begin_anew(store, node, is_on).await?;
    tell_of_crash(store, node, &starts).await?;
    for start in starts {
        catch_up(store, node, &start.topic, start.head).await?;
    }
    Ok(())
}

/// Reports a gap in all topics without a log after a crash, even if their heads show none. The crash rolled back
/// acknowledged events that were not yet on the disk, so a head may equal this node's position.
async fn tell_of_crash(store: &PostgresStore, node: &Node, starts: &[Start]) -> Result<(), StoreError> {
    if !node.hearing().is_some_and(|hearing| hearing.has_crashed) {
        return Ok(());
    }
    let names: Vec<_> = starts.iter().map(|start| start.topic.as_str()).collect();
    let rows = store.rows("resync", Lane::Vital, &store.inner.sql.passing, Values::new().with(names)).await?;
    let passing: Read<HashSet<String>> = rows.iter().map(|row| get(row, "name")).collect();
    let passing = store.read("resync", passing)?;
    if let Some(mut hearing) = node.hearing() {
        let lost = starts.iter().filter(|start| passing.contains(start.topic.as_str()));
        lost.for_each(|start| hearing.skip_to(&start.topic, start.head));
        hearing.has_crashed = false;
    }
    Ok(())
}

async fn begin_anew(store: &PostgresStore, node: &Node, is_on: bool) -> Result<Vec<Start>, StoreError> {
    let _changing = node.changing.write().await;
    let Some((registration, topics)) = place(store, node, is_on).await? else { return Ok(Vec::new()) };
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    metrics::counter!("strait_postgres_resyncs_total").increment(1);
    let Some(asked) = node.hearing().map(|mut hearing| hearing.ask()) else { return Ok(Vec::new()) };
    let change = Change { asked, on: topics.iter().map(|(topic, _)| topic).collect(), off: Vec::new() };
    let starts = hear(store, "resync", Lane::Vital, &registration, &change).await?;
    if let Some(mut hearing) = node.hearing() {
        hearing.renumber(starts.iter());
    }
    Ok(starts)
}

/// The node's place on the bus, or a new one if it is lost, and the node's topics. `None` if the node has left, the
/// usual reason for a lost place.
async fn place(
    store: &PostgresStore,
    node: &Node,
    is_on: bool,
) -> Result<Option<(Registration, Vec<(Topic, Position)>)>, StoreError> {
    if is_on || node.hearing().is_none() {
        return Ok(node.hearing().map(|hearing| (hearing.registration.clone(), hearing.all())));
    }
    let registration = Registration::new(store, &node.id).await?;
    let kept = node.hearing().map(|mut hearing| {
        hearing.has_crashed |= hearing.registration.life != registration.life;
        hearing.registration = registration.clone();
        hearing.all()
    });
    match kept {
        Some(topics) => Ok(Some((registration, topics))),
        // The node left meanwhile.
        None => {
            registration.give_back_soon(store, false);
            Ok(None)
        }
    }
}

async fn catch_up(store: &PostgresStore, node: &Node, topic: &Topic, head: Position) -> Result<(), StoreError> {
    loop {
        let last = match node.hearing().and_then(|hearing| hearing.last(topic)) {
            Some((_, last)) if last != head => last,
            _ => return Ok(()),
        };
        let replay = store.replay_from("resync", Lane::Vital, topic.as_str(), &last, AT_ONCE).await?;
        let Some(mut hearing) = node.hearing() else { return Ok(()) };
        match replay {
            Replay::Events { events, more, .. } => {
                let Some((number, _)) = hearing.last(topic) else { return Ok(()) };
                events.into_iter().for_each(|(position, event)| hearing.event(number, position, event));
                if !more {
                    return Ok(());
                }
            }
            Replay::Gap { head } => {
                hearing.skip_to(topic, head);
                return Ok(());
            }
        }
    }
}
