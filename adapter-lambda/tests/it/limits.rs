//! API Gateway's limits: accepted and refused messages.

use strait_core::{App, AppBuilder, Endpoint};
use tokio_tungstenite::tungstenite::Message;

use crate::kit::Deployment;

fn app() -> AppBuilder {
    let limits = strait_core::Limits { message: 200 * 1024, ..strait_core::Limits::default() };
    let endpoint = Endpoint::new("a", "/a").public().limits(limits);
    let endpoint = endpoint.on("large", async || "x".repeat(129 * 1024)).on_message(async |text: String| text);
    App::new().endpoint(endpoint)
}

#[tokio::test]
async fn binary_messages_close_with_1003() {
    let deployment = Deployment::start(app).await;
    let mut client = deployment.connect("/a").await;
    client.send(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(client.closed().await, 1003);
    deployment.idle().await;
}

#[tokio::test]
async fn a_frame_of_more_than_32_kib_closes_with_1009() {
    let deployment = Deployment::start(app).await;
    let mut client = deployment.connect("/a").await;
    let most = "x".repeat(32 * 1024);
    assert_eq!(client.ask(&most).await, most);
    client.send("x".repeat(32 * 1024 + 1)).await;
    assert_eq!(client.closed().await, 1009);
}

#[tokio::test]
async fn a_flood_waits_in_the_clients_kernel() {
    let endpoint = || Endpoint::new("a", "/a").public().on_message(std::future::pending::<()>);
    let deployment = Deployment::start(|| App::new().endpoint(endpoint())).await;
    let mut client = deployment.connect("/a").await;
    for _ in 0..1_000 {
        let sending = client.send("x".repeat(30 * 1024));
        if tokio::time::timeout(std::time::Duration::from_secs(1), sending).await.is_err() {
            return;
        }
    }
    panic!("all of it was read");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_posted_but_told() {
    let deployment = Deployment::start(app).await;
    let mut client = deployment.connect("/a").await;
    client.send(r#"{"action":"large"}"#).await;
    let answer = client.next().await;
    let answer = answer.to_text().expect("text");
    assert!(answer.starts_with(r#"{"action":"large","error":{"code":"too_large","message":"#), "{answer}");
    assert!(deployment.gateway.journal().iter().all(|entry| entry.outcome != "413"));
}
