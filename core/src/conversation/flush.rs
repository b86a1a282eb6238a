//! A drained channel sends all events with an answered publisher before its close frame.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::channel::Channel;

/// A publisher may get its answer this long before the event comes back by the bus.
const BUS: Duration = Duration::from_millis(25);
/// The interval of looks at the lanes.
const LOOK: Duration = Duration::from_millis(5);
/// The longest wait of a close on a node that delivers without a pause.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits until the outlet has all events of the channel's topics that came to this node.
pub(super) struct Flush {
    until: Instant,
    look: Pin<Box<Sleep>>,
}

impl Flush {
    pub(super) fn new() -> Self {
        Self { until: Instant::now() + LONGEST, look: Box::pin(sleep(BUS)) }
    }

    pub(super) fn poll(&mut self, channel: &Channel, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            let now = Instant::now();
            if now >= self.until || !channel.app().hub().delivers_to(channel) {
                return Poll::Ready(());
            }
            self.look.as_mut().reset(now + LOOK);
        }
    }
}
