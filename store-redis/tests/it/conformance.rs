use std::sync::Arc;

use strait_core::Topic;
use strait_core::store::Store;
use strait_core::testkit::{Harness, async_trait};
use strait_store_redis::{RedisConfig, RedisStore};

use crate::{key_table, kit};

#[derive(Debug)]
struct Single {
    url: String,
    prefix: String,
}

#[async_trait]
impl Harness for Single {
    async fn handle(&self) -> Arc<dyn Store> {
        let config = RedisConfig::from_url(&self.url).unwrap().prefix(&self.prefix).unwrap();
        Arc::new(RedisStore::new(kit::quick(config)))
    }

    async fn lose_log(&self, topic: &Topic) {
        let mut connection = kit::connect(&self.url).await;
        let keys = kit::of_log(kit::keys(&mut connection, &self.prefix).await, topic);
        kit::delete(&mut connection, &keys).await;
    }

    async fn clean_up(&self) {
        key_table::audit(std::slice::from_ref(&self.url), &self.prefix).await;
        let mut connection = kit::connect(&self.url).await;
        let keys = kit::keys(&mut connection, &self.prefix).await;
        kit::delete(&mut connection, &keys).await;
    }
}

strait_core::testkit::suite!(async || Single { url: kit::given_url(), prefix: kit::unique_prefix() });
