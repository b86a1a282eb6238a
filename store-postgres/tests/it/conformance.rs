use std::sync::Arc;

use strait_core::Topic;
use strait_core::store::Store;
use strait_core::testkit::{Harness, async_trait};

use crate::kit::Schema;

#[derive(Debug)]
struct Postgres(Schema);

#[async_trait]
impl Harness for Postgres {
    async fn handle(&self) -> Arc<dyn Store> {
        Arc::new(self.0.store().await)
    }

    async fn lose_log(&self, topic: &Topic) {
        self.0
            .run(
                "WITH lost AS (
                    UPDATE {s}.topic SET epoch = {s}.new_epoch(), head = 0, head_mark = 0, before = NULL
                    WHERE name = $1 RETURNING *
                ), relay AS (DELETE FROM {s}.key USING lost WHERE topic = lost.id)
                DELETE FROM {s}.log USING lost WHERE topic = lost.id",
                topic.as_str(),
            )
            .await;
    }

    async fn clean_up(&self) {
        self.0.drop().await;
    }
}

strait_core::testkit::suite!(async || Postgres(Schema::new()));
