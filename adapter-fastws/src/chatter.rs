//! Limits input beyond the endpoint's limits: control frames, tiny fragments, messages beyond the rate, and bytes after
//! the end of a conversation. The node answers it, but beyond a limit for each window it stops reading until the window
//! is over. The input then waits in the client's own kernel.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

/// The limit of one window. A well-behaved client sends a ping now and then.
pub(crate) const MOST: u32 = 32;
const WINDOW: Duration = Duration::from_millis(100);
/// A fragment below this length carries less than its header costs.
const TINY: usize = 8;
/// This many dropped bytes count as one.
const WASTE: usize = 8 * 1024;

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(crate) struct Chatter {
    /// The beginning of the window, and the count in it.
    since: Option<Instant>,
    count: u32,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Chatter {
    pub(crate) fn add(&mut self, now: Instant) {
        self.add_many(1, now);
    }

    /// Counts a fragment of a message.
    pub(crate) fn add_part(&mut self, length: usize, now: Instant) {
        if length < TINY {
            self.add(now);
        }
    }

    /// Counts bytes that are dropped.
    pub(crate) fn add_waste(&mut self, length: usize, now: Instant) {
        self.add_many(1 + (length / WASTE) as u32, now);
    }

    fn add_many(&mut self, count: u32, now: Instant) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(count);
    }

    pub(crate) fn is_too_much(&self) -> bool {
        self.count >= MOST
    }

    /// Pending while the node must not read from the client.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(since) = self.since
            && self.is_too_much()
        {
            let rest = self.rest.get_or_insert_with(|| Box::pin(sleep_until((since + WINDOW).into())));
            ready!(rest.as_mut().poll(cx));
            *self = Self::default();
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(chatter: &mut Chatter) -> bool {
        chatter.poll_rest(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn a_window_has_its_measure_and_the_next_one_begins_anew() {
        let (mut chatter, now) = (Chatter::default(), Instant::now());
        (1..MOST).for_each(|_| chatter.add(now));
        assert!(!chatter.is_too_much() && !waits(&mut chatter));
        chatter.add(now);
        assert!(chatter.is_too_much() && waits(&mut chatter));
        tokio::time::sleep(WINDOW).await;
        assert!(!waits(&mut chatter) && !chatter.is_too_much());
        (1..MOST).for_each(|_| chatter.add(now));
        chatter.add(now + WINDOW);
        assert!(!chatter.is_too_much(), "what came in an earlier window is forgotten");
    }

    #[test]
    fn parts_count_that_carry_next_to_nothing() {
        let (mut chatter, now) = (Chatter::default(), Instant::now());
        (0..1000).for_each(|_| chatter.add_part(TINY, now));
        assert!(!chatter.is_too_much());
        (0..MOST).for_each(|_| chatter.add_part(TINY - 1, now));
        assert!(chatter.is_too_much());
    }

    #[test]
    fn waste_counts_by_its_size() {
        let (mut chatter, now) = (Chatter::default(), Instant::now());
        chatter.add_waste(WASTE * (MOST as usize - 2), now);
        assert!(!chatter.is_too_much());
        chatter.add_waste(0, now);
        assert!(chatter.is_too_much());
    }
}
