//! Limits and choices of an endpoint, each with its default.

use std::time::Duration;

use crate::machine::Backlog;

/// The least reply limit, in bytes: an error with the route's key must fit.
const LEAST_REPLY: usize = 1_024;

/// The rate of messages that a client may send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Messages a second, in the long run.
    pub per_second: u32,
    /// Messages at once, after a quiet time.
    pub burst: u32,
    /// The server closes a client with 1008 if it keeps sending beyond the limit for this long.
    pub patience: Duration,
}

impl Default for RateLimit {
    /// 100 a second, 200 at once, 5 s of patience.
    fn default() -> Self {
        Self { per_second: 100, burst: 200, patience: Duration::from_secs(5) }
    }
}

/// The treatment of a client that reads slower than its topics are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowClient {
    /// It is closed with 1008.
    #[default]
    Disconnect,
    /// The oldest waiting events are dropped, and the client gets a gap notice.
    DropOldest,
    /// Only the newest event of each topic waits, and the client gets a gap notice.
    LatestPerTopic,
}

/// The transport of a client's request, as far as the adapter can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Without TLS here. A proxy in front may have spoken TLS with the client, so pages of both schemes may be of the
    /// same host.
    Plain,
    /// By TLS, with this server or with a proxy in front of it: a page loaded over plain `http` is another origin.
    Tls,
}

/// The web pages that may open connections, by the `Origin` header of their browser.
///
/// A request without an `Origin` does not come from a page and passes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origins {
    /// Pages of the host and port of the request; only `https` ones if the client surely uses [TLS](Transport::Tls).
    #[default]
    SameHost,
    /// Those of `SameHost`, and pages of these origins, each as `https://example.org` or `https://example.org:8443`.
    Listed(Vec<String>),
    /// Every page: only for endpoints that do not rely on cookies.
    Any,
}

/// The order of one channel's messages where they can arrive in parallel: in serverless invocations. A node always
/// handles them one at a time, in the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ordering {
    /// In the gateway's order: two processes may handle two messages of one channel at the same time.
    #[default]
    Concurrent,
    /// One at a time, in no promised order.
    Serialized,
    /// One at a time, in the order of a number in this member of every message, which the client counts up from 1. A
    /// message that comes early waits for the missing ones; a repeated one is dropped.
    Sequenced(String),
}

/// The limits of one connection of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of path and query in a handshake: 4 KiB. They are kept as long as the channel; longer ones are refused
    /// with 414.
    pub opening: usize,
    /// The longest message, in bytes: 64 KiB.
    pub message: usize,
    /// The longest reply, in bytes; `None` does not limit. A longer one becomes the error `too_large`. The gateway's
    /// own limit applies too: API Gateway carries 128 KiB.
    pub reply: Option<usize>,
    /// Bytes that may wait for a client to read: 256 KiB.
    pub queue: usize,
    /// Topics that a channel may be subscribed to: 1,000.
    pub subscriptions: usize,
    /// The messages that may wait for a handler: 16 messages or 64 KiB.
    pub backlog: Backlog,
    /// Messages a second; `None` does not limit. Serverless invocations do not count messages: there the gateway's own
    /// throttling applies.
    pub rate: Option<RateLimit>,
    /// The time limit of a handler: 30 s.
    pub handler: Duration,
    /// The quiet time after which a connection gets a ping: 25 s.
    pub ping: Duration,
    /// The silence after which a connection is given up: 60 s.
    pub silent: Duration,
    /// The time to wait for the peer's answer to a close frame: 5 s.
    pub closing: Duration,
    /// The treatment of a client that does not keep up.
    pub slow_client: SlowClient,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            opening: 4 * 1024,
            message: 64 * 1024,
            reply: None,
            queue: 256 * 1024,
            subscriptions: 1_000,
            backlog: Backlog::default(),
            rate: Some(RateLimit::default()),
            handler: Duration::from_secs(30),
            ping: Duration::from_secs(25),
            silent: Duration::from_secs(60),
            closing: Duration::from_secs(5),
            slow_client: SlowClient::default(),
        }
    }
}

impl Limits {
    /// The first limit with which no connection could work, and its allowed values.
    pub(crate) fn mistake(&self) -> Option<(&'static str, &'static str)> {
        let none = RateLimit::default();
        let rate = self.rate.as_ref().unwrap_or(&none);
        let checks = [
            (self.opening > 0, "opening", "at least 1 byte"),
            (self.message > 0, "message", "at least 1 byte"),
            (self.reply.is_none_or(|reply| reply >= LEAST_REPLY), "reply", "at least 1,024 bytes, or none"),
            (self.queue > 0, "queue", "at least 1 byte"),
            (self.backlog.messages > 0, "backlog.messages", "at least 1"),
            (self.backlog.bytes > 0, "backlog.bytes", "at least 1 byte"),
            (rate.per_second > 0, "rate.per_second", "at least 1, or `rate` none"),
            (rate.burst > 0, "rate.burst", "at least 1"),
            (!self.handler.is_zero(), "handler", "longer than nothing"),
            (!self.ping.is_zero(), "ping", "longer than nothing"),
            (self.silent > self.ping, "silent", "longer than `ping`, so that an answer has time to come"),
            (!self.closing.is_zero(), "closing", "longer than nothing"),
        ];
        checks.into_iter().find(|(works, ..)| !works).map(|(_, limit, must)| (limit, must))
    }
}
