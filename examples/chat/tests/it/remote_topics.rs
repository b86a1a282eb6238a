//! The cost of a topic that a node only hears.

use std::time::Duration;

use strait_store_redis::testkit;

use crate::kit::{Client, Server};

/// How many topics one client hears.
const A_CLIENT: usize = 1_000;

/// The bytes that a process has in memory.
fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs, on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().strip_suffix(" kB").expect("in kB").parse::<usize>().expect("a number") * 1024
}

/// Asks without waiting for each answer, as far as a channel lets messages wait.
async fn ask_all(client: &mut Client, requests: Vec<String>) {
    for some in requests.chunks(8) {
        for request in some {
            client.send(request.as_str()).await;
        }
        for _ in some {
            let answer = client.json().await;
            assert!(answer.get("error").is_none(), "{answer}");
        }
    }
}

#[tokio::test]
#[ignore = "it measures, for some minutes: cargo test -p chat --test it remote_topics -- --ignored --nocapture"]
async fn the_memory_of_remote_topics_is_told() {
    let redis = testkit::Server::start(&[]).await;
    let store = redis.url();
    let (here, there) = (Server::start(&["--store", &store]), Server::start(&["--store", &store]));
    let mut publisher = there.client("/fan").await;
    let mut clients = Vec::new();
    let (mut before, mut topics) = (0, 0);
    for count in [1_000, 10_000, 50_000] {
        while topics < count {
            let mut client = here.client("/fan").await;
            let name = |n: usize| format!("fan:the-topic-{n:06}");
            let subscribe = |n| format!(r#"{{"action":"subscribe","topic":"{}"}}"#, name(n));
            ask_all(&mut client, (topics..topics + A_CLIENT).map(subscribe).collect()).await;
            // One event for each topic, so that each has been heard.
            let publish = |n| format!(r#"{{"action":"publish","topic":"{}","data":{{"n":{n}}}}}"#, name(n));
            ask_all(&mut publisher, (topics..topics + A_CLIENT).map(publish).collect()).await;
            for _ in 0..A_CLIENT {
                assert!(client.json().await["n"].is_u64());
            }
            clients.push(client);
            topics += A_CLIENT;
        }
        // Memory that was needed on the way is given back.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = resident(here.process());
        if before > 0 {
            eprintln!("{topics} topics: {} bytes each, of {now} in all", (now - before) / (topics - A_CLIENT));
        } else {
            before = now;
        }
    }
}
