//! The conformance suite once more, on a cluster of three servers. Forming one takes some seconds: a group of cases
//! shares one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use strait_core::Topic;
use strait_core::store::Store;
use strait_core::testkit::{Harness, async_trait};
use strait_store_redis::testkit::{Cluster, Server};
use strait_store_redis::{RedisConfig, RedisStore};

use crate::{key_table, kit};

#[derive(Debug, Clone)]
struct Clustered {
    /// The URL of each server.
    urls: Arc<[String]>,
    prefix: String,
}

#[async_trait]
impl Harness for Clustered {
    async fn handle(&self) -> Arc<dyn Store> {
        // One server is enough to find the others.
        let config = RedisConfig::from_url(&self.urls[0]).unwrap().prefix(&self.prefix).unwrap();
        Arc::new(RedisStore::new(kit::quick(config)))
    }

    async fn lose_log(&self, topic: &Topic) {
        for url in &*self.urls {
            let mut connection = kit::connect(url).await;
            let keys = kit::of_log(kit::keys(&mut connection, &self.prefix).await, topic);
            kit::delete(&mut connection, &keys).await;
        }
    }

    async fn clean_up(&self) {
        key_table::audit(&self.urls, &self.prefix).await;
        for url in &*self.urls {
            let mut connection = kit::connect(url).await;
            let keys = kit::keys(&mut connection, &self.prefix).await;
            kit::delete(&mut connection, &keys).await;
        }
    }
}

/// Runs all cases, one after the other.
fn run_group(cases: &[(&str, fn(Clustered))]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let cluster = runtime.block_on(Cluster::start(3, 0));
    let urls: Arc<[String]> = cluster.masters.iter().map(Server::url).collect();
    let mut failed = Vec::new();
    for (name, case) in cases {
        let harness = Clustered { urls: Arc::clone(&urls), prefix: kit::unique_prefix() };
        if catch_unwind(AssertUnwindSafe(|| case(harness))).is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed on a cluster: {failed:?}");
}

macro_rules! one_test_a_group {
    ($make:expr; $($group:ident { $($case:ident)* })*) => {$(
        #[test]
        fn $group() {
            run_group(&[$(
                (stringify!($case), |harness| {
                    strait_core::testkit::run(|| $make(harness), strait_core::testkit::cases::$group::$case);
                }),
            )*]);
        }
    )*};
}

strait_core::testkit::suite!((|harness: Clustered| async move { harness }) => one_test_a_group);
