//! Parallel invocations of one channel.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use strait_core::{App, ChannelState, Endpoint, Error, Json, Ordering, State};

use crate::kit::{Deployment, Log};

async fn handle(text: String, State(log): State<Log>) -> String {
    log.note(format!("begins {text}"));
    if text.contains("slow") {
        while log.count("go on") == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    log.note(format!("ends {text}"));
    text
}

async fn race(ordering: Ordering, slow: &str, fast: &str) -> (Vec<String>, [String; 2]) {
    let log = Log::default();
    let endpoint = || Endpoint::new("a", "/a").public().ordering(ordering.clone()).on_message(handle);
    let app = || App::new().endpoint(endpoint()).state(log.clone());
    let deployment = Deployment::start(app).await;
    let mut client = deployment.connect("/a").await;
    client.send(slow).await;
    log.wait_for(&format!("begins {slow}")).await;
    client.send(fast).await;
    if ordering == Ordering::Concurrent {
        log.wait_for(&format!("ends {fast}")).await;
    } else {
        // The message was handed over, and waits.
        crate::kit::eventually("both run", || deployment.count("POST") == 0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    log.note("go on");
    let answers = [client.next().await, client.next().await].map(|answer| answer.to_text().unwrap().to_owned());
    deployment.idle().await;
    let noted = log.all().into_iter().filter(|noted| noted != "go on").collect();
    (noted, answers)
}

#[tokio::test]
async fn concurrent_a_fast_message_overtakes_a_slow_one() {
    let (log, answers) = race(Ordering::Concurrent, "slow", "fast").await;
    assert_eq!(log, ["begins slow", "begins fast", "ends fast", "ends slow"]);
    assert_eq!(answers, ["fast", "slow"]);
}

#[tokio::test]
async fn serialized_a_fast_message_waits_for_a_slow_one() {
    let (log, answers) = race(Ordering::Serialized, "slow", "fast").await;
    assert_eq!(log, ["begins slow", "ends slow", "begins fast", "ends fast"]);
    assert_eq!(answers, ["slow", "fast"]);
}

#[tokio::test]
async fn sequenced_messages_are_handled_in_the_clients_order() {
    let (slow, fast) = (r#"{"n":1,"slow":true}"#, r#"{"n":2}"#);
    let (_, answers) = race(Ordering::Sequenced("n".to_owned()), slow, fast).await;
    assert_eq!(answers, [slow, fast]);
}

#[tokio::test]
async fn parallel_updates_of_one_channels_state_both_hold() {
    #[derive(Debug, Default, Clone, Serialize, Deserialize)]
    struct Counter {
        count: u64,
    }
    async fn count(_: String, state: ChannelState<Counter>) -> Result<Json<u64>, Error> {
        let update = state.update(|counter| {
            counter.count += 1;
            counter.count
        });
        Ok(Json(update.await?))
    }
    let app = || App::new().endpoint(Endpoint::new("a", "/a").public().on_message(count));
    let deployment = Deployment::with(app, strait_adapter_lambda::local::Options::default(), 4).await;
    let mut client = deployment.connect("/a").await;
    for _ in 0..12 {
        client.send("go").await;
    }
    let mut counts = Vec::new();
    for _ in 0..12 {
        counts.push(client.next().await.to_text().unwrap().parse::<u64>().unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=12).collect::<Vec<_>>());
}
