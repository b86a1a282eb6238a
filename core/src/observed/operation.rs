//! The operations of a store, by their names in metrics and log lines.

macro_rules! operations {
    ($($variant:ident $name:literal,)*) => {
        /// A method of the store's traits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Operation {
            $($variant,)*
        }

        impl Operation {
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

operations! {
    Open "open",
    Get "get",
    Find "find",
    Attach "attach",
    Detach "detach",
    Write "write",
    Lock "lock",
    Unlock "unlock",
    Claim "claim",
    End "end",
    Renew "renew",
    Remove "remove",
    Lease "lease",
    Release "release",
    ClaimDue "claim_due",
    Connected "connected",
    Subscribe "subscribe",
    Unsubscribe "unsubscribe",
    Topics "topics",
    Members "members",
    Presence "presence",
    Publish "publish",
    Replay "replay",
    History "history",
    Deliver "deliver",
    Inbox "inbox",
    Relay "relay",
    RelayDone "relay_done",
    Start "start",
    Interest "interest",
    Send "send",
}

impl Operation {
    /// Whether it stores new data for a client. A full disk refuses these, while removals and renewals may work.
    pub(super) const fn is_write(self) -> bool {
        matches!(
            self,
            Self::Open
                | Self::Attach
                | Self::Detach
                | Self::Write
                | Self::Subscribe
                | Self::Publish
                | Self::Deliver
                | Self::Send
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_found_by_its_number() {
        assert!(Operation::ALL.iter().enumerate().all(|(at, operation)| *operation as usize == at));
    }
}
