//! Publishing: each lane has one slice in flight, and later publications queue for the next slice.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{EventHub, Inner};
use crate::error::Error;
use crate::event::{Event, Payload, Retention};
use crate::name::Topic;
use crate::store::{MAX_KEY, MAX_PAYLOAD, Publication, Published, StoreError};

type Answer = Result<Published, StoreError>;

/// A publication.
#[derive(Debug, Clone)]
#[must_use]
pub struct Publish {
    topic: Topic,
    event: Event,
    key: Option<Arc<str>>,
}

impl Publish {
    /// Publishes a payload from outside of any channel.
    pub fn new(topic: Topic, payload: Payload) -> Self {
        Self::event(topic, Event::message(payload))
    }

    /// Publishes an event unchanged.
    pub fn event(topic: Topic, event: Event) -> Self {
        Self { topic, event, key: None }
    }

    /// A second publication on the topic with the same key, for example after an error, publishes nothing new. See
    /// [`Publication::key`](crate::store::Publication::key). A key has 1 to [`MAX_KEY`] bytes.
    pub fn key(mut self, key: impl AsRef<str>) -> Self {
        self.key = Some(Arc::from(key.as_ref()));
        self
    }
}

/// The publications of some topics.
#[derive(Default)]
pub(super) struct Lane(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    busy: bool,
    next: Vec<(Publication, oneshot::Sender<Answer>)>,
}

/// Frees a lane when its slice ends, however it ends: after a panic the waiting publishers get an error.
struct Busy {
    hub: Arc<Inner>,
    at: usize,
    released: bool,
}

impl Busy {
    fn queue(&self) -> &Mutex<Queue> {
        &self.hub.lanes[self.at].0
    }

    /// Frees the lane, unless publications have queued meanwhile.
    fn release(mut self) -> Option<Self> {
        let free = {
            let mut queue = self.queue().lock();
            queue.busy = !queue.next.is_empty();
            !queue.busy
        };
        self.released = free;
        (!free).then_some(self)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if !self.released {
            let mut queue = self.queue().lock();
            queue.busy = false;
            queue.next.clear();
        }
    }
}

impl EventHub {
    /// Publishes on a topic, to every subscriber in every deployment.
    ///
    /// # Errors
    /// `invalid` for a key or a payload that is too long ([`MAX_KEY`], [`MAX_PAYLOAD`]), or an empty key. The store's
    /// error: nothing was delivered then, unless only its answer was lost.
    pub async fn publish(&self, publish: Publish) -> Result<Published, Error> {
        let Publish { topic, event, key } = publish;
        if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_KEY) {
            return Err(Error::invalid("an idempotency key has 1 to 256 bytes"));
        }
        if event.payload.bytes().len() > MAX_PAYLOAD {
            return Err(Error::invalid("a published payload has at most 1048576 bytes"));
        }
        let at = self.0.shard(&topic);
        let retention = self.retention(&topic);
        let event = Arc::new(event);
        let publication = Publication { topic: topic.clone(), event: Arc::clone(&event), retention, key };
        let published = self.store_publication(at, publication).await??;
        if published.indexed && (retention.is_some() || !published.duplicate) {
            self.fan_out(&topic, published.position, &event, retention.is_some());
        }
        self.0.delivery[at].room().await;
        Ok(published)
    }

    pub(crate) fn retention(&self, topic: &Topic) -> Option<Retention> {
        let found = self.0.settings.retentions.iter().find(|(prefix, _)| topic.as_str().starts_with(prefix));
        found.map(|(_, retention)| *retention)
    }

    fn take_lane(&self, at: usize, publication: Publication) -> Turn {
        let mut queue = self.0.lanes[at].0.lock();
        if queue.busy {
            let (sender, answer) = oneshot::channel();
            queue.next.push((publication, sender));
            return Turn::Queued(answer);
        }
        queue.busy = true;
        Turn::Now(publication, Busy { hub: Arc::clone(&self.0), at, released: false })
    }

    /// Hands a publication to the store, and finishes it even if the caller is dropped.
    async fn store_publication(&self, at: usize, publication: Publication) -> Result<Answer, Error> {
        let lost = || Error::internal("a publication was lost because another one of its slice panicked");
        let (publication, busy) = match self.take_lane(at, publication) {
            Turn::Now(publication, busy) => (publication, busy),
            Turn::Queued(answer) => return answer.await.map_err(|_| lost()),
        };
        let hub = Arc::clone(&self.0);
        let mut first = Box::pin(async move { hub.store.publish(std::slice::from_ref(&publication)).await });
        // A store in memory answers at once; the call to any other one goes on in its own task.
        if let Poll::Ready(answers) = pin!(&mut first).poll(&mut Context::from_waker(Waker::noop())) {
            if let Some(busy) = busy.release() {
                tokio::spawn(rest(busy));
            }
            return answers.into_iter().next().ok_or_else(lost);
        }
        let (sender, answer) = oneshot::channel();
        tokio::spawn(async move {
            let answers = first.await;
            if let Some(answer) = answers.into_iter().next() {
                let _ = sender.send(answer);
            }
            if let Some(busy) = busy.release() {
                rest(busy).await;
            }
        });
        answer.await.map_err(|_| lost())
    }
}

/// Whether a publication is sent now, or with the lane's next slice.
enum Turn {
    Now(Publication, Busy),
    Queued(oneshot::Receiver<Answer>),
}

/// Publishes the queue, slice by slice, until it is empty.
async fn rest(mut busy: Busy) {
    loop {
        let slice = std::mem::take(&mut busy.queue().lock().next);
        let (publications, senders): (Vec<_>, Vec<_>) = slice.into_iter().unzip();
        for (answer, sender) in busy.hub.store.publish(&publications).await.into_iter().zip(senders) {
            // The publisher may be gone already.
            let _ = sender.send(answer);
        }
        match busy.release() {
            Some(held) => busy = held,
            None => return,
        }
    }
}
