//! The configuration: the settings in URLs, and that no secret gets out.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{
    ChannelStore, EventBus, EventHubStore, LeaseTerm, Location, PresenceEntry, Publication, StoreError, StoreErrorKind,
    Subscription,
};
use strait_core::testkit::Ears;
use strait_core::{Event, NodeId, Payload, Retention, Topic};
use strait_store_redis::testkit::Server;
use strait_store_redis::{ConfigError, RedisConfig, RedisStore};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::kit::{channel, eventually, quick};

const SECRET: &str = "hunter2/@:?#";
/// The same in percent-encoding.
const ENCODED: &str = "hunter2%2F%40%3A%3F%23";

/// An error with all its sources.
fn chain(error: &StoreError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    text
}

async fn lease(store: &RedisStore) -> Result<(), StoreError> {
    store.lease(&NodeId::unique(), LeaseTerm::Acquire, Duration::from_secs(1)).await.map(|_| ())
}

#[test]
fn wrong_urls_say_which_part_is_wrong_and_repeat_no_secret() {
    for (url, error) in [
        ("http://x", ConfigError::Scheme),
        ("redis:x", ConfigError::Scheme),
        ("redis://", ConfigError::Address),
        ("redis://:6379", ConfigError::Address),
        ("redis://host:port", ConfigError::Address),
        ("redis://[::1", ConfigError::Address),
        ("redis://a,,b", ConfigError::Address),
        ("redis://host/one", ConfigError::Database),
        ("redis://host/-1", ConfigError::Database),
        ("redis://host/0/1", ConfigError::Database),
        ("redis://u:%ff@host", ConfigError::Encoding("password")),
        ("redis://host?prefix={a}", ConfigError::Prefix),
        ("redis://host?connect_timeout=0", ConfigError::Time("connect_timeout")),
        ("redis://host?command_timeout=soon", ConfigError::Time("command_timeout")),
        ("redis://host?password=x", ConfigError::Parameter("password".to_owned())),
    ] {
        assert_eq!(RedisConfig::from_url(url).unwrap_err(), error, "{url}");
    }
    let error = RedisConfig::from_url(&format!("redis://ada:{ENCODED}@host/x")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn urls_are_read_whole() {
    for url in [
        "redis://host",
        "redis://host:7000/3",
        "redis://[::1]:7000,b,c:1/",
        "redis://:pw@host",
        "redis://user@host?prefix=a%20b:&connect_timeout=5&command_timeout=6",
    ] {
        RedisConfig::from_url(url).unwrap();
    }
    let text =
        format!("{:?}", RedisConfig::from_url("redis://ada:pw@[::1]:7,b/3?prefix=p:&connect_timeout=5").unwrap());
    for part in ["(\"::1\", 7), (\"b\", 6379)", "ada", "database: 3", "\"p:\"", "5ms"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn debug_shows_no_password() {
    for config in [
        RedisConfig::from_url(&format!("redis://ada:{ENCODED}@host")).unwrap(),
        RedisConfig::new("host", 1).password(SECRET),
        RedisConfig::new("host", 1).credentials("ada", SECRET),
    ] {
        let text = format!("{config:?} {:?}", RedisStore::new(config.clone()));
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn users_and_passwords_are_asked_for_and_wrong_ones_are_told_without_repeating_them() {
    let server = Server::start(&["--requirepass", SECRET]).await;
    let address = server.address();
    let url = |credentials: &str| format!("redis://{credentials}@{address}");
    let with = |credentials: &str| RedisStore::new(RedisConfig::from_url(&url(credentials)).unwrap());
    lease(&with(&format!(":{ENCODED}"))).await.unwrap();
    lease(&RedisStore::new(RedisConfig::new("127.0.0.1", address.port()).password(SECRET))).await.unwrap();
    let mut admin = redis::Client::open(format!("redis://:{ENCODED}@{address}")).unwrap().get_connection().unwrap();
    let user = ["SETUSER", "ada", "on", ">hunter3", "~strait:*", "&strait:*", "+@all"];
    let () = redis::cmd("ACL").arg(&user).query(&mut admin).unwrap();
    lease(&with("ada:hunter3")).await.unwrap();
    let ears = Ears::new();
    let bus = with("ada:hunter3").start(&NodeId::unique(), ears).await.unwrap();
    eventually("the user to hear", async || bus.health().hears).await;
    for credentials in ["ada:hunter4", ":hunter4", "eve:hunter4"] {
        let error = lease(&with(credentials)).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{error:?}");
        assert!(!error.is_retryable());
        let text = chain(&error);
        assert!(!text.contains("hunter") && text.contains("refuses the connection"), "{text}");
    }
    let error = lease(&RedisStore::new(RedisConfig::new("127.0.0.1", address.port()))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{}", chain(&error));
    // Keys that the user may not touch are refused, too.
    let config = RedisConfig::from_url(&url("ada:hunter3")).unwrap().prefix("other:").unwrap();
    let error = lease(&RedisStore::new(config)).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{}", chain(&error));
}

#[tokio::test]
async fn the_books_user_may_all_that_a_node_does() {
    let book = include_str!("../../../docs/src/redis.md");
    let user: Vec<&str> = book.lines().find(|line| line.starts_with("ACL SETUSER ")).unwrap().split(' ').collect();
    let server = Server::start(&[]).await;
    let _: String = server.ask(&user).await;
    let url = format!("redis://strait:secret@{}", server.address());
    let store = RedisStore::new(quick(RedisConfig::from_url(&url).unwrap()));
    let (node, topic) = (NodeId::unique(), Topic::new("kept").unwrap());
    lease(&store).await.unwrap();
    let bus = store.start(&node, Ears::new()).await.unwrap();
    eventually("the user to hear", async || bus.health().hears).await;
    let new = channel(|connection| Location::Node { node: node.clone(), connection });
    let opened = store.open(new.clone()).await.unwrap();
    let fence = opened.record.fence();
    let presence = Some(PresenceEntry { user: None, data: None });
    let member = Subscription { fence: fence.clone(), topic: topic.clone(), indexed: true, presence };
    store.subscribe(&[member]).await.unwrap();
    let retention = Some(Retention { count: 10, age: Duration::from_secs(60) });
    let event = Arc::new(Event::message(Payload::text("one")));
    let publication = Publication { topic: topic.clone(), event: event.clone(), retention, key: Some("one".into()) };
    assert!(store.publish(&[publication]).await.iter().all(Result::is_ok));
    assert_eq!(store.history(&topic, 10).await.unwrap().len(), 1);
    store.deliver(&[(new.id, event)]).await.unwrap();
    let claim = store.claim(&fence, &node, Duration::from_secs(1)).await.unwrap().expect("nobody else ends it");
    store.remove(&[claim]).await.unwrap();
    store.claim_due(&node, 10, Duration::from_secs(1)).await.unwrap();
    bus.stop().await;
    let refused: redis::Value = server.ask(&["ACL", "LOG"]).await;
    assert_eq!(refused, redis::Value::Array(Vec::new()));
}

/// A server with one answer to all commands.
async fn parrot(answer: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (asked, mut answers) = socket.split();
                let mut lines = BufReader::new(asked).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let is_command = line.strip_prefix('*').is_some_and(|rest| rest.parse::<usize>().is_ok());
                    answers.write_all(if is_command { answer.as_bytes() } else { b"" }).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn what_a_server_cannot_is_told() {
    const OLDER: &str =
        "-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `hunter2`, \r\n";
    const OLD: &str = "%3\r\n+server\r\n+redis\r\n+version\r\n+6.2.14\r\n+mode\r\n+standalone\r\n";
    let real = Server::start(&[]).await;
    let cases = [
        (format!("redis://:hunter2@{}", parrot(OLDER).await), "Redis 7 or later"),
        (format!("redis://{}", parrot(OLD).await), "Redis 7 or later"),
        (format!("redis://{}/99", real.address()), "no database of this number"),
    ];
    for (url, expected) in cases {
        let error = lease(&RedisStore::new(RedisConfig::from_url(&url).unwrap())).await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{text}");
        assert!(text.contains(expected) && !text.contains("hunter"), "{text}");
    }
}

#[tokio::test]
async fn databases_and_prefixes_are_apart() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let node = NodeId::unique();
    let store = |rest: &str| RedisStore::new(RedisConfig::from_url(&format!("{url}{rest}")).unwrap());
    let term = Duration::from_secs(60);
    store("/2").lease(&node, LeaseTerm::Acquire, term).await.unwrap();
    for (rest, held) in [("/2", true), ("/0", false), ("/2?prefix=other:", false)] {
        let lease = store(rest).lease(&node, LeaseTerm::Renew, term).await.unwrap();
        assert_eq!(lease == strait_core::store::Lease::Held, held, "{rest}");
    }
}

#[tokio::test]
async fn nobody_there_is_told_soon() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = server.local_addr().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [silent, free] {
        let timeout = Duration::from_millis(100);
        let config =
            RedisConfig::new("127.0.0.1", address.port()).connect_timeout(timeout).command_timeout(timeout * 3);
        let began = std::time::Instant::now();
        let error = lease(&RedisStore::new(config)).await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

#[cfg(feature = "tls")]
mod tls {
    use super::*;

    #[tokio::test]
    async fn rediss_is_tls_with_a_certificate_that_is_checked() {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let folder = std::env::temp_dir().join(format!("strait-redis-tls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (certificate, key) = (file("cert", cert.pem()), file("key", signing_key.serialize_pem()));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port = free.to_string();
        let options = ["--tls-port", &port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
        let _server = Server::start(&[&options[..], &["--tls-auth-clients", "no"]].concat()).await;
        let trusting = RedisConfig::new("localhost", free).tls(Some(cert.pem().into_bytes()));
        let store = RedisStore::new(trusting);
        lease(&store).await.unwrap();
        let bus = store.start(&NodeId::unique(), Ears::new()).await.unwrap();
        eventually("the bus to hear by TLS", async || bus.health().hears).await;
        let error =
            lease(&RedisStore::new(RedisConfig::from_url(&format!("rediss://localhost:{free}")).unwrap())).await;
        assert!(error.is_err(), "a certificate that nobody vouches for");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
