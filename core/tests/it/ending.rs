//! The end of a channel: `on_disconnect` once, nothing left behind, nothing brought back.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use strait_core::store::{ChannelStore, EventHubStore, StoreErrorKind};
use strait_core::testkit::{Fault, Gate};
use strait_core::{
    App, AppBuilder, Channel, ChannelState, Close, DisconnectReason, Endpoint, Error, Nowhere, Session, State, Topic,
    Transport,
};
use strait_store_memory::MemoryStore;

use crate::client::Client;
use crate::log::{Log, Turnstile, eventually, eventually_async};
use crate::node::{Node, TERM, faulty, headers, topic};

/// Channels that handlers keep after their end.
type Kept = Arc<Mutex<Vec<Channel>>>;

fn endpoint() -> Endpoint {
    Endpoint::new("room", "/rooms/{room}")
        .public()
        .on_connect(async |channel: Channel, State(kept): State<Kept>, State(log): State<Log>| {
            log.note("connect");
            kept.lock().push(channel.clone());
            channel.subscribe_present::<()>(&topic("room"), None).await
        })
        .on_message(async |text: String, channel: Channel| match &*text {
            "close" => channel.close(Close::normal("")),
            "panic" => panic!("as asked"),
            _ => {}
        })
        .on_disconnect(async |reason: DisconnectReason, State(log): State<Log>| log.note(format!("{reason:?}")))
}

fn app(log: &Log, kept: &Kept) -> AppBuilder {
    App::new().endpoint(endpoint()).state(log.clone()).state(Arc::clone(kept)).lease(TERM)
}

async fn is_present(node: &Node) -> bool {
    !node.hub().presence(&topic("room"), None, 10).await.unwrap().items.is_empty()
}

#[tokio::test]
async fn on_disconnect_runs_once_however_a_channel_ends() {
    type End = fn(&Client);
    let ways: [(&str, End, &str); 5] = [
        ("the peer closes", |client| client.close(), "Client"),
        ("the connection breaks", |client| client.lose(), "Lost"),
        ("a handler closes", |client| client.send("close"), "Server"),
        ("the node drains", |client| client.drain(), "Server"),
        ("both at once", |client| (client.send("close"), client.close(), client.lose(), client.drain()).0, ""),
    ];
    for (way, end, reason) in ways {
        let (log, kept, store) = (Log::default(), Kept::default(), MemoryStore::new());
        let node = Node::start(app(&log, &kept).store(store.clone())).await;
        let client = node.connect("/rooms/a").await;
        log.wait_for("connect").await;
        eventually("the subscription", || node.hub().topics() == 1).await;
        assert!(is_present(&node).await);
        let id = client.id.clone();
        end(&client);
        client.ended().await;
        let noted = log.all();
        assert_eq!(noted.len(), 2, "{way}: {noted:?}");
        assert!(reason.is_empty() || noted[1] == reason, "{way}: {noted:?}");
        assert_eq!(store.get(&id).await.unwrap(), None, "{way}: the record is gone");
        assert!(!is_present(&node).await, "{way}: nobody is present");
        assert_eq!((node.hub().channels(), node.hub().topics()), (0, 0), "{way}");
    }
}

#[tokio::test]
async fn on_disconnect_waits_for_the_running_handler() {
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_connect(async |State(log): State<Log>, State(turnstile): State<Turnstile>| {
            log.note("connect begins");
            turnstile.pass().await;
            log.note("connect ends");
        })
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    let app = App::new().endpoint(endpoint).state(log.clone()).state(turnstile.clone()).store(MemoryStore::new());
    let node = Node::start(app).await;
    let client = node.connect("/").await;
    log.wait_for("connect begins").await;
    client.lose();
    tokio::task::yield_now().await;
    turnstile.let_pass(1);
    client.ended().await;
    assert_eq!(log.all(), ["connect begins", "connect ends", "disconnect"]);
}

#[tokio::test]
async fn messages_that_came_before_the_peers_close_are_handled() {
    let log = Log::default();
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_message(async |text: String, State(log): State<Log>| {
            tokio::task::yield_now().await;
            log.note(text);
        })
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    let node = Node::start(App::new().endpoint(endpoint).state(log.clone()).store(MemoryStore::new())).await;
    let client = node.connect("/").await;
    ["1", "2", "3"].iter().for_each(|text| client.send(text));
    client.close();
    client.ended().await;
    assert_eq!(log.all(), ["1", "2", "3", "disconnect"]);
}

