use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{PresenceEntry, Present, Publication, Published, Replay, Subscription};
use strait_core::{ChannelId, Event, EventKind, Position, Topic};

use crate::bus::Mailbox;
use crate::clock::{Tick, Timeline, after};
use crate::idempotency::Keys;
use crate::index::{Index, PresenceRow};
use crate::stream::Stream;

/// How long an idempotency key is remembered at least.
const KEY_TIME: Duration = Duration::from_secs(300);

/// The state of one topic, kept while it has a log, members, a node that hears it, or keys.
#[derive(Debug)]
pub(crate) struct TopicState {
    /// The topic's name, in the one copy that all rows share.
    pub(crate) name: Topic,
    /// When the sweep looks at the topic again; 0 if it is not queued.
    pub(crate) queued: Tick,
    /// Whether the map has dropped the topic: a task that finds it dropped looks it up again.
    pub(crate) removed: bool,
    subscriptions: u32,
    stream: Stream,
    hearers: Box<[Arc<Mailbox>]>,
    index: Option<Box<Index>>,
    keys: Option<Box<Keys>>,
}

impl TopicState {
    pub(crate) fn new(name: Topic, epoch: u64) -> Self {
        Self {
            name,
            queued: 0,
            removed: false,
            subscriptions: 0,
            stream: Stream::new(epoch),
            hearers: Box::default(),
            index: None,
            keys: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.subscriptions == 0 && self.hearers.is_empty() && self.keys.is_none() && !self.stream.keeps()
    }

    pub(crate) fn head(&self) -> Position {
        self.stream.head()
    }

    pub(crate) fn index(&self) -> Option<&Index> {
        self.index.as_deref()
    }

    pub(crate) fn index_mut(&mut self) -> Option<&mut Index> {
        self.index.as_deref_mut()
    }

    fn has_members(&self) -> bool {
        self.index.as_ref().is_some_and(|index| !index.members.is_empty())
    }

    /// Gives an event that is not kept its position, and hands it to the nodes that hear the topic.
    pub(crate) fn pass(&mut self, event: &Arc<Event>) -> Published {
        let position = self.stream.pass();
        self.hand_out(position, event);
        Published { position, indexed: self.has_members(), duplicate: false }
    }

    /// As [`pass`](Self::pass), for a publication with retention or a key.
    pub(crate) fn publish(&mut self, publication: &Publication, now: Tick, most_keys: usize) -> Published {
        if let Some(key) = &publication.key {
            let keys = self.keys.get_or_insert_default();
            keys.trim(now);
            if let Some(position) = keys.get(key) {
                return Published { position, indexed: self.has_members(), duplicate: true };
            }
        }
        let position = match publication.retention {
            Some(retention) => self.stream.keep(&publication.event, retention, now),
            None => self.stream.pass(),
        };
        if let (Some(key), Some(keys)) = (&publication.key, &mut self.keys) {
            let time = publication.retention.map_or(KEY_TIME, |retention| retention.age.max(KEY_TIME));
            keys.insert(Arc::clone(key), position, after(now, time), most_keys);
        }
        self.hand_out(position, &publication.event);
        Published { position, indexed: self.has_members(), duplicate: false }
    }

    pub(crate) fn replay(&mut self, from: &Position, limit: usize, now: Tick) -> Replay {
        self.stream.replay(from, limit, now)
    }

    pub(crate) fn history(&mut self, limit: usize, now: Tick) -> Vec<(Position, Arc<Event>)> {
        self.stream.history(limit, now)
    }

    /// Adds a member. Answers its row, 0 if it needs none.
    pub(crate) fn join(&mut self, subscription: &Subscription, time: &Timeline) -> u64 {
        self.subscriptions += 1;
        if !subscription.indexed && subscription.presence.is_none() {
            return 0;
        }
        let row = self.index.get_or_insert_default().next_row();
        self.change(row, subscription, time);
        row
    }

    /// Updates the row of a member to its present needs. Answers the row, 0 if the member needs none any more.
    pub(crate) fn rejoin(&mut self, row: u64, subscription: &Subscription, time: &Timeline) -> u64 {
        let needs = subscription.indexed || subscription.presence.is_some();
        let row = match (row, needs) {
            (0, false) => return 0,
            (0, true) => self.index.get_or_insert_default().next_row(),
            (row, _) => row,
        };
        self.change(row, subscription, time);
        if needs { row } else { 0 }
    }

    fn change(&mut self, row: u64, subscription: &Subscription, time: &Timeline) {
        let channel = &subscription.fence.id;
        match &subscription.presence {
            Some(entry) => self.show(row, channel, entry, time),
            None => self.hide(row, time),
        }
        let joined = self.stream.head();
        let Some(index) = &mut self.index else { return };
        if !subscription.indexed {
            index.remove_member(row);
        } else if index.members.get(&row).is_none() {
            index.add_member(row, channel.clone(), joined);
        }
        self.drop_empty_index();
    }

    /// Removes a member.
    pub(crate) fn leave(&mut self, row: u64, time: &Timeline) {
        self.subscriptions -= 1;
        if row == 0 {
            return;
        }
        self.hide(row, time);
        if let Some(index) = &mut self.index {
            index.remove_member(row);
        }
        self.drop_empty_index();
    }

    fn show(&mut self, row: u64, channel: &ChannelId, entry: &PresenceEntry, time: &Timeline) {
        let index = self.index.get_or_insert_default();
        if let Some(present) = index.present_mut(row) {
            present.entry = entry.clone();
            return;
        }
        let since = time.now();
        let shown = PresenceRow { channel: channel.clone(), entry: entry.clone(), since };
        let event = shown.present(time).event(EventKind::Join);
        index.add_present(row, shown);
        self.follow(event, since);
    }

    fn hide(&mut self, row: u64, time: &Timeline) {
        let shown = self.index.as_mut().and_then(|index| index.remove_present(row));
        if let Some(shown) = shown {
            self.follow(shown.present(time).event(EventKind::Leave), time.now());
        }
    }

    fn follow(&mut self, event: Event, now: Tick) {
        let event = Arc::new(event);
        let position = self.stream.follow(&event, now);
        self.hand_out(position, &event);
    }

    fn drop_empty_index(&mut self) {
        if self.index.as_ref().is_some_and(|index| index.is_empty()) {
            self.index = None;
        }
    }

    /// A node begins to hear the topic; `false` if it did already.
    pub(crate) fn hear(&mut self, mailbox: &Arc<Mailbox>) -> bool {
        let new = !self.hearers.iter().any(|hearer| Arc::ptr_eq(hearer, mailbox));
        if new {
            self.hearers = self.hearers.iter().chain([mailbox]).cloned().collect();
        }
        new
    }

    pub(crate) fn unhear(&mut self, mailbox: &Arc<Mailbox>) {
        self.hearers = self.hearers.iter().filter(|hearer| !Arc::ptr_eq(hearer, mailbox)).cloned().collect();
    }

    /// Runs under the topic's lock: so all nodes see one order.
    fn hand_out(&self, position: Position, event: &Arc<Event>) {
        if self.hearers.is_empty() {
            return;
        }
        let events = [(position, Arc::clone(event))];
        for hearer in &self.hearers {
            hearer.sink.events(&self.name, &events);
        }
    }

    /// Drops entries that are too old.
    pub(crate) fn trim(&mut self, now: Tick) {
        self.stream.trim(now);
        if let Some(keys) = &mut self.keys {
            keys.trim(now);
            if keys.is_empty() {
                self.keys = None;
            }
        }
    }

    /// The time when an entry will be too old.
    pub(crate) fn expiry(&self, now: Tick) -> Option<Tick> {
        let keys = self.keys.as_ref().and_then(|keys| keys.expiry());
        match (self.stream.expiry(now), keys) {
            (Some(log), Some(keys)) => Some(log.min(keys)),
            (log, keys) => log.or(keys),
        }
    }

    /// Begins a new log.
    pub(crate) fn lose_log(&mut self, epoch: u64) {
        self.stream = Stream::new(epoch);
        self.keys = None;
        let head = self.stream.head();
        if let Some(index) = &mut self.index {
            index.restart_relay(head);
        }
    }
}

impl PresenceRow {
    pub(crate) fn present(&self, time: &Timeline) -> Present {
        Present { channel: self.channel.clone(), entry: self.entry.clone(), since: time.wall(self.since) }
    }
}
