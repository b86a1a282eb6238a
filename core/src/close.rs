//! The reason for a close of a connection, as a code and a text (RFC 6455 §7.4).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The longest reason that fits a close frame, in bytes (RFC 6455 §5.5: a control frame's payload has at most 125).
pub const MAX_REASON: usize = 123;

/// A close code with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    code: u16,
    reason: Cow<'static, str>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(reason: impl Into<Cow<'static, str>>) -> Self {
            Self { code: $code, reason: cut(reason.into()) }
        })*
    };
}

impl Close {
    codes! {
        /// 1000: the conversation has reached its end.
        normal = 1000;
        /// 1001: the server leaves, or the connection was idle or silent.
        going_away = 1001;
        /// 1002: the peer broke the WebSocket protocol.
        protocol = 1002;
        /// 1003: data of a kind that the server does not take.
        unsupported = 1003;
        /// 1007: text that is not UTF-8.
        invalid_data = 1007;
        /// 1008: refused, flooding or too slow; the reason tells which.
        policy = 1008;
        /// 1009: a message that is too big.
        too_big = 1009;
        /// 1011: the server met an unexpected condition.
        internal = 1011;
        /// 1012: the server drains or lost its lease; connect again.
        restart = 1012;
    }

    /// A code of the application's own, or one of the registered ones that a server may send.
    ///
    /// The reason is cut to [`MAX_REASON`] bytes. `None` for a code that must not be sent: everything but 1000–1003,
    /// 1007–1014 and 3000–4999 (RFC 6455 §7.4.2 and the IANA registry).
    #[must_use]
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> Option<Self> {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999).then(|| Self { code, reason: cut(reason.into()) })
    }

    /// The status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The reason, at most [`MAX_REASON`] bytes.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

fn cut(reason: Cow<'static, str>) -> Cow<'static, str> {
    if reason.len() <= MAX_REASON {
        return reason;
    }
    let end = (0..=MAX_REASON).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
    Cow::Owned(reason[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit_a_control_frame() {
        let close = Close::policy("ä".repeat(100));
        assert_eq!(close.reason().len(), 122);
        assert_eq!(close.code(), 1008);
    }

    #[test]
    fn codes_that_must_not_be_sent_are_refused() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert_eq!(Close::new(code, ""), None, "{code}");
        }
        assert!(Close::new(4001, "kicked").is_some());
    }
}
