//! One connection publishes, many receive.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::socket::Poller;
use super::stream::Stream;
use super::{PATIENCE, Plan, Span, Target, dialogue};
use crate::dialect::{Role, TURN};
use crate::latency::Latency;
use crate::wire::Ring;

/// A publisher and its members.
pub(crate) struct Fanout {
    target: Target,
    publisher: Stream,
    members: Vec<Stream>,
    publications: Ring,
    events: Ring,
    depth: usize,
    poller: Poller,
}

/// A publication that not all members have received.
struct Pending {
    missing: usize,
    sent_at: Instant,
}

impl Fanout {
    /// Opens `members`, each subscribed to as many `topics`, and the publisher, for `depth` publications of `size`
    /// bytes in flight.
    pub(crate) fn open(target: &Target, members: usize, depth: usize, size: usize, topics: usize) -> Result<Self> {
        ensure!((1..=TURN).contains(&depth), "between 1 and {TURN} publications can be in flight");
        let (publications, events) = target.dialect.publication(size, topics)?;
        let host = target.address.to_string();
        let members: Vec<Stream> = dialogue::open(target.address, members, target.dialect.member_of(topics, &host))?
            .into_iter()
            .map(Stream::new)
            .collect();
        let publisher = dialogue::open(target.address, 1, target.dialect.opening(Role::Publisher, &host))?
            .pop()
            .map(Stream::new)
            .context("one connection was asked for")?;
        let poller = Poller::new()?;
        for (key, stream) in members.iter().chain([&publisher]).enumerate() {
            poller.watch(stream.socket(), key)?;
        }
        Ok(Self { target: *target, publisher, members, publications, events, depth, poller })
    }

    /// Publishes for the plan's time, then waits for publications still on their way.
    pub(crate) fn run(&mut self, plan: &Plan) -> Result<Span> {
        let begin = Instant::now();
        let mut buffer = vec![0; 64 * 1024];
        let mut latency = Latency::new();
        let mut clock = plan.clock();
        let mut progress = begin;
        let mut pending = VecDeque::with_capacity(self.depth);
        // Publications that every member has: the first of `pending` is the next.
        let mut complete = self.members.first().map_or(0, |member| member.frames(&self.events));
        let before_all = complete;
        let mut total = 0;
        loop {
            let sending = clock.tick(begin)?;
            let measuring = clock.measuring();
            if sending {
                while pending.len() < self.depth {
                    pending.push_back(Pending { missing: self.members.len(), sent_at: Instant::now() });
                    self.publisher.allow(1, &self.publications);
                }
                self.publisher.flush(&self.publications)?;
            } else if pending.is_empty() {
                break;
            }
            for key in self.poller.ready(Duration::from_millis(100))? {
                let Some(member) = self.members.get_mut(key) else {
                    self.publisher.receive_answers(&mut buffer, self.target.dialect.publish_answer())?;
                    self.publisher.flush(&self.publications)?;
                    continue;
                };
                let before = member.frames(&self.events);
                member.receive(&mut buffer, &self.events)?;
                let after = member.frames(&self.events);
                member.flush(&self.events)?;
                if after == before {
                    continue;
                }
                let now = Instant::now();
                progress = now;
                for event in before..after {
                    let index = usize::try_from(event - complete)?;
                    let publication = pending.get_mut(index).context("a member got more than was published")?;
                    publication.missing -= 1;
                    if measuring {
                        latency.record(u64::try_from((now - publication.sent_at).as_nanos())?);
                    }
                }
                total += after - before;
                if measuring {
                    clock.count(after - before);
                }
                while pending.front().is_some_and(|publication| publication.missing == 0) {
                    pending.pop_front();
                    complete += 1;
                }
            }
            ensure!(
                progress.elapsed() < PATIENCE,
                "nothing has been delivered for {PATIENCE:?}: {} publications of {} did not reach every member",
                pending.len(),
                complete - before_all + pending.len() as u64,
            );
        }
        clock.span(latency, total)
    }
}
