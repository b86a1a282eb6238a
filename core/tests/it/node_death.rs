//! Nodes that die: other nodes end their channels.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use strait_core::store::{ChannelStore, RecordPhase};
use strait_core::{App, AppBuilder, Channel, DisconnectReason, Endpoint, Opening, Payload, Session, State};
use strait_store_memory::MemoryStore;

use crate::log::{Log, eventually_async};
use crate::node::{Node, TERM, topic};

fn app(endpoint: Endpoint, log: &Log, store: &MemoryStore) -> AppBuilder {
    let endpoint = endpoint
        .public()
        .on_connect(async |channel: Channel, State(log): State<Log>| {
            channel.subscribe_present(&topic("room"), Some(&"here")).await?;
            log.note("connect");
            Ok::<_, strait_core::Error>(())
        })
        .on_disconnect(async |reason: DisconnectReason, channel: Channel, State(log): State<Log>| {
            log.note(format!("{reason:?} {}", channel.param("room").unwrap_or_default()));
        });
    App::new().endpoint(endpoint).state(log.clone()).store(store.clone()).lease(TERM)
}

#[tokio::test]
async fn a_dead_nodes_channels_end_on_another_once_and_nobody_seems_present() {
    let (store, theirs, ours) = (MemoryStore::new(), Log::default(), Log::default());
    let plain = || Endpoint::new("room", "/rooms/{room}");
    let doomed = Node::start_doomed(app(plain(), &theirs, &store)).await;
    let nodes = [Node::start(app(plain(), &ours, &store)).await, Node::start(app(plain(), &ours, &store)).await];
    let clients =
        [doomed.connect("/rooms/a").await, doomed.connect("/rooms/b").await, doomed.connect("/rooms/c").await];
    eventually_async("all are present", async || {
        nodes[0].hub().presence(&topic("room"), None, 10).await.unwrap().items.len() == 3
    })
    .await;
    doomed.kill();
    let died = std::time::Instant::now();
    eventually_async("nobody is present", async || {
        nodes[0].hub().presence(&topic("room"), None, 10).await.unwrap().items.is_empty()
    })
    .await;
    assert!(died.elapsed() < TERM * 8, "it took {:?}", died.elapsed());
    for client in &clients {
        eventually_async("the record is gone", async || store.get(&client.id).await.unwrap().is_none()).await;
    }
    // Long enough for a second claim, if there could be one.
    tokio::time::sleep(TERM * 2).await;
    let mut ended = ours.all();
    ended.sort();
    assert_eq!(ended, ["Expired a", "Expired b", "Expired c"]);
    assert_eq!(theirs.count("connect"), 3);
    assert_eq!(theirs.all().len(), 3);
}

#[tokio::test]
async fn the_other_nodes_see_the_session_and_the_state_of_a_dead_nodes_channels() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let build = || {
        let endpoint = Endpoint::new("a", "/")
            .authenticate(async || Session::new("ann", 5_u32))
            .on_message(async |state: strait_core::ChannelState<u32>| state.update(|count| *count = 9).await)
            .on_disconnect(
                async |session: Session<u32>, state: strait_core::ChannelState<u32>, State(log): State<Log>| {
                    log.note(format!("{} {} {}", session.user(), *session, state.get()?));
                    state.update(|count| *count += 1).await
                },
            );
        App::new().endpoint(endpoint).state(log.clone()).store(store.clone()).lease(TERM)
    };
    let doomed = Node::start_doomed(build()).await;
    let _other = Node::start(build()).await;
    let client = doomed.connect("/").await;
    client.send("x");
    eventually_async("the state is stored", async || {
        store.get(&client.id).await.unwrap().is_some_and(|record| record.state.version == 1)
    })
    .await;
    doomed.kill();
    log.wait_for("ann 5 9").await;
    assert_eq!(log.all().len(), 1);
}

#[tokio::test]
async fn a_dead_nodes_resumable_channels_are_detached_and_end_with_their_grace() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let resumable = || Endpoint::new("room", "/rooms/{room}").resumable(Duration::from_secs(60));
    let doomed = Node::start_doomed(app(resumable(), &log, &store)).await;
    let other = Node::start(app(resumable(), &log, &store)).await;
    let client = doomed.connect("/rooms/a").await;
    log.wait_for("connect").await;
    eventually_async("the channel is open", async || {
        matches!(store.get(&client.id).await.unwrap().expect("it lives").phase, RecordPhase::Open)
    })
    .await;
    doomed.kill();
    eventually_async("the channel is detached", async || {
        let record = store.get(&client.id).await.unwrap();
        matches!(record.expect("it lives").phase, RecordPhase::Detached { .. })
    })
    .await;
    assert_eq!(log.all(), ["connect"], "on_disconnect waits for the grace");
    assert_eq!(other.hub().presence(&topic("room"), None, 10).await.unwrap().items.len(), 1);
    assert!(other.hub().send(&client.id, Payload::text("kept")).await.unwrap(), "direct sends wait");
}

#[tokio::test]
async fn a_grace_that_ends_ends_the_channel() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let resumable = || Endpoint::new("room", "/rooms/{room}").resumable(Duration::from_millis(50));
    let doomed = Node::start_doomed(app(resumable(), &log, &store)).await;
    let _other = Node::start(app(resumable(), &log, &store)).await;
    let _client = doomed.connect("/rooms/a").await;
    log.wait_for("connect").await;
    doomed.kill();
    log.wait_for("Expired a").await;
    assert_eq!(log.all(), ["connect", "Expired a"]);
}

