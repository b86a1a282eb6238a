use std::sync::Arc;

use strait_core::Topic;
use strait_core::store::Store;
use strait_core::testkit::{Harness, async_trait};
use strait_store_memory::MemoryStore;

#[derive(Debug)]
struct Memory(MemoryStore);

#[async_trait]
impl Harness for Memory {
    async fn handle(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    async fn lose_log(&self, topic: &Topic) {
        self.0.lose_log(topic);
    }

    async fn clean_up(&self) {}
}

strait_core::testkit::suite!(async || Memory(MemoryStore::new()));
