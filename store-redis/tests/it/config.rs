//! The configuration: what URLs say, and that no secret gets out.

use std::error::Error;
use std::time::Duration;

use strait_core::NodeId;
use strait_core::store::{ChannelStore, EventBus, LeaseTerm, StoreError, StoreErrorKind};
use strait_core::testkit::Ears;
use strait_store_redis::testkit::Server;
use strait_store_redis::{ConfigError, RedisConfig, RedisStore};

use crate::kit::eventually;

const SECRET: &str = "hunter2/@:?#";
/// The same in percent-encoding.
const ENCODED: &str = "hunter2%2F%40%3A%3F%23";

/// An error with all that it comes from.
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
    // What the user may not touch is refused, too.
    let config = RedisConfig::from_url(&url("ada:hunter3")).unwrap().prefix("other:").unwrap();
    let error = lease(&RedisStore::new(config)).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{}", chain(&error));
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
