//! Facts about a server from its answer to HELLO.

use redis::Value;

use crate::reply::text;

/// The value of a field of the answer.
pub(crate) fn told<'h>(hello: &'h Value, name: &str) -> Option<&'h str> {
    let mut members = hello.as_map_iter()?;
    members.find_map(|(found, value)| (text(found).ok()? == name).then(|| text(value).ok())?)
}

/// Whether the server has no shard channels, which came with Redis 7. Other servers with this protocol number their
/// versions differently.
pub(crate) fn too_old(hello: &Value) -> bool {
    let major = || told(hello, "version")?.split('.').next()?.parse::<u32>().ok();
    told(hello, "server") == Some("redis") && major().is_some_and(|major| major < 7)
}

/// Whether the server belongs to a cluster.
pub(crate) fn is_clustered(hello: &Value) -> bool {
    told(hello, "mode") == Some("cluster")
}

/// Whether the server follows another one: it then refuses writes, or loses them.
pub(crate) fn is_replica(hello: &Value) -> bool {
    told(hello, "role").is_some_and(|role| matches!(role, "replica" | "slave"))
}
