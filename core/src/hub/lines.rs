//! Log lines of an outage. While a store or a gateway is away, each client, channel, topic or message may cause one.
//! At most one line a second of each kind is written, with a count.

use crate::throttled::Throttled;

/// The lines of one hub; a field is the kind of a line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) handshake_refused: Throttled,
    pub(crate) channel_not_opened: Throttled,
    pub(crate) channel_not_attached: Throttled,
    pub(crate) replay_waits: Throttled,
    pub(crate) replay_failed: Throttled,
    pub(crate) gap_waits: Throttled,
    pub(crate) gap_not_told: Throttled,
    pub(crate) relay_left: Throttled,
    pub(crate) relay_not_kept: Throttled,
    pub(crate) relay_not_handed_over: Throttled,
    pub(crate) members_not_listed: Throttled,
    pub(crate) connection_not_looked_up: Throttled,
    pub(crate) events_not_handed_over: Throttled,
    pub(crate) events_not_posted: Throttled,
    pub(crate) replies_not_posted: Throttled,
    pub(crate) no_gateway: Throttled,
    pub(crate) too_large: Throttled,
    pub(crate) lock_not_taken: Throttled,
    pub(crate) lock_not_given_back: Throttled,
    pub(crate) channel_not_mended: Throttled,
    pub(crate) invocation_late: Throttled,
}
