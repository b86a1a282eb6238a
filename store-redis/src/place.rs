//! Locations as text, for records and for keys.

use std::sync::Arc;

use strait_core::store::Location;
use strait_core::{ConnectionId, NodeId};

/// A letter, the length of the node's or the gateway's name, the name, the connection.
pub(crate) fn encode(location: &Location) -> String {
    let (kind, name, connection) = match location {
        Location::Node { node, connection } => ('n', node.as_str(), connection),
        Location::Gateway { endpoint, connection } => ('g', &**endpoint, connection),
    };
    format!("{kind}{}:{name}{connection}", name.len())
}

pub(crate) fn is_at_gateway(encoded: &str) -> bool {
    encoded.starts_with('g')
}

pub(crate) fn decode(text: &str) -> Option<Location> {
    let (length, rest) = text.get(1..)?.split_once(':')?;
    let (name, connection) = rest.split_at_checked(length.parse().ok()?)?;
    let connection = ConnectionId::new(connection).ok()?;
    match text.as_bytes().first()? {
        b'n' => Some(Location::Node { node: NodeId::new(name).ok()?, connection }),
        b'g' => Some(Location::Gateway { endpoint: Arc::from(name), connection }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_come_back_as_they_were() {
        for name in ["a", "1:", "n3:abc", "é:"] {
            let connection = ConnectionId::new(name).expect("valid");
            let node = NodeId::new(name).expect("valid");
            for location in [
                Location::Node { node, connection: connection.clone() },
                Location::Gateway { endpoint: Arc::from(name), connection: connection.clone() },
                Location::Gateway { endpoint: Arc::from(""), connection },
            ] {
                assert_eq!(decode(&encode(&location)), Some(location));
            }
        }
        for text in ["", "n", "n9:a", "x1:ab", "n1:a"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