#[tokio::test]
async fn a_drain_lets_what_waits_be_handled_and_closes_1012() {
    let turnstile = Turnstile::new();
    let endpoint =
        Endpoint::new("a", "/").public().on_message(async |text: String, State(turnstile): State<Turnstile>| {
            turnstile.pass().await;
            text
        });
    let store = MemoryStore::new();
    let node = Node::start(App::new().endpoint(endpoint).state(turnstile.clone()).store(store)).await;
    let (busy, idle) = (node.connect("/").await, node.connect("/").await);
    turnstile.let_pass(1);
    assert_eq!(busy.ask("0").await, "0");
    busy.send("1");
    busy.send("2");
    tokio::task::yield_now().await;
    busy.drain();
    idle.drain();
    assert_eq!(idle.closed().await.0, 1012);
    turnstile.let_pass(2);
    busy.expect("1").await;
    busy.expect("2").await;
    assert_eq!(busy.closed().await.0, 1012);
    busy.ended().await;
    idle.ended().await;
}

#[tokio::test]
async fn a_handshake_that_nobody_waits_for_leaves_nothing_behind() {
    let (log, kept, store) = (Log::default(), Kept::default(), MemoryStore::new());
    let node = Node::start(app(&log, &kept).store(store.clone())).await;
    let (mut conversation, _) = node.open("/rooms/a", headers(&[])).await.unwrap();
    let id = conversation.channel().id().clone();
    poll_fn(|cx| {
        conversation.lost(cx);
        Poll::Ready(())
    })
    .await;
    let done = poll_fn(|cx| conversation.poll(cx).map(drop));
    tokio::time::timeout(Duration::from_secs(2), done).await.expect("the conversation ends");
    assert_eq!(store.get(&id).await.unwrap(), None);
    assert_eq!(log.all(), [""; 0], "neither handler has run");
}

#[tokio::test]
async fn a_handshake_whose_store_did_not_answer_leaves_nothing_behind() {
    let (log, kept) = (Log::default(), Kept::default());
    let (store, faults) = faulty();
    let node = Node::start(app(&log, &kept).store(store).lease(Duration::from_secs(5))).await;
    faults.next("open", 1, &Fault::LoseAnswer(StoreErrorKind::Timeout));
    assert_eq!(node.refused("/rooms/a", &[]).await.status, 503);
    eventually("what was stored is removed", || faults.calls("remove") == 1).await;
    let gate = Gate::new();
    faults.next("open", 1, &Fault::Hang(gate.clone()));
    let admitted = node
        .app
        .accept("/rooms/a", None, &headers(&[]), Transport::Plain)
        .unwrap()
        .admit(headers(&[]), None)
        .await
        .unwrap();
    let cancelled = tokio::time::timeout(Duration::from_millis(10), admitted.open(Arc::new(Nowhere)));
    assert!(cancelled.await.is_err());
    eventually("it is looked for", || faults.calls("claim") == 2).await;
}

#[tokio::test]
async fn many_handshakes_without_an_answer_leave_few_tasks() {
    let (log, kept) = (Log::default(), Kept::default());
    let (store, faults) = faulty();
    let node = Node::start(app(&log, &kept).store(store).lease(Duration::from_secs(60))).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    faults.always("open", Fault::LoseAnswer(StoreErrorKind::Timeout));
    faults.always("claim", Fault::Refuse(StoreErrorKind::Unavailable));
    for _ in 0..100 {
        assert_eq!(node.refused("/rooms/a", &[]).await.status, 503);
    }
    assert!(tasks() <= before + 20, "{} tasks more", tasks() - before);
    faults.heal("claim");
    eventually("all that was stored is removed", || faults.calls("remove") == 100).await;
    eventually("the tasks have ended", || tasks() == before).await;
}

