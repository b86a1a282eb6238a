//! Handles messages on the bus' connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value};

use super::listener::{Ear, Listener};
use super::node::Bus;
use crate::event;
use strait_core::in_full;

impl Bus {
    /// The handler of a connection's messages: it runs in the connection's task, and never waits.
    pub(super) fn ear(self: &Arc<Self>, listener: &Arc<Listener>) -> Ear {
        let (bus, listener) = (Arc::downgrade(self), Arc::downgrade(listener));
        Box::new(move |info: PushInfo| {
            let (Some(bus), Some(listener)) = (bus.upgrade(), listener.upgrade()) else { return };
            match info.kind {
                PushKind::SMessage => {
                    let mut data = info.data.into_iter();
                    if let (Some(Value::BulkString(channel)), Some(Value::BulkString(frame))) =
                        (data.next(), data.next())
                    {
                        bus.hear(&listener, &channel, &frame.into());
                    }
                }
                PushKind::SUnsubscribe => {
                    if let Some(Value::BulkString(channel)) = info.data.first() {
                        bus.farewell(channel);
                    }
                }
                PushKind::Disconnection => bus.needed.notify_one(),
                _ => {}
            }
        })
    }

    fn hear(&self, listener: &Listener, channel: &[u8], frame: &Bytes) {
        let (Some(sink), Ok(channel)) = (self.sink(), std::str::from_utf8(channel)) else { return };
        if let Some(topic) = self.store.keys.topic_of_channel(channel) {
            let heard = self.topics.read().get(topic).cloned();
            match (heard, event::split_frame(frame)) {
                (Some(heard), Ok(events)) => heard.events(events, &*sink),
                (Some(_), Err(error)) => tracing::error!(error = %in_full(&error), "an event was not understood"),
                (None, _) => self.unwanted(channel),
            }
        } else if channel == self.mailbox.channel {
            match event::split_frame(frame) {
                Ok(commands) => {
                    for (position, blob) in commands {
                        if self.mailbox.command(position, blob, &*sink) {
                            self.needed.notify_one();
                        }
                    }
                }
                Err(error) => tracing::error!(error = %in_full(&error), "a command was not understood"),
            }
        } else {
            self.probed(listener, frame);
        }
    }

    /// Measures a probe's round trip; the probe holds the time of its sending, in microseconds after the origin.
    fn probed(&self, listener: &Listener, frame: &[u8]) {
        let sent = std::str::from_utf8(frame).ok().and_then(|text| text.strip_prefix(&self.token));
        let Some(sent) = sent.and_then(|sent| sent.trim().parse::<u64>().ok()) else { return };
        listener.prove();
        let lag = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_sub(sent);
        self.lag.store(lag, Ordering::Release);
        metrics::gauge!("strait_bus_lag_seconds").set(lag as f64 / 1e6);
    }

    /// A subscription has ended: checks whether this node ended it.
    fn farewell(&self, channel: &[u8]) {
        let Ok(channel) = std::str::from_utf8(channel) else { return };
        let topic = self.store.keys.topic_of_channel(channel);
        let heard = topic.and_then(|topic| self.topics.read().get(topic).cloned());
        if let Some(heard) = &heard {
            heard.on.store(0, Ordering::Release);
        }
        if channel == self.mailbox.channel {
            self.mailbox.on.store(0, Ordering::Release);
            self.mailbox.doubt();
        }
        if heard.is_some() || channel == self.mailbox.channel || topic.is_none() {
            self.moved.store(true, Ordering::Release);
            self.needed.notify_one();
        }
    }

    fn unwanted(&self, channel: &str) {
        let mut unwanted = self.unwanted.lock();
        if unwanted.len() < 1024 && !unwanted.iter().any(|known| known == channel) {
            unwanted.push(channel.to_owned());
            self.needed.notify_one();
        }
    }
}
