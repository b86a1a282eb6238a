//! Compares the book's table of keys with the sources and, after each case of the suite, with the keys in Redis.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;

use crate::kit;

/// A row of the table: the type, and whether every such key expires.
#[derive(Debug)]
struct Kind {
    is: String,
    expires: bool,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Kinds of keys by their name; shard channels are of type `channel`.
fn table() -> BTreeMap<String, Kind> {
    let book = read("../docs/src/redis.md");
    let rows = book.lines().filter_map(|line| line.strip_prefix("| `{"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (_, name) = cells[0].split_once('}').unwrap();
        let name = name.trim_end_matches('`').split('<').next().unwrap().to_owned();
        (name, Kind { is: cells[1].to_owned(), expires: cells[3].starts_with("expires") })
    })
    .collect()
}

#[test]
fn every_kind_of_key_is_in_the_book_and_every_one_in_the_book_is_used() {
    let source = read("src/keys.rs");
    let source = source.replace("at.channel(\"", "at.key(\"");
    let kinds = source
        .split(".at.key(\"")
        .skip(1)
        .chain(source.split(" at.key(\"").skip(1))
        .chain(source.split("(at.key(\"").skip(1));
    let used: BTreeSet<&str> = kinds.map(|rest| rest.split('"').next().unwrap()).collect();
    let table = table();
    let told: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    assert!(used.len() > 15);
    assert_eq!(told, used, "left: the book, right: the sources");
}

/// All keys below a prefix on some servers.
struct Found {
    connections: Vec<MultiplexedConnection>,
    /// Each key with its server.
    keys: BTreeMap<String, usize>,
    /// The ids of channels that have a record.
    channels: HashSet<String>,
    /// The ids of channels in `due` or `connected`.
    listed: HashSet<String>,
}

/// The channel in a member of `due` or `connected`.
fn channel_of(member: &str) -> &str {
    member.split_once('\0').map_or(member, |(_, id)| id)
}

impl Found {
    async fn new(urls: &[String], prefix: &str) -> Self {
        let (connections, keys) = (Vec::new(), BTreeMap::new());
        let mut found = Self { connections, keys, channels: HashSet::new(), listed: HashSet::new() };
        for (server, url) in urls.iter().enumerate() {
            let mut connection = kit::connect(url).await;
            for key in kit::keys(&mut connection, prefix).await {
                found.keys.insert(String::from_utf8(key).unwrap(), server);
            }
            found.connections.push(connection);
        }
        for key in found.keys.keys().cloned().collect::<Vec<_>>() {
            let (_, name) = key.split_once('}').unwrap();
            if let Some(id) = name.strip_prefix("channel:") {
                found.channels.insert(id.to_owned());
            } else if name == "due" || name == "connected" {
                let members: Vec<String> = found.ask(&key, &["ZRANGE", "0", "-1"]).await;
                found.listed.extend(members.iter().map(|member| channel_of(member).to_owned()));
            }
        }
        found
    }

    async fn ask<T: FromRedisValue>(&mut self, key: &str, command: &[&str]) -> T {
        let server = self.keys[key];
        let mut asked = redis::cmd(command[0]);
        asked.arg(key).arg(&command[1..]);
        asked.query_async(&mut self.connections[server]).await.unwrap()
    }

    /// The key of another kind beside this one, with the same tag and name.
    fn beside(&self, key: &str, kind: &str) -> bool {
        let (tag, rest) = key.split_once('}').unwrap();
        let name = rest.split_once(':').map_or("", |(_, name)| name);
        self.keys.contains_key(&format!("{tag}}}{kind}{name}"))
    }

    /// Whether a key that does not expire is reaped: the key that it goes with is there.
    async fn is_owned(&mut self, key: &str, kind: &str) -> bool {
        match kind {
            "channel:" => {
                let (_, id) = key.split_once("}channel:").unwrap();
                self.listed.contains(id) || self.ask::<String>(key, &["HGET", "l"]).await.starts_with('g')
            }
            "topics:" | "inbox:" => self.beside(key, "channel:"),
            "members:" | "present:" | "meta:" => self.beside(key, "rows:"),
            "rows:" => {
                let fields: Vec<String> = self.ask(key, &["HKEYS"]).await;
                let ids: Vec<&str> = fields.iter().filter_map(|field| field.strip_prefix(['m', 'p'])).collect();
                !ids.is_empty() && ids.iter().all(|id| self.channels.contains(*id))
            }
            "due" | "connected" => {
                let members: Vec<String> = self.ask(key, &["ZRANGE", "0", "-1"]).await;
                members.iter().all(|member| self.channels.contains(channel_of(member)))
            }
            "at:" => {
                let id: String = self.ask(key, &["GET"]).await;
                self.channels.contains(&id)
            }
            _ => false,
        }
    }
}

/// Compares the keys below a prefix with the table: each key has a listed kind and type, and expires or is reaped.
pub(crate) async fn audit(urls: &[String], prefix: &str) {
    let table = table();
    let mut found = Found::new(urls, prefix).await;
    for (key, server) in found.keys.clone() {
        let (_, rest) = key.split_once('}').unwrap();
        let kind = rest.split_once(':').map_or(rest.to_owned(), |(kind, _)| format!("{kind}:"));
        let row = table.get(&kind).unwrap_or_else(|| panic!("{key} is of no kind that the book knows"));
        let mut asked = redis::pipe();
        asked.cmd("TYPE").arg(&key).cmd("PTTL").arg(&key);
        let (is, expires): (String, i64) = asked.query_async(&mut found.connections[server]).await.unwrap();
        // The key has gone meanwhile.
        if is == "none" || expires == -2 {
            continue;
        }
        assert_eq!(is, row.is, "{key}");
        if expires == -1 {
            assert!(!row.expires, "{key} never expires, though the book says so");
            assert!(found.is_owned(&key, &kind).await, "{key} never expires, and nobody reaps it");
        }
    }
}
