//! Sends and closes for one channel or one user, wherever it is connected; and queries of a topic.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{EventHub, Inner, PAGE};
use crate::close::Close;
use crate::error::Error;
use crate::event::{Event, EventKind, Payload, Position};
use crate::frame::Frame;
use crate::name::{ChannelId, Topic, UserId};
use crate::store::{Command, Delivered, Location, Page, Present, RecordPhase, Sink};

impl EventHub {
    /// Sends to one channel, wherever it is connected; `false` if there is no such channel. A detached channel gets the
    /// message after it resumes.
    ///
    /// # Errors
    /// The store's error.
    pub async fn send(&self, id: &ChannelId, payload: Payload) -> Result<bool, Error> {
        if let Some(channel) = self.0.channel(id)
            && channel.inner.endpoint.grace.is_none()
        {
            channel.send(&payload).await?;
            return Ok(true);
        }
        Ok(self.send_all(std::slice::from_ref(id), payload).await? > 0)
    }

    /// Sends to every channel of a user, and returns the number of channels.
    ///
    /// # Errors
    /// The store's error; some channels may have got the message.
    pub async fn send_to_user(&self, user: &UserId, payload: Payload) -> Result<usize, Error> {
        let mut sent = 0;
        let topic = Topic::of_user(user)?;
        let mut cursor = None;
        loop {
            let page = self.0.store.members(&topic, cursor.as_deref(), PAGE).await?;
            let ids: Vec<_> = page.items.into_iter().map(|member| member.fence.id).collect();
            sent += self.send_all(&ids, payload.clone()).await?;
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(sent),
            }
        }
    }

    async fn send_all(&self, ids: &[ChannelId], payload: Payload) -> Result<usize, Error> {
        let event = Arc::new(Event::message(payload));
        let sends: Vec<_> = ids.iter().map(|id| (id.clone(), Arc::clone(&event))).collect();
        let mut sent = 0;
        let mut at_gateways = Vec::new();
        let delivered = self.0.store.deliver(&sends).await?;
        for ((channel, event), delivered) in sends.into_iter().zip(delivered) {
            sent += usize::from(match delivered {
                Delivered::Absent => false,
                Delivered::Stored(_) => true,
                Delivered::At { location: location @ Location::Gateway { .. }, .. } => {
                    at_gateways.push((channel, location));
                    false
                }
                Delivered::At { location, position } => {
                    self.command(&location, Command::Deliver { channel, position, event }).await?
                }
            });
        }
        if !at_gateways.is_empty() {
            sent += self.send_at_gateway(&at_gateways, &event).await?;
        }
        Ok(sent)
    }

    /// Closes a channel, wherever it is connected; `false` if it is not.
    ///
    /// # Errors
    /// The store's error.
    pub async fn close_channel(&self, id: &ChannelId, close: Close) -> Result<bool, Error> {
        if let Some(channel) = self.0.channel(id) {
            channel.close(close);
            return Ok(true);
        }
        match self.0.store.get(id).await? {
            Some(record) if matches!(record.phase, RecordPhase::Opening | RecordPhase::Open) => {
                self.command(&record.location, Command::Close { channel: id.clone(), close }).await
            }
            Some(_) | None => Ok(false),
        }
    }

    /// Closes every channel of a user, and returns their number.
    ///
    /// # Errors
    /// The store's error; some channels may be closed.
    pub async fn close_user(&self, user: &UserId, close: Close) -> Result<usize, Error> {
        let topic = Topic::of_user(user)?;
        let (mut closed, mut cursor) = (0, None);
        loop {
            let page = self.0.store.members(&topic, cursor.as_deref(), PAGE).await?;
            for member in page.items {
                let command = Command::Close { channel: member.fence.id, close: close.clone() };
                closed += usize::from(self.command(&member.location, command).await?);
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(closed),
            }
        }
    }

    /// One page of the channels that are present in a topic.
    ///
    /// # Errors
    /// The store's error.
    pub async fn presence(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Present>, Error> {
        Ok(self.0.store.presence(topic, cursor, limit).await?)
    }

    /// The last `limit` kept events of a topic, in order. [`AppBuilder::retain`] sets the number of events that are
    /// kept.
    ///
    /// # Errors
    /// The store's error.
    ///
    /// [`AppBuilder::retain`]: crate::AppBuilder::retain
    pub async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, Error> {
        Ok(self.0.store.history(topic, limit).await?)
    }

    async fn command(&self, location: &Location, command: Command) -> Result<bool, Error> {
        match location {
            Location::Node { node, .. } if *node == self.0.node => {
                let here = self.0.channel(command.channel()).is_some();
                self.0.command(command);
                Ok(here)
            }
            Location::Node { node, .. } => Ok(self.bus_to_send().await?.send(node, &[command]).await?),
            Location::Gateway { .. } => {
                let Command::Close { channel, close } = command else { return Ok(false) };
                match self.0.store.get(&channel).await? {
                    Some(record) if record.phase != RecordPhase::Dead => {
                        Ok(self.close_at_gateway(record, &close).await)
                    }
                    Some(_) | None => Ok(false),
                }
            }
        }
    }
}

impl Sink for Inner {
    fn events(&self, topic: &Topic, events: &[(Position, Arc<Event>)]) {
        if let Some(members) = self.members(topic) {
            self.delivery[self.shard(topic)].push(&members, events);
        }
    }

    fn command(&self, command: Command) {
        match command {
            Command::Deliver { channel, event, .. } => {
                if let Some(channel) = self.channel(&channel)
                    && event.kind == EventKind::Message
                {
                    channel.inner.outlet.send(&Frame::of(&event.payload));
                }
            }
            Command::Close { channel, close } => {
                if let Some(channel) = self.channel(&channel) {
                    channel.close(close);
                }
            }
            Command::Evict { fence } => {
                if let Some(channel) = self.channel(&fence.id)
                    && channel.fence().generation <= fence.generation
                {
                    channel.displace();
                }
            }
        }
    }

    fn gap(&self, topics: &[Topic]) {
        for topic in topics {
            if let Some(members) = self.members(topic) {
                self.delivery[self.shard(topic)].gap(&members);
            }
        }
    }

    fn reconnected(&self) {
        self.comparison.ask();
    }

    fn runtime(&self, topic: &Topic) -> Option<Handle> {
        let runtimes = self.runtimes.lock();
        runtimes.get(self.shard(topic) % runtimes.len().max(1)).cloned()
    }

    fn relay(&self, topics: &[Topic]) {
        if self.gateways.gateway.is_some()
            && let Some(app) = self.gateways.app()
        {
            topics.iter().for_each(|topic| app.hub().resume_relay(topic));
        }
    }
}
