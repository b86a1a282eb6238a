//! Nodes and functions on one store.

use std::time::Duration;

use strait_core::store::ChannelStore;
use strait_core::{
    App, AppBuilder, Channel, Close, Endpoint, Error, EventHub, Json, Payload, Publish, Retention, Session, State,
    Topic, UserId,
};
use strait_store_memory::MemoryStore;

use super::fake::{FakeGateway, Function, at};
use crate::client::Seen;
use crate::log::Log;
use crate::node::{Node, TERM};

async fn join(channel: Channel) -> Result<(), Error> {
    let user = channel.param("user").unwrap_or_default();
    channel.login(Session::new(user, ())?).await?;
    channel.subscribe(&Topic::new("kept")?).await?;
    channel.subscribe_present(&Topic::new("t")?, Some(&"here")).await
}

async fn who(hub: EventHub) -> Result<Json<Vec<String>>, Error> {
    let page = hub.presence(&Topic::new("t")?, None, 10).await?;
    let mut users: Vec<_> = page.items.into_iter().filter_map(|item| item.entry.user).map(String::from).collect();
    users.sort();
    Ok(Json(users))
}

async fn publish(channel: Channel, text: String) -> Result<(), Error> {
    let topic = if text.starts_with("kept") { "kept" } else { "t" };
    channel.publish(&Topic::new(topic)?, Payload::text(text)).await?;
    Ok(())
}

fn app(store: &MemoryStore, log: &Log) -> AppBuilder {
    let endpoint = Endpoint::new("a", "/a/{user}")
        .public()
        .on_connect(join)
        .on("who", who)
        .on_message(publish)
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    App::new()
        .endpoint(endpoint)
        .retain("kept", Retention { count: 10, age: Duration::from_secs(600) })
        .lease(TERM * 20)
        .state(log.clone())
        .store(store.clone())
}

struct Fleet {
    node: Node,
    function: Function,
    store: MemoryStore,
    log: Log,
}

async fn fleet() -> Fleet {
    let (store, log, gateway) = (MemoryStore::new(), Log::default(), FakeGateway::new());
    let node = Node::start(app(&store, &log).gateway(gateway.clone())).await;
    let function = Function::new(app(&store, &log), &gateway);
    Fleet { node, function, store, log }
}

#[tokio::test]
async fn publications_reach_nodes_and_gateways_from_either() {
    let Fleet { node, function, .. } = fleet().await;
    let ada = node.connect("/a/ada").await;
    function.connect("bob", "/?path=/a/bob").await;
    for text in ["from the node", "kept from the node"] {
        ada.send(text);
        ada.expect(text).await;
    }
    function.gateway.sees("bob", &["from the node", "kept from the node"]).await;
    for text in ["from the function", "kept from the function"] {
        function.message("bob", text).await;
        ada.expect(text).await;
    }
    let all = ["from the node", "kept from the node", "from the function", "kept from the function"];
    function.gateway.sees("bob", &all).await;
}

#[tokio::test]
async fn presence_is_one_list() {
    let Fleet { node, function, .. } = fleet().await;
    let ada = node.connect("/a/ada").await;
    function.connect("bob", "/?path=/a/bob").await;
    let both = r#"{"action":"who","result":["ada","bob"]}"#;
    assert_eq!(ada.ask(r#"{"action":"who"}"#).await, both);
    function.message("bob", r#"{"action":"who"}"#).await;
    function.gateway.sees("bob", &[both]).await;
    function.disconnect("bob").await;
    assert_eq!(ada.ask(r#"{"action":"who"}"#).await, r#"{"action":"who","result":["ada"]}"#);
}

#[tokio::test]
async fn direct_sends_and_sends_to_a_user_arrive_on_either_side() {
    let Fleet { node, function, store, .. } = fleet().await;
    let ada = node.connect("/a/ada").await;
    ada.ask(r#"{"action":"who"}"#).await;
    function.connect("bob", "/?path=/a/bob").await;
    let bob = store.find(&at("bob").location()).await.expect("answers").expect("it is there").id;
    assert!(node.hub().send(&bob, Payload::text("to bob")).await.expect("sent"));
    assert!(function.app.hub().send(&ada.id, Payload::text("to ada")).await.expect("sent"));
    let user = |name| UserId::new(name).expect("a name");
    assert_eq!(node.hub().send_to_user(&user("bob"), Payload::text("to user bob")).await.expect("sent"), 1);
    assert_eq!(function.app.hub().send_to_user(&user("ada"), Payload::text("to user ada")).await.expect("sent"), 1);
    function.gateway.sees("bob", &["to bob", "to user bob"]).await;
    ada.expect("to ada").await;
    ada.expect("to user ada").await;
    function.gateway.lose("bob");
    assert!(!node.hub().send(&bob, Payload::text("to nobody")).await.expect("it is told"));
}

#[tokio::test]
async fn a_close_reaches_either_side() {
    let Fleet { node, function, store, log } = fleet().await;
    let ada = node.connect("/a/ada").await;
    ada.ask(r#"{"action":"who"}"#).await;
    function.connect("bob", "/?path=/a/bob").await;
    let bob = store.find(&at("bob").location()).await.expect("answers").expect("it is there").id;
    assert!(node.hub().close_channel(&bob, Close::normal("bye")).await.expect("closed"));
    assert!(function.gateway.is_closed("bob"));
    log.wait_for("disconnect").await;
    let user = UserId::new("ada").expect("a name");
    assert_eq!(function.app.hub().close_user(&user, Close::normal("bye")).await.expect("closed"), 1);
    assert_eq!(ada.next().await, Seen::Close(1000, "bye".to_owned()));
    function.message("bob", "after").await;
    crate::log::eventually("both ends", || log.count("disconnect") == 2).await;
}

#[tokio::test]
async fn a_node_evicts_what_is_gone_and_keeps_what_is_throttled() {
    let Fleet { node, function, store, log } = fleet().await;
    function.connect("bob", "/?path=/a/bob").await;
    function.gateway.fault(|_, _| Some(strait_core::Posted::Throttled));
    let topic = Topic::new("t").expect("a name");
    node.hub().publish(Publish::new(topic.clone(), Payload::text("lost"))).await.expect("published");
    crate::log::eventually("a post", || function.gateway.posts() > 0).await;
    function.gateway.mend();
    node.hub().publish(Publish::new(topic.clone(), Payload::text("event"))).await.expect("published");
    function.gateway.sees("bob", &["event"]).await;
    function.gateway.lose("bob");
    node.hub().publish(Publish::new(topic, Payload::text("to nobody"))).await.expect("published");
    log.wait_for("disconnect").await;
    crate::log::eventually_async("the row's end", async || {
        store.find(&at("bob").location()).await.expect("answers").is_none()
    })
    .await;
}