#[tokio::test]
async fn a_plain_connection_that_closes_does_not_detach() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let endpoint = Endpoint::new("room", "/rooms/{room}").resumable(Duration::from_secs(60));
    let node = Node::start(app(endpoint, &log, &store)).await;
    let client = node.connect("/rooms/a").await;
    log.wait_for("connect").await;
    let id = client.id.clone();
    client.lose();
    client.ended().await;
    assert_eq!(log.all(), ["connect", "Lost a"]);
    assert_eq!(store.get(&id).await.unwrap(), None);
}

#[tokio::test]
async fn a_node_that_stops_leaves_its_channels_to_the_others_at_once() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let plain = || Endpoint::new("room", "/rooms/{room}");
    let leaving = Node::start(app(plain(), &log, &store)).await;
    let _other = Node::start(app(plain(), &log, &store)).await;
    let _client = leaving.connect("/rooms/a").await;
    log.wait_for("connect").await;
    leaving.app.stop().await;
    assert!(!leaving.hub().is_sure());
    log.wait_for("Expired a").await;
    assert_eq!(leaving.refused("/rooms/a", &[]).await.status, 503);
}

#[tokio::test]
async fn channels_of_an_endpoint_that_is_no_more_are_swept() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let doomed = Node::start_doomed(app(Endpoint::new("old", "/rooms/{room}"), &log, &store)).await;
    let other = Node::start(app(Endpoint::new("new", "/rooms/{room}"), &log, &store)).await;
    let client = doomed.connect("/rooms/a").await;
    log.wait_for("connect").await;
    doomed.kill();
    eventually_async("the record is gone", async || store.get(&client.id).await.unwrap().is_none()).await;
    assert!(other.hub().presence(&topic("room"), None, 10).await.unwrap().items.is_empty());
    assert_eq!(log.all(), ["connect"]);
}

#[tokio::test]
async fn channels_of_an_endpoint_wait_for_a_node_that_has_it() {
    // Long enough that a slow machine costs no node its lease, and short enough for the tests' patience.
    const TERM: Duration = Duration::from_secs(2);
    let (store, theirs, ours) = (MemoryStore::new(), Log::default(), Log::default());
    let old = || Endpoint::new("old", "/rooms/{room}");
    let doomed = Node::start_doomed(app(old(), &theirs, &store).lease(TERM)).await;
    let other = Node::start(app(Endpoint::new("new", "/rooms/{room}"), &ours, &store).lease(TERM)).await;
    let client = doomed.connect("/rooms/a").await;
    theirs.wait_for("connect").await;
    doomed.kill();
    eventually_async("it is dead", async || {
        let record = store.get(&client.id).await.unwrap();
        record.expect("its end waits").phase == RecordPhase::Dead
    })
    .await;
    assert!(other.hub().presence(&topic("room"), None, 10).await.unwrap().items.is_empty());
    let _late = Node::start(app(old(), &ours, &store).lease(TERM)).await;
    ours.wait_for("Expired a").await;
    eventually_async("the record is gone", async || store.get(&client.id).await.unwrap().is_none()).await;
    assert_eq!(ours.all(), ["Expired a"]);
}

#[tokio::test]
async fn all_of_a_dead_nodes_channels_end_however_many_they_were() {
    let (store, theirs, ours) = (MemoryStore::new(), Log::default(), Log::default());
    let plain = || Endpoint::new("room", "/rooms/{room}");
    let doomed = Node::start_doomed(app(plain(), &theirs, &store)).await;
    let node = Node::start(app(plain(), &ours, &store)).await;
    let mut clients = Vec::new();
    for n in 0..600 {
        clients.push(doomed.connect(&format!("/rooms/{n}")).await);
    }
    eventually_async("all are connected", async || theirs.count("connect") == 600).await;
    doomed.kill();
    eventually_async("all have ended", async || ours.all().len() >= 600).await;
    eventually_async("nobody is present", async || {
        node.hub().presence(&topic("room"), None, 1000).await.unwrap().items.is_empty()
    })
    .await;
    let mut ended = ours.all();
    ended.sort();
    ended.dedup();
    assert_eq!((ours.all().len(), ended.len()), (600, 600), "each once");
}

#[tokio::test]
async fn after_a_restart_each_member_is_present_once() {
    const USERS: [&str; 3] = ["ann", "bob", "cy"];
    let store = MemoryStore::new();
    let build = || {
        let endpoint = Endpoint::new("room", "/{user}")
            .authenticate(async |path: Opening<HashMap<String, String>>| Session::new(&path["user"], ()))
            .on_connect(async |channel: Channel| channel.subscribe_present(&topic("room"), Some(&"here")).await);
        App::new().endpoint(endpoint).store(store.clone()).lease(TERM)
    };
    let present = async |node: &Node| {
        let found = node.hub().presence(&topic("room"), None, 10).await.unwrap().items;
        found.into_iter().map(|one| (one.entry.user.unwrap().to_string(), one.channel)).collect::<BTreeSet<_>>()
    };
    let join = async |node: &Node| {
        let mut clients = Vec::new();
        for user in USERS {
            clients.push(node.connect(&format!("/{user}")).await);
        }
        clients
    };
    let doomed = Node::start_doomed(build()).await;
    let _before = join(&doomed).await;
    eventually_async("all are present", async || present(&doomed).await.len() == USERS.len()).await;
    doomed.kill();
    let node = Node::start(build()).await;
    let clients = join(&node).await;
    let here = USERS.into_iter().zip(&clients).map(|(user, client)| (user.to_owned(), client.id.clone())).collect();
    eventually_async("each is present once", async || present(&node).await == here).await;
    tokio::time::sleep(TERM * 2).await;
    assert_eq!(present(&node).await, here, "and stays");
}