#[tokio::test]
async fn a_store_that_fails_is_asked_until_the_end_is_done() {
    for (op, fault) in [
        ("claim", Fault::Refuse(StoreErrorKind::Unavailable)),
        ("remove", Fault::Refuse(StoreErrorKind::Unavailable)),
        ("remove", Fault::LoseAnswer(StoreErrorKind::Timeout)),
        ("interest", Fault::Refuse(StoreErrorKind::Unavailable)),
    ] {
        let (log, kept) = (Log::default(), Kept::default());
        let (store, faults) = faulty();
        // The claim must not run out while the store is asked again.
        let node = Node::start(app(&log, &kept).store(store.clone()).lease(Duration::from_secs(5))).await;
        let client = node.connect("/rooms/a").await;
        log.wait_for("connect").await;
        eventually("the subscription", || faults.calls("subscribe") == 1).await;
        let id = client.id.clone();
        faults.next(op, 2, &fault);
        client.lose();
        client.ended().await;
        eventually_async("the record is gone", async || store.get(&id).await.unwrap().is_none()).await;
        assert_eq!(log.all(), ["connect", "Lost"], "{op} {fault:?}");
        assert!(!is_present(&node).await, "{op} {fault:?}");
    }
}

#[tokio::test]
async fn a_failing_on_disconnect_ends_the_channel_all_the_same() {
    async fn panics() {
        panic!("at the very end");
    }
    async fn hangs() {
        std::future::pending::<()>().await;
    }
    let limits = strait_core::Limits { handler: Duration::from_millis(30), ..strait_core::Limits::default() };
    for endpoint in [
        Endpoint::new("a", "/").on_disconnect(panics),
        Endpoint::new("a", "/").on_disconnect(async || Err::<(), _>(Error::forbidden("no"))),
        Endpoint::new("a", "/").limits(limits).on_disconnect(hangs),
    ] {
        let store = MemoryStore::new();
        let node = Node::start(App::new().endpoint(endpoint).store(store.clone())).await;
        let client = node.connect("/").await;
        let id = client.id.clone();
        client.close();
        client.ended().await;
        assert_eq!(store.get(&id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_long_on_disconnect_keeps_its_claim() {
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint = Endpoint::new("a", "/").on_disconnect(
        async |State(log): State<Log>, State(turnstile): State<Turnstile>, reason: DisconnectReason| {
            log.note(format!("{reason:?}"));
            turnstile.pass().await;
        },
    );
    let (store, faults) = faulty();
    let app = App::new().endpoint(endpoint).state(log.clone()).state(turnstile.clone()).store(store).lease(TERM);
    let node = Node::start(app).await;
    let client = node.connect("/").await;
    client.lose();
    log.wait_for("Lost").await;
    let before = faults.calls("claim_due");
    eventually("the janitor has come by", || faults.calls("claim_due") > before + 3).await;
    assert!(faults.calls("renew") >= 2, "the claim was renewed");
    turnstile.let_pass(1);
    client.ended().await;
    assert_eq!(log.all(), ["Lost"]);
}

#[tokio::test]
async fn on_disconnect_sees_session_and_state_and_may_still_publish() {
    let log = Log::default();
    let endpoint = Endpoint::new("a", "/rooms/{room}")
        .authenticate(async || Session::new("ann", 7_u32))
        .on_message(async |state: ChannelState<u32>| state.update(|count| *count += 1).await)
        .on_disconnect(
            async |channel: Channel, session: Session<u32>, state: ChannelState<u32>, State(log): State<Log>| {
                log.note(format!("{} {} {}", session.user(), *session, state.get()?));
                state.update(|count| *count += 1).await?;
                channel
                    .publish(&topic("left"), strait_core::Payload::text(format!("{:?}", channel.param("room"))))
                    .await?;
                Ok::<_, Error>(())
            },
        );
    let watch =
        Endpoint::new("watch", "/watch").on_connect(async |channel: Channel| channel.subscribe(&topic("left")).await);
    let store = MemoryStore::new();
    let app = App::new().endpoint(endpoint).endpoint(watch).state(log.clone()).store(store);
    let node = Node::start(app).await;
    let watcher = node.connect("/watch").await;
    eventually("the watcher is there", || node.hub().topics() == 1).await;
    let client = node.connect("/rooms/b").await;
    client.send("1");
    client.close();
    client.ended().await;
    watcher.expect(r#"Some("b")"#).await;
    assert_eq!(log.all(), ["ann 7 1"]);
}

/// Invariant 3 and lesson 3: a late handler's calls bring nothing back.
#[tokio::test]
async fn nothing_that_a_late_handler_does_brings_a_channel_back() {
    let (log, kept, store) = (Log::default(), Kept::default(), MemoryStore::new());
    let node = Node::start(app(&log, &kept).store(store.clone())).await;
    let client = node.connect("/rooms/a").await;
    log.wait_for("connect").await;
    let id = client.id.clone();
    client.close();
    client.ended().await;
    let channel = kept.lock()[0].clone();
    let code = |result: Result<(), Error>| result.expect_err("it is too late").code().to_owned();
    assert_eq!(code(channel.subscribe(&topic("late")).await), "conflict");
    assert_eq!(code(channel.subscribe_present(&topic("late"), Some(&1)).await), "conflict");
    assert_eq!(code(channel.login(Session::new("late", ()).unwrap()).await), "conflict");
    assert_eq!(code(channel.logout().await), "conflict");
    assert!(!channel.unsubscribe(&topic("room")).await.unwrap());
    channel.close(Close::normal(""));
    channel.send(&strait_core::Payload::text("to nobody")).await.unwrap();
    assert_eq!(store.get(&id).await.unwrap(), None);
    assert!(node.hub().presence(&topic("late"), None, 10).await.unwrap().items.is_empty());
    let user = strait_core::UserId::new("late").unwrap();
    assert_eq!(node.hub().send_to_user(&user, strait_core::Payload::text("x")).await.unwrap(), 0);
    assert_eq!((node.hub().channels(), node.hub().topics()), (0, 0));
    assert!(!node.hub().send(&id, strait_core::Payload::text("x")).await.unwrap());
}

#[tokio::test]
async fn who_is_about_to_end_subscribes_to_nothing_more() {
    let (log, kept) = (Log::default(), Kept::default());
    let (store, faults) = faulty();
    let node = Node::start(app(&log, &kept).store(store.clone()).lease(Duration::from_secs(5))).await;
    let client = node.connect("/rooms/a").await;
    log.wait_for("connect").await;
    let gate = Gate::new();
    faults.next("claim", 1, &Fault::Hang(gate.clone()));
    client.lose();
    eventually("the end is asked for", || gate.waiting() == 1).await;
    // The store would still take it.
    let channel = kept.lock()[0].clone();
    assert_eq!(channel.subscribe(&topic("late")).await.expect_err("it is too late").code(), "conflict");
    assert_eq!(node.hub().topics(), 0);
    gate.open();
    client.ended().await;
}

#[tokio::test]
async fn a_late_write_of_the_state_is_refused() {
    let states = Arc::new(Mutex::new(Vec::<ChannelState<u32>>::new()));
    let endpoint = Endpoint::new("a", "/").public().on_message(
        async |state: ChannelState<u32>, State(states): State<Arc<Mutex<Vec<ChannelState<u32>>>>>| {
            states.lock().push(state);
        },
    );
    let store = MemoryStore::new();
    let node = Node::start(App::new().endpoint(endpoint).state(Arc::clone(&states)).store(store.clone())).await;
    let client = node.connect("/").await;
    let id = client.id.clone();
    client.send("x");
    client.close();
    client.ended().await;
    let state = states.lock().pop().expect("the handler has run");
    let error = state.update(|count| *count += 1).await.expect_err("it is too late");
    assert_eq!(error.code(), "conflict");
    assert_eq!(store.get(&id).await.unwrap(), None, "no zombie");
}

#[tokio::test]
async fn subscribing_while_the_channel_ends_leaves_no_member() {
    let store = MemoryStore::new();
    let kept = Kept::default();
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_message(async |channel: Channel, State(kept): State<Kept>| kept.lock().push(channel));
    let node = Node::start(App::new().endpoint(endpoint).state(Arc::clone(&kept)).store(store.clone())).await;
    let names: Vec<Topic> = (0..8).map(|n| topic(&format!("t{n}"))).collect();
    for _ in 0..20 {
        let client = node.connect("/").await;
        client.send("x");
        eventually("the channel is kept", || !kept.lock().is_empty()).await;
        let channel = kept.lock().pop().expect("just kept");
        let subscribing: Vec<_> = names
            .iter()
            .map(|name| {
                let (channel, name) = (channel.clone(), name.clone());
                tokio::spawn(async move { channel.subscribe(&name).await })
            })
            .collect();
        client.lose();
        client.ended().await;
        for task in subscribing {
            let _ = task.await.unwrap();
        }
        assert_eq!(node.hub().topics(), 0);
        assert!(store.topics(channel.id()).await.unwrap().is_empty());
    }
}
