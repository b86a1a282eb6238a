//! Identifies the run of the server behind a connection.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use redis::Value;

use crate::error::Failure;
use crate::server::Connection;

/// A number for the server's process and its history of writes. Another number means that the last writes may be
/// missing: the process ended, or a replica took its place.
pub(super) async fn of(connection: &Connection, number: u64, address: &str, deadline: Instant) -> Result<u64, Failure> {
    let [server, replication] = ["server", "replication"].map(|section| redis::cmd("INFO").arg(section).take());
    let answers = connection.request(&[&server, &replication], address, deadline).await?;
    let mut hasher = DefaultHasher::new();
    match (field(&answers[0], "run_id"), field(&answers[1], "master_replid")) {
        (Some(process), Some(history)) => (process, history).hash(&mut hasher),
        _ => {
            tracing::warn!(
                server = address,
                "the server does not answer INFO with its run_id and master_replid: whatever is connected to anew is taken \
                 for another server, and subscribers are told of a gap"
            );
            number.hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

fn field<'i>(info: &'i Value, name: &str) -> Option<&'i str> {
    let text = match info {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let info = Value::BulkString(b"# Server\r\nrun_id_of_another:x\r\nrun_id:abc\r\n".to_vec());
        assert_eq!(field(&info, "run_id"), Some("abc"));
        assert_eq!(field(&info, "master_replid"), None);
        assert_eq!(field(&Value::Nil, "run_id"), None);
    }
}
