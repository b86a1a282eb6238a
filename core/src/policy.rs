//! Limits and choices of an endpoint, each with the default of its own.

use std::time::Duration;

use crate::machine::Backlog;

/// An error with the route's key must fit, in bytes.
const LEAST_REPLY: usize = 1_024;

/// How many messages a second a client may send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Messages a second, in the long run.
    pub per_second: u32,
    /// Messages at once, after a quiet time.
    pub burst: u32,
    /// A client that keeps sending beyond the limit for so long is closed with 1008.
    pub patience: Duration,
}

impl Default for RateLimit {
    /// 100 a second, 200 at once, 5 s of patience.
    fn default() -> Self {
        Self { per_second: 100, burst: 200, patience: Duration::from_secs(5) }
    }
}

/// What becomes of a client that does not read as fast as its topics are published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowClient {
    /// It is closed with 1008.
    #[default]
    Disconnect,
    /// The oldest waiting events are dropped; it is told of the gap.
    DropOldest,
    /// Only the newest event of each topic waits; it is told of the gap.
    LatestPerTopic,
}

/// How a client's request came, as far as the adapter can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Without TLS here. A proxy in front may have spoken TLS with the client, so that pages of both schemes may be
    /// those of the same host.
    Plain,
    /// By TLS, with this server or with a proxy in front of it: a page that came by plain `http` is another origin.
    Tls,
}

/// Which pages may open connections, by the `Origin` that their browser tells.
///
/// A request without an `Origin` does not come from a page and passes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origins {
    /// Pages of the host and port that the request goes to; only `https` ones if the client surely speaks
    /// [TLS](Transport::Tls).
    #[default]
    SameHost,
    /// Those, and pages of these origins, each as `https://example.org` or `https://example.org:8443`.
    Listed(Vec<String>),
    /// Every page: only for endpoints that do not rely on cookies.
    Any,
}

/// In which order the messages of one channel are handled where they can arrive in parallel: in serverless invocations.
/// A node always handles them one at a time, in the order they arrived.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ordering {
    /// As the gateway delivers them: two of one channel may be handled at the same time, by two processes.
    #[default]
    Concurrent,
    /// One at a time. In which order is not promised.
    Serialized,
    /// One at a time, in the order of a number that the client counts up from 1 in this member of every message. What
    /// comes too early waits for what is missing; what comes again is dropped.
    Sequenced(String),
}

/// What one connection of an endpoint may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of path and query that a handshake may bring: 4 KiB. They are kept as long as the channel is; more is
    /// refused with 414.
    pub opening: usize,
    /// The longest message, in bytes: 64 KiB.
    pub message: usize,
    /// The longest reply, in bytes; `None` does not limit. A longer one is answered with `too_large`. A gateway's own
    /// limit holds beside this one: API Gateway carries 128 KiB.
    pub reply: Option<usize>,
    /// Bytes that may wait for a client to read: 256 KiB.
    pub queue: usize,
    /// Topics that a channel may be subscribed to: 1,000.
    pub subscriptions: usize,
    /// What may wait for a handler: 16 messages or 64 KiB.
    pub backlog: Backlog,
    /// Messages a second; `None` does not limit. Nothing is counted over serverless invocations: the gateway's own
    /// throttling is what there is.
    pub rate: Option<RateLimit>,
    /// How long a handler may take: 30 s.
    pub handler: Duration,
    /// How long a connection may be quiet before it is sent a ping: 25 s.
    pub ping: Duration,
    /// How long nothing may arrive before the connection is given up: 60 s.
    pub silent: Duration,
    /// How long the peer's answer to a close frame is awaited: 5 s.
    pub closing: Duration,
    /// What becomes of a client that does not keep up.
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
    /// The first limit with which no connection could work, and what it must be.
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
