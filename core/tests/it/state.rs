//! `ChannelState`: kept with the channel, changed by compare-and-set.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strait_core::store::{Change, ChannelStore, Patch, StoreErrorKind};
use strait_core::testkit::Fault;
use strait_core::{App, Channel, ChannelState, Endpoint, Error, Json, Session};

use crate::node::{Node, faulty, serve};

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Seen {
    texts: Vec<String>,
}

async fn note(text: String, state: ChannelState<Seen>) -> Result<Json<usize>, Error> {
    Ok(Json(
        state
            .update(|seen| {
                seen.texts.push(text.clone());
                seen.texts.len()
            })
            .await?,
    ))
}

fn endpoint() -> Endpoint {
    Endpoint::new("a", "/")
        .public()
        .on_message(note)
        .on("all", async |state: ChannelState<Seen>| Ok::<_, Error>(Json(state.get()?.texts.clone())))
}

#[tokio::test]
async fn the_state_begins_with_its_default_and_is_each_channels_own() {
    let node = serve(endpoint()).await;
    let [one, other] = [node.connect("/").await, node.connect("/").await];
    assert_eq!(one.ask(r#"{"action":"all"}"#).await, r#"{"action":"all","result":[]}"#);
    assert_eq!(one.ask("a").await, "1");
    assert_eq!(one.ask("b").await, "2");
    assert_eq!(other.ask("c").await, "1");
    assert_eq!(one.ask(r#"{"action":"all"}"#).await, r#"{"action":"all","result":["a","b"]}"#);
}

#[tokio::test]
async fn the_state_is_written_through_to_the_record() {
    let (store, _) = faulty();
    let node = Node::start(App::new().endpoint(endpoint()).store(store.clone())).await;
    let client = node.connect("/").await;
    client.ask("a").await;
    client.ask("b").await;
    let state = store.get(&client.id).await.unwrap().unwrap().state;
    assert_eq!((state.version, state.value.as_deref()), (2, Some(&br#"{"texts":["a","b"]}"#[..])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_at_once_are_all_kept() {
    async fn many(state: ChannelState<u32>) -> Result<Json<u32>, Error> {
        let state = Arc::new(state);
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let state = Arc::clone(&state);
                tokio::spawn(async move { state.update(|count| *count += 1).await })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        Ok(Json(*state.get()?))
    }
    let client = serve(Endpoint::new("a", "/").public().on_message(many)).await.connect("/").await;
    for round in 1..20 {
        assert_eq!(client.ask("go").await, (round * 10).to_string());
    }
}

#[tokio::test]
async fn an_update_that_comes_second_runs_again_on_the_newest_state() {
    let (store, _) = faulty();
    let node = Node::start(App::new().endpoint(endpoint()).store(store.clone())).await;
    let client = node.connect("/").await;
    client.ask("a").await;
    // Another writer changes the state; this node's memory does not know of it.
    let fence = store.get(&client.id).await.unwrap().unwrap().fence();
    let value = Some(bytes::Bytes::from_static(br#"{"texts":["a","theirs"]}"#));
    let patch = Patch { state: Some(Change { expected: 1, value }), ..Patch::default() };
    store.write(&fence, patch).await.unwrap();
    assert_eq!(client.ask("b").await, "3");
    assert_eq!(client.ask(r#"{"action":"all"}"#).await, r#"{"action":"all","result":["a","theirs","b"]}"#);
}

#[tokio::test]
async fn a_write_that_fails_changes_nothing_and_one_whose_answer_was_lost_is_found() {
    let (store, faults) = faulty();
    let node = Node::start(App::new().endpoint(endpoint()).store(store.clone())).await;
    let client = node.connect("/").await;
    faults.next("write", 1, &Fault::Refuse(StoreErrorKind::Unavailable));
    assert!(client.ask("a").await.contains(r#""code":"unavailable""#));
    assert_eq!(client.ask("b").await, "1");
    faults.next("write", 1, &Fault::LoseAnswer(StoreErrorKind::Timeout));
    assert!(client.ask("c").await.contains(r#""code":"unavailable""#));
    assert_eq!(client.ask("d").await, "3");
    assert_eq!(client.ask(r#"{"action":"all"}"#).await, r#"{"action":"all","result":["b","c","d"]}"#);
}

#[tokio::test]
async fn a_state_of_another_type_is_internal_and_stays() {
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on("text", async |state: ChannelState<String>| state.update(|text| text.push('x')).await)
        .on("number", async |state: ChannelState<u32>| state.update(|number| *number += 1).await)
        .on("get", async |state: ChannelState<String>| Ok::<_, Error>(Json(state.get()?.as_ref().clone())));
    let client = serve(endpoint).await.connect("/").await;
    client.ask(r#"{"action":"text"}"#).await;
    assert!(client.ask(r#"{"action":"number"}"#).await.contains("internal"));
    client.ask(r#"{"action":"text"}"#).await;
    assert_eq!(client.ask(r#"{"action":"get"}"#).await, r#"{"action":"get","result":"xx"}"#);
}

#[tokio::test]
async fn state_and_session_do_not_disturb_each_other() {
    let endpoint = endpoint().on("login", async |channel: Channel| channel.login(Session::new("ann", ())?).await);
    let (store, _) = faulty();
    let node = Node::start(App::new().endpoint(endpoint).store(store.clone())).await;
    let client = node.connect("/").await;
    client.ask("a").await;
    client.ask(r#"{"action":"login"}"#).await;
    assert_eq!(client.ask("b").await, "2");
    let record = store.get(&client.id).await.unwrap().unwrap();
    assert_eq!((record.state.version, record.session.version), (2, 1));
}
