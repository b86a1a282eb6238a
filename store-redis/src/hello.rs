//! What a server's answer to HELLO tells of it.

use redis::Value;

use crate::reply::text;

/// What a server tells of itself under a name.
pub(crate) fn told<'h>(hello: &'h Value, name: &str) -> Option<&'h str> {
    let mut members = hello.as_map_iter()?;
    members.find_map(|(found, value)| (text(found).ok()? == name).then(|| text(value).ok())?)
}

/// Shard channels came with Redis 7. Others that speak its protocol count their versions in their own way.
pub(crate) fn too_old(hello: &Value) -> bool {
    let major = || told(hello, "version")?.split('.').next()?.parse::<u32>().ok();
    told(hello, "server") == Some("redis") && major().is_some_and(|major| major < 7)
}

/// Whether the server is one of a cluster's.
pub(crate) fn is_clustered(hello: &Value) -> bool {
    told(hello, "mode") == Some("cluster")
}

/// Whether the server follows another one: it refuses writes, or loses them.
pub(crate) fn is_replica(hello: &Value) -> bool {
    told(hello, "role").is_some_and(|role| matches!(role, "replica" | "slave"))
}
