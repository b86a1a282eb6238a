//! Presence: the members of a topic that others see.

use strait_core::store::Present;
use strait_core::{App, AppBuilder, Channel, Endpoint, Error, Session};

use crate::log::eventually_async;
use crate::node::{Node, cluster, topic};

fn app() -> AppBuilder {
    let endpoint = Endpoint::new("a", "/").public().authenticate(async || Session::new("ann", ())).on_message(
        async |text: String, channel: Channel| {
            match text.split_once(' ') {
                Some(("here", data)) => channel.subscribe_present(&topic("t"), Some(&data)).await?,
                _ if text == "logout" => channel.logout().await?,
                _ if text == "login" => channel.login(Session::new("bob", ())?).await?,
                _ if text == "watch" => channel.subscribe(&topic("t")).await?,
                _ => drop(channel.unsubscribe(&topic("t")).await?),
            }
            Ok::<_, Error>(text)
        },
    );
    App::new().endpoint(endpoint)
}

async fn present(node: &Node) -> Vec<Present> {
    node.hub().presence(&topic("t"), None, 10).await.unwrap().items
}

#[tokio::test]
async fn who_is_present_is_seen_from_every_node_once() {
    let [one, two] = cluster(app).await;
    let (ann, watcher) = (one.connect("/").await, two.connect("/").await);
    watcher.ask("watch").await;
    ann.ask("here now").await;
    ann.ask("here still").await;
    for node in [&one, &two] {
        let found = present(node).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].channel, ann.id);
        assert_eq!(found[0].entry.user.as_ref().map(|user| user.as_str()), Some("ann"));
        assert_eq!(found[0].entry.data.as_deref(), Some(&br#""still""#[..]));
    }
    // Plain clients get no joins and leaves: the watcher's next message is its own reply.
    assert_eq!(watcher.ask("watch").await, "watch");
    ann.ask("leave").await;
    assert!(present(&two).await.is_empty());
    ann.ask("here again").await;
    assert_eq!(present(&two).await.len(), 1);
    ann.close();
    ann.ended().await;
    eventually_async("nobody is present", async || present(&two).await.is_empty()).await;
}

#[tokio::test]
async fn a_change_of_session_changes_who_is_present() {
    let [one] = cluster(app).await;
    let client = one.connect("/").await;
    client.ask("here now").await;
    for (message, expected) in [("logout", None), ("login", Some("bob"))] {
        client.ask(message).await;
        let found = present(&one).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].entry.user.as_ref().map(|user| user.as_str()), expected, "after {message}");
        assert_eq!(found[0].entry.data.as_deref(), Some(&br#""now""#[..]));
    }
}

#[tokio::test]
async fn who_subscribes_without_presence_stays_hidden_and_who_was_subscribed_can_show() {
    let [one] = cluster(app).await;
    let client = one.connect("/").await;
    client.ask("watch").await;
    assert!(present(&one).await.is_empty());
    client.ask("here now").await;
    assert_eq!(present(&one).await.len(), 1);
    client.ask("watch").await;
    assert_eq!(present(&one).await.len(), 1, "subscribing again changes nothing");
}
