//! Ask and be answered, with a fixed number of messages in flight on each connection.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::socket::Poller;
use super::stream::Stream;
use super::{PATIENCE, Plan, Span, Target};
use crate::dialect::{Role, TURN};
use crate::latency::Latency;
use crate::load::dialogue;
use crate::wire::Ring;

/// Open connections, ready to be driven.
pub(crate) struct Echo {
    streams: Vec<Stream>,
    asks: Ring,
    answers: Ring,
    depth: u64,
    poller: Poller,
}

impl Echo {
    /// Opens `connections`, for `depth` messages of `size` bytes in flight on each.
    pub(crate) fn open(target: &Target, connections: usize, depth: usize, size: usize) -> Result<Self> {
        ensure!((1..=TURN).contains(&depth), "between 1 and {TURN} messages can be in flight on a connection");
        let (asks, answers) = target.dialect.echo(size)?;
        let steps = target.dialect.opening(Role::Echo, &target.address.to_string());
        let streams: Vec<Stream> =
            dialogue::open(target.address, connections, steps)?.into_iter().map(Stream::new).collect();
        let poller = Poller::new()?;
        for (key, stream) in streams.iter().enumerate() {
            poller.watch(stream.socket(), key)?;
        }
        Ok(Self { streams, asks, answers, depth: depth as u64, poller })
    }

    /// Drives them for the plan's time, then waits for all messages in flight.
    pub(crate) fn run(&mut self, plan: &Plan) -> Result<Span> {
        let begin = Instant::now();
        let nanos = || u64::try_from(begin.elapsed().as_nanos()).expect("a run lasts less than 500 years");
        let mut sent_at = vec![[0_u64; TURN]; self.streams.len()];
        let mut buffer = vec![0; 64 * 1024];
        let mut latency = Latency::new();
        let mut clock = plan.clock();
        let mut in_flight = 0;
        let mut progress = begin;
        let already: u64 = self.streams.iter().map(|stream| stream.frames(&self.answers)).sum();
        for (stream, sent_at) in self.streams.iter_mut().zip(&mut sent_at) {
            *sent_at = [nanos(); TURN];
            stream.allow(self.depth, &self.asks);
            stream.flush(&self.asks)?;
            in_flight += self.depth;
        }
        while in_flight > 0 {
            let sending = clock.tick(begin)?;
            let measuring = clock.measuring();
            let mut any = false;
            for key in self.poller.ready(Duration::from_millis(100))? {
                any = true;
                let (stream, sent_at) = (&mut self.streams[key], &mut sent_at[key]);
                let before = stream.frames(&self.answers);
                stream.receive(&mut buffer, &self.answers)?;
                let after = stream.frames(&self.answers);
                if after > before {
                    let now = nanos();
                    for frame in before..after {
                        // The reply's own slot is free again: a turn holds more messages than are ever in flight.
                        let slot = (frame % TURN as u64) as usize;
                        if measuring {
                            latency.record(now - sent_at[slot]);
                        }
                        sent_at[((frame + self.depth) % TURN as u64) as usize] = now;
                    }
                    if measuring {
                        clock.count(after - before);
                    }
                    if sending {
                        stream.allow(after - before, &self.asks);
                    } else {
                        in_flight -= after - before;
                    }
                }
                stream.flush(&self.asks)?;
            }
            if any {
                progress = Instant::now();
            }
            ensure!(
                progress.elapsed() < PATIENCE,
                "the server owes {in_flight} answers and has been silent for {PATIENCE:?}"
            );
        }
        let all: u64 = self.streams.iter().map(|stream| stream.frames(&self.answers)).sum();
        clock.span(latency, all - already)
    }
}
