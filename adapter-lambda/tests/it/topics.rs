use std::time::Duration;

use strait_adapter_lambda::local::Fault;
use strait_core::store::ChannelStore;
use strait_core::{
    App, AppBuilder, Channel, Close, Endpoint, Error, EventHub, Json, NoReply, Payload, Publish, Retention, Session,
    State, Topic, UserId,
};

use crate::kit::{Deployment, Log};

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn app(log: &Log) -> AppBuilder {
    async fn join(channel: Channel) -> Result<(), Error> {
        let user = channel.param("user").unwrap_or_default();
        channel.login(Session::new(user, ())?).await?;
        channel.subscribe(&topic("kept")).await?;
        channel.subscribe_present::<()>(&topic("t"), None).await
    }
    async fn publish(channel: Channel, text: String) -> Result<NoReply, Error> {
        match text.strip_prefix("others ") {
            Some(text) => channel.publish_to_others(&topic("t"), Payload::text(text)).await?,
            None => channel.publish(&topic("t"), Payload::text(text)).await?,
        };
        Ok(NoReply)
    }
    async fn who(hub: EventHub) -> Result<Json<Vec<String>>, Error> {
        let page = hub.presence(&topic("t"), None, 10).await?;
        let mut users: Vec<_> = page.items.into_iter().filter_map(|item| item.entry.user).map(String::from).collect();
        users.sort();
        Ok(Json(users))
    }
    let endpoint =
        Endpoint::new("a", "/a/{user}").public().on_connect(join).on("who", who).on_message(publish).on_disconnect(
            async |State(log): State<Log>, channel: Channel| {
                log.note(format!("left {}", channel.param("user").unwrap_or_default()));
            },
        );
    let kept = Retention { count: 100, age: Duration::from_secs(600) };
    App::new().endpoint(endpoint).retain("kept", kept).state(log.clone())
}

async fn publish(deployment: &Deployment, name: &str, text: &str) {
    deployment.hub().publish(Publish::new(topic(name), Payload::text(text))).await.unwrap();
}

#[tokio::test]
async fn a_publication_reaches_every_subscriber_also_with_nobody_excluded() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut ada = deployment.connect("/a/ada").await;
    let mut bob = deployment.connect("/a/bob").await;
    ada.send("to all").await;
    ada.expect("to all").await;
    bob.expect("to all").await;
    ada.send("others to the rest").await;
    bob.expect("to the rest").await;
    publish(&deployment, "t", "from outside").await;
    ada.expect("from outside").await;
    bob.expect("from outside").await;
}

#[tokio::test]
async fn presence_users_and_closes_work_from_afar() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut ada = deployment.connect("/a/ada").await;
    let mut bob = deployment.connect("/a/bob").await;
    assert_eq!(ada.ask(r#"{"action":"who"}"#).await, r#"{"action":"who","result":["ada","bob"]}"#);
    let user = UserId::new("bob").unwrap();
    assert_eq!(deployment.hub().send_to_user(&user, Payload::text("hello bob")).await.unwrap(), 1);
    bob.expect("hello bob").await;
    assert_eq!(deployment.hub().close_user(&user, Close::policy("out")).await.unwrap(), 1);
    bob.closed().await;
    log.wait_for("left bob").await;
    crate::kit::eventually("bob's record has gone", || true).await;
    deployment.idle().await;
    assert_eq!(ada.ask(r#"{"action":"who"}"#).await, r#"{"action":"who","result":["ada"]}"#);
    assert_eq!(log.count("left bob"), 1);
}

#[tokio::test]
async fn a_throttled_gateway_loses_no_channel_and_no_event() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut ada = deployment.connect("/a/ada").await;
    let mut bob = deployment.connect("/a/bob").await;
    for fault in ["post=429", "post=500", "post=hang"] {
        deployment.gateway.faults().add(fault.parse::<Fault>().unwrap().times(2));
        publish(&deployment, "t", fault).await;
        ada.expect(fault).await;
        bob.expect(fault).await;
    }
    assert!(log.all().is_empty());
}

#[tokio::test]
async fn who_is_stuck_gets_its_events_in_order_and_keeps_nobody_waiting() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut ada = deployment.connect("/a/ada").await;
    let mut bob = deployment.connect("/a/bob").await;
    let [_, bob_id] = deployment.ids().try_into().unwrap();
    deployment.gateway.faults().add("post=hang".parse::<Fault>().unwrap().at(&bob_id).times(1));
    for text in ["one", "two", "three"] {
        publish(&deployment, "t", text).await;
        ada.expect(text).await;
    }
    for text in ["one", "two", "three"] {
        bob.expect(text).await;
    }
}

#[tokio::test]
async fn only_gone_evicts() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut ada = deployment.connect("/a/ada").await;
    let _bob = deployment.connect("/a/bob").await;
    let [_, bob] = deployment.ids().try_into().unwrap();
    // By now 410 does not mean an opening connection any more.
    tokio::time::sleep(Duration::from_millis(350)).await;
    deployment.gateway.faults().add("post=403".parse::<Fault>().unwrap().at(&bob).times(1));
    publish(&deployment, "t", "forbidden to bob").await;
    ada.expect("forbidden to bob").await;
    assert!(deployment.store.find(&deployment.at(&bob).location()).await.unwrap().is_some());
    deployment.gateway.faults().add("post=410".parse::<Fault>().unwrap().at(&bob).times(1));
    publish(&deployment, "t", "bob is gone").await;
    ada.expect("bob is gone").await;
    log.wait_for("left bob").await;
    assert_eq!(log.all(), ["left bob"]);
}

#[tokio::test]
async fn a_retained_topic_is_in_order_and_losses_are_told() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut ada = deployment.connect("/a/ada").await;
    for n in 0..20 {
        publish(&deployment, "kept", &n.to_string()).await;
    }
    for n in 0..20 {
        ada.expect(&n.to_string()).await;
    }
    let [ada_id] = deployment.ids().try_into().unwrap();
    deployment.gateway.faults().add("post=403".parse::<Fault>().unwrap().at(&ada_id).times(1));
    publish(&deployment, "kept", "lost").await;
    ada.expect(r#"{"gap":{"topic":"kept"}}"#).await;
    publish(&deployment, "kept", "next").await;
    ada.expect("next").await;
}
