//! The chat as a Lambda function behind an API Gateway WebSocket API. `CHAT_STORE` names the store of channels and
//! topics; with `memory`, the default, there can be only one instance. With `CHAT_LOAD_TESTS=1` it has the endpoints of
//! load tests, too.

use anyhow::Context;
use chat::Store;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => filter.parse().context("RUST_LOG must be a level, or targets with levels")?,
        Err(_) => Targets::new().with_default(Level::WARN),
    };
    // CloudWatch adds the time to each line.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).without_time();
    tracing_subscriber::registry().with(filter).with(lines).init();
    let store = match std::env::var("CHAT_STORE") {
        Ok(store) => Store::of_function(&store).context("CHAT_STORE")?,
        Err(_) => Store::Memory,
    };
    let load_tests = std::env::var("CHAT_LOAD_TESTS").is_ok_and(|value| value == "1");
    let app = if load_tests { chat::with_load_tests(chat::app()) } else { chat::app() };
    strait_adapter_lambda::run(store.give(app)).await?;
    Ok(())
}
