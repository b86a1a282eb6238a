//! Names: opaque strings that identify channels, connections, nodes, users and topics.
//!
//! All of them follow one rule, so that every store can keep every name unchanged: 1 to 255 bytes of UTF-8 without
//! control characters. They are cheap to clone.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes.
pub const MAX_NAME: usize = 255;

const USER_PREFIX: &str = "$user:";

/// A string that cannot be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The name has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The name is longer than [`MAX_NAME`] bytes.
    #[error("a name must not be longer than 255 bytes, this one has {0}")]
    TooLong(usize),
    /// The name holds a control character.
    #[error("a name must not hold control characters")]
    Control,
}

fn check(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        Err(InvalidName::Empty)
    } else if name.len() > MAX_NAME {
        Err(InvalidName::TooLong(name.len()))
    } else if name.chars().any(char::is_control) {
        Err(InvalidName::Control)
    } else {
        Ok(())
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks that `name` is 1 to 255 bytes of UTF-8 without control characters.
            ///
            /// # Errors
            /// [`InvalidName`] names the broken rule.
            pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
                let name = name.as_ref();
                check(name)?;
                Ok(Self(Arc::from(name)))
            }

            /// The name as a string.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;

            fn try_from(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name! {
    /// Names one client's conversation with an endpoint; it outlives a connection if the endpoint is resumable.
    ChannelId
}
name! {
    /// Names one physical socket of a node or a gateway.
    ConnectionId
}
name! {
    /// Names one start of a long-lived process; a restarted process has a new one.
    NodeId
}
name! {
    /// Names a user across channels; at most 249 bytes where the user's channels are indexed.
    UserId
}
name! {
    /// Names a stream that channels subscribe to. Names that start with `$` are Strait's own and closed to clients.
    Topic
}

fn time_ordered() -> Arc<str> {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    Arc::from(&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text))
}

impl ChannelId {
    /// A new identifier (UUIDv7, RFC 9562 §5.7).
    #[must_use]
    pub fn unique() -> Self {
        Self(time_ordered())
    }
}

impl NodeId {
    /// A new identifier (UUIDv7, RFC 9562 §5.7).
    #[must_use]
    pub fn unique() -> Self {
        Self(time_ordered())
    }

    /// A name for a part of the node.
    pub(crate) fn part(&self, number: usize) -> Self {
        Self(format!("{self}/{number:x}").into())
    }
}

impl From<ChannelId> for ConnectionId {
    /// A node's own socket has the name of the channel for which it was opened.
    fn from(id: ChannelId) -> Self {
        Self(id.0)
    }
}

impl Topic {
    /// The index of a user's channels, `$user:<id>`.
    ///
    /// # Errors
    /// [`InvalidName::TooLong`] for a user id of more than 249 bytes.
    pub fn of_user(user: &UserId) -> Result<Self, InvalidName> {
        Self::new(format!("{USER_PREFIX}{user}"))
    }

    /// The user of an index of channels, if the topic is one.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.0.strip_prefix(USER_PREFIX).and_then(|user| UserId::new(user).ok())
    }

    /// Whether the name is one of Strait's own, to which clients may not subscribe.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(Topic::new(""), Err(InvalidName::Empty));
        assert_eq!(Topic::new("a\0b"), Err(InvalidName::Control));
        assert_eq!(Topic::new("a\u{85}b"), Err(InvalidName::Control));
        assert_eq!(Topic::new("x".repeat(256)), Err(InvalidName::TooLong(256)));
        assert!(Topic::new("𝄞".repeat(63)).is_ok());
        assert!(Topic::new("{a}'\"*?:[]\\").is_ok());
    }

    #[test]
    fn topics_of_users_are_reserved() {
        let user = UserId::new("ada").expect("valid");
        let topic = Topic::of_user(&user).expect("valid");
        assert_eq!(topic.as_str(), "$user:ada");
        assert_eq!(topic.user(), Some(user));
        assert!(topic.is_reserved());
        assert!(!Topic::new("room:$").expect("valid").is_reserved());
        let long = UserId::new("u".repeat(250)).expect("valid");
        assert_eq!(Topic::of_user(&long), Err(InvalidName::TooLong(256)));
    }

    #[test]
    fn deserialising_checks_too() {
        assert!(serde_json::from_str::<ChannelId>(r#""a""#).is_ok());
        assert!(serde_json::from_str::<ChannelId>(r#""""#).is_err());
    }
}
