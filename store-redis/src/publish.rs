//! Publishing: the publications of one topic in a slice go in one script and one message on its shard channel.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use redis::Value;
use strait_core::store::{Publication, Published, StoreError};
use strait_core::{Position, Topic};

use crate::call::Call;
use crate::error::Failure;
use crate::event::{self, Foreign};
use crate::reply::{integer, position};
use crate::scripts;
use crate::store::{Inner, milliseconds};

/// The shortest time for which an idempotency key is remembered.
const KEY_TIME: Duration = Duration::from_secs(300);
/// The limits of one script, so that it does not block Redis for long.
pub(crate) const MOST_EVENTS: usize = 256;
pub(crate) const MOST_BYTES: usize = 256 * 1024;
/// A script lets keys live an eighth longer than they must. The expiry is extended again after this share of the time.
const PUT_OFF: u32 = 16;
/// Entries for remembered expiries. Two topics with one entry extend theirs more often than they need.
const PLACES: usize = 4096;

/// The publications of one topic in one call.
struct Group<'a> {
    topic: &'a Topic,
    /// The publications' indices in the slice, with their checks.
    members: Vec<(usize, u32)>,
    events: Vec<Vec<u8>>,
    bytes: usize,
    due: Option<Instant>,
}

impl Group<'_> {
    fn takes(&self, publications: &[Publication], next: &Publication) -> bool {
        let first = &publications[self.members[0].0];
        self.members.len() < MOST_EVENTS
            && self.bytes < MOST_BYTES
            && first.retention == next.retention
            && first.key.is_none()
            && next.key.is_none()
    }
}

/// The times at which topics' expiries were last extended.
#[derive(Debug)]
pub(crate) struct Expiries {
    hasher: RandomState,
    places: Mutex<Vec<(u64, Option<Instant>)>>,
}

impl Expiries {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::default(), places: Mutex::new(vec![(0, None); PLACES]) }
    }

    fn hash(&self, of: &Publication) -> u64 {
        self.hasher.hash_one((&of.topic, of.retention.map(|retention| retention.age)))
    }

    fn is_due(&self, of: &Publication, now: Instant, time: Duration) -> bool {
        let hash = self.hash(of);
        match self.places.lock()[hash as usize % PLACES] {
            (known, Some(at)) if known == hash => now.duration_since(at) >= time / PUT_OFF,
            _ => true,
        }
    }

    fn put_off(&self, of: &Publication, at: Instant) {
        let hash = self.hash(of);
        self.places.lock()[hash as usize % PLACES] = (hash, Some(at));
    }
}

impl Inner {
    pub(crate) async fn publish(&self, publications: &[Publication]) -> Vec<Result<Published, StoreError>> {
        let groups = self.grouped(publications);
        let calls: Vec<Call> = groups.iter().map(|group| self.group(group, publications)).collect();
        let answers = self.router.attempt(&calls).await;
        let mut all: Vec<Option<Result<Published, StoreError>>> = (0..publications.len()).map(|_| None).collect();
        for (group, answer) in groups.into_iter().zip(answers) {
            if let (Ok(_), Some(at)) = (&answer, group.due) {
                self.expiries.put_off(&publications[group.members[0].0], at);
            }
            let answer = answer.and_then(|answer| published(&answer).map_err(Failure::from));
            if let (Ok(first), Some((_, check))) = (&answer, group.members.last())
                && !first.duplicate
            {
                let offset = first.position.offset + group.members.len() as u64 - 1;
                self.acknowledged(group.topic, Position { offset, check: *check, ..first.position });
            }
            for (n, (at, check)) in group.members.into_iter().enumerate() {
                let answer = answer.clone().map(|mut published| {
                    if !published.duplicate {
                        published.position.offset += n as u64;
                        published.position.check = check;
                    }
                    published
                });
                all[at] = Some(answer.map_err(|failure| failure.store("publish")));
            }
        }
        let missing = || Err(Failure::Foreign("no answer").store("publish"));
        all.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    /// Groups publications by topic and keeps their order.
    fn grouped<'a>(&self, publications: &'a [Publication]) -> Vec<Group<'a>> {
        let now = Instant::now();
        let mut groups: Vec<Group<'a>> = Vec::new();
        let mut last: HashMap<&Topic, usize, RandomState> = HashMap::default();
        for (at, publication) in publications.iter().enumerate() {
            let open = last.get(&publication.topic).copied();
            let group = match open.filter(|open| groups[*open].takes(publications, publication)) {
                Some(open) => open,
                None => {
                    let time = publication.retention.map_or(self.config.topic_time, |retention| retention.age);
                    let due = self.expiries.is_due(publication, now, time.min(self.config.topic_time)).then_some(now);
                    let topic = &publication.topic;
                    groups.push(Group { topic, members: Vec::new(), events: Vec::new(), bytes: 0, due });
                    last.insert(topic, groups.len() - 1);
                    groups.len() - 1
                }
            };
            let (group, event) = (&mut groups[group], event::encode(&publication.event));
            group.bytes += event.len();
            group.members.push((at, self.random.check()));
            group.events.push(event);
        }
        groups
    }

    fn group(&self, group: &Group<'_>, publications: &[Publication]) -> Call {
        let first = &publications[group.members[0].0];
        let topic = self.keys.topic(group.topic);
        let mut keys = vec![topic.meta(), topic.log(), topic.members()];
        keys.extend(first.key.as_deref().map(|key| topic.idempotency(key)));
        let retention = first.retention;
        let age = retention.map_or(Duration::ZERO, |retention| retention.age);
        let plain = retention.is_none() && first.key.is_none();
        let script = if plain { &scripts::PASS } else { &scripts::PUBLISH };
        let mut call = Call::script(script, topic.slot(), &keys)
            .arg(topic.channel())
            .arg(self.random.epoch())
            .arg(group.members.len())
            .arg(milliseconds(self.config.topic_time.max(age)))
            .arg(u8::from(group.due.is_some()));
        let checks = || group.members.iter().map(|(_, check)| *check);
        let mut frame = event::frame_start(checks().zip(group.events.iter().map(Vec::len)));
        if plain {
            frame.push(b'\n');
            group.events.iter().for_each(|event| frame.extend_from_slice(event));
            let last = checks().next_back().unwrap_or_default();
            return call.arg(last).arg(frame).once();
        }
        call = call.arg(milliseconds(age.max(KEY_TIME)));
        call =
            call.arg(retention.map_or(0, |retention| retention.count)).arg(retention.map_or(0, |_| milliseconds(age)));
        call = checks().fold(call, Call::arg);
        call = group.events.iter().fold(call, |call, event| call.arg(&event[..])).arg(frame);
        // The idempotency key reveals a second attempt.
        if first.key.is_some() { call } else { call.once() }
    }
}

/// The first event's position, with 1 for its check if the topic has indexed members. For a known idempotency key, the
/// earlier publication's position and the same flag.
fn published(answer: &Value) -> Result<Published, Foreign> {
    match answer {
        Value::Array(before) => match &before[..] {
            [at, indexed] => {
                Ok(Published { position: position(at)?, indexed: integer(indexed)? == 1, duplicate: true })
            }
            _ => Err(Foreign),
        },
        place => {
            let place: Position = position(place)?;
            Ok(Published { indexed: place.check == 1, position: place, duplicate: false })
        }
    }
}
