//! The client's user, from the handshake to the logout.

use strait_core::store::{ChannelStore, EventHubStore, StoreErrorKind};
use strait_core::testkit::{Fault, Gate};
use strait_core::{
    App, AppBuilder, Channel, Close, Endpoint, Error, Headers, Json, Payload, Reply, Route, Session, State, Topic,
    UserId,
};

use crate::client::Client;
use crate::log::{Log, eventually, eventually_async};
use crate::node::{Node, cluster, faulty, serve};

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

async fn login(Json(name): Json<String>, channel: Channel) -> Result<(), Error> {
    channel.login(Session::new(&name, format!("I am {name}"))?).await
}

/// Logs in as the user in the text, logs out for `logout`, and otherwise answers the present user.
async fn whoever(text: String, channel: Channel, session: Option<Session<String>>) -> Result<String, Error> {
    match text.split_once(' ') {
        Some(("login", name)) => {
            channel.login(Session::new(name, format!("I am {name}"))?).await?;
            Ok("in".to_owned())
        }
        _ if text == "logout" => {
            channel.logout().await?;
            Ok("out".to_owned())
        }
        _ => Ok(session.map_or("nobody".to_owned(), |session| session.to_string())),
    }
}

fn endpoint() -> Endpoint {
    Endpoint::new("a", "/").public().on_message(whoever)
}

fn app() -> AppBuilder {
    App::new().endpoint(endpoint())
}

#[tokio::test]
async fn a_session_set_by_a_handler_is_seen_by_the_next_message() {
    let node = serve(endpoint()).await;
    let client = node.connect("/").await;
    for (sent, answer) in [
        ("who", "nobody"),
        ("login ann", "in"),
        ("who", "I am ann"),
        ("login bob", "in"),
        ("who", "I am bob"),
        ("logout", "out"),
        ("who", "nobody"),
        ("logout", "out"),
        ("login cy", "in"),
        ("who", "I am cy"),
    ] {
        assert_eq!(client.ask(sent).await, answer, "after {sent}");
    }
}

#[tokio::test]
async fn the_session_is_in_the_record_and_gone_with_the_logout() {
    let (store, _) = faulty();
    let node = Node::start(app().store(store.clone())).await;
    let client = node.connect("/").await;
    client.ask("login ann").await;
    let stored = store.get(&client.id).await.unwrap().unwrap().session;
    assert_eq!(stored.value.unwrap().user, user("ann"));
    client.ask("logout").await;
    assert_eq!(store.get(&client.id).await.unwrap().unwrap().session.value, None);
}

#[tokio::test]
async fn the_session_of_authenticate_is_there_from_the_start_and_types_may_differ() {
    #[derive(serde::Serialize)]
    struct Full {
        name: String,
        admin: bool,
    }
    #[derive(serde::Deserialize)]
    struct Part {
        name: String,
    }
    let endpoint = Endpoint::new("a", "/")
        .authenticate(async |Headers(headers): Headers| {
            let name = headers.get("x-user").and_then(|name| name.to_str().ok()).unwrap_or_default().to_owned();
            Session::new(name.clone(), Full { name, admin: true }).map_err(|_| Error::unauthenticated("who is it?"))
        })
        .on_connect(async |session: Session<Part>, log: State<Log>| log.0.note(session.name.clone()))
        .on("name", async |session: Session<Part>| Json(session.name.clone()));
    let log = Log::default();
    let node = Node::start(App::new().endpoint(endpoint).state(log.clone()).store(faulty().0)).await;
    let client = node.connect_with("/", &[("x-user", "ann")]).await.unwrap();
    assert_eq!(client.ask(r#"{"action":"name"}"#).await, r#"{"action":"name","result":"ann"}"#);
    assert_eq!(log.all(), ["ann"]);
    assert_eq!(node.refused("/", &[]).await.status, 401);
}

#[tokio::test]
async fn who_has_no_session_may_use_what_is_public_only() {
    let endpoint = Endpoint::new("a", "/")
        .route("login", Route::new(login).public())
        .on("secret", async || Json("42"))
        .route("mine", Route::new(async |session: Session<String>| Json(session.to_string())).public())
        .on_message(async |text: String| text)
        .on_binary(async |bytes: bytes::Bytes| bytes);
    let node = serve(endpoint).await;
    let client = node.connect("/").await;
    let refused = r#""error":{"code":"unauthenticated","message":"log in first"}}"#;
    assert_eq!(client.ask(r#"{"action":"secret"}"#).await, format!(r#"{{"action":"secret",{refused}"#));
    assert_eq!(client.ask(r#"{"action":"mine"}"#).await, format!(r#"{{"action":"mine",{refused}"#));
    assert_eq!(client.ask("text").await, format!("{{{refused}"));
    client.send_binary(b"bytes");
    client.expect(&format!("{{{refused}")).await;
    let json = r#"{"action":"login"}"#;
    assert!(client.ask(json).await.contains("invalid"), "an object is no string");
}

#[tokio::test]
async fn whole_messages_and_bytes_may_have_policies_of_their_own() {
    let marked = |name| {
        tower::util::MapResponseLayer::new(move |reply: Reply| match reply {
            Reply::Text(text) => format!("{name}: {text}"),
            other => format!("{name}: {other:?}"),
        })
    };
    let endpoint = Endpoint::new("a", "/")
        .on("secret", async || Json("42"))
        .message_route(Route::new(async |text: String| text).public().layer(marked("text")))
        .binary_route(Route::new(async |bytes: bytes::Bytes| bytes.len().to_string()).public().layer(marked("bytes")));
    let client = serve(endpoint).await.connect("/").await;
    assert_eq!(client.ask("hello").await, "text: hello");
    client.send_binary(b"four");
    client.expect("bytes: 4").await;
    assert!(client.ask(r#"{"action":"secret"}"#).await.contains("unauthenticated"));
}

#[tokio::test]
async fn logging_in_opens_what_is_closed() {
    async fn login(channel: Channel) -> Result<(), Error> {
        channel.login(Session::new("ann", "ann".to_owned())?).await
    }
    let endpoint = Endpoint::new("a", "/").route("login", Route::new(login).public()).on("secret", async || Json("42"));
    let client = serve(endpoint).await.connect("/").await;
    assert!(client.ask(r#"{"action":"secret"}"#).await.contains("unauthenticated"));
    client.ask(r#"{"action":"login"}"#).await;
    assert_eq!(client.ask(r#"{"action":"secret"}"#).await, r#"{"action":"secret","result":"42"}"#);
}

#[tokio::test]
async fn a_users_channels_are_reached_on_every_node_and_nobody_after_the_logout() {
    let nodes: [Node; 3] = cluster(app).await;
    let mut anns: Vec<Client> = Vec::new();
    for node in &nodes {
        let client = node.connect("/").await;
        client.ask("login ann").await;
        anns.push(client);
    }
    let bob = nodes[0].connect("/").await;
    bob.ask("login bob").await;
    assert_eq!(nodes[1].hub().send_to_user(&user("ann"), Payload::text("hello")).await.unwrap(), 3);
    for ann in &anns {
        ann.expect("hello").await;
    }
    anns[0].ask("logout").await;
    anns[1].ask("login bob").await;
    assert_eq!(nodes[0].hub().send_to_user(&user("ann"), Payload::text("again")).await.unwrap(), 1);
    anns[2].expect("again").await;
    assert_eq!(nodes[2].hub().close_user(&user("bob"), Close::policy("out")).await.unwrap(), 2);
    assert_eq!(bob.closed().await, (1008, "out".to_owned()));
    assert_eq!(anns[1].closed().await, (1008, "out".to_owned()));
    assert_eq!(anns[0].ask("who").await, "nobody", "still there, and got nothing");
    assert_eq!(anns[2].ask("who").await, "I am ann");
}

#[tokio::test]
async fn a_users_channels_are_found_by_more_than_one_page() {
    let [one, two] = cluster(app).await;
    let mut clients = Vec::new();
    for at in 0..300 {
        let client = if at % 2 == 0 { one.connect("/").await } else { two.connect("/").await };
        client.ask("login ann").await;
        clients.push(client);
    }
    assert_eq!(one.hub().send_to_user(&user("ann"), Payload::text("all")).await.unwrap(), 300);
    for client in &clients {
        client.expect("all").await;
    }
}

#[tokio::test]
async fn a_logout_holds_at_once_even_if_the_store_fails() {
    let (store, faults) = faulty();
    let node = Node::start(app().store(store.clone())).await;
    let client = node.connect("/").await;
    client.ask("login ann").await;
    faults.next("write", 1, &Fault::Refuse(StoreErrorKind::Unavailable));
    assert!(client.ask("logout").await.contains("unavailable"));
    assert_eq!(client.ask("who").await, "nobody");
    // Lesson 4: messages for the user before do not reach the next one.
    assert_eq!(client.ask("login bob").await, "in");
    assert_eq!(client.ask("who").await, "I am bob");
    assert_eq!(node.hub().send_to_user(&user("ann"), Payload::text("for ann")).await.unwrap(), 0);
    assert_eq!(node.hub().send_to_user(&user("bob"), Payload::text("for bob")).await.unwrap(), 1);
    client.expect("for bob").await;
}

#[tokio::test]
async fn a_login_whose_answer_was_lost_can_be_repeated_and_undone() {
    for op in ["write", "subscribe"] {
        let (store, faults) = faulty();
        let node = Node::start(app().store(store.clone())).await;
        let client = node.connect("/").await;
        faults.next(op, 1, &Fault::LoseAnswer(StoreErrorKind::Timeout));
        assert!(client.ask("login ann").await.contains("unavailable"), "{op}");
        for _ in 0..2 {
            client.ask("login ann").await;
        }
        assert_eq!(client.ask("who").await, "I am ann", "{op}");
        assert_eq!(node.hub().send_to_user(&user("ann"), Payload::text("x")).await.unwrap(), 1, "{op}");
        client.expect("x").await;
        faults.next("unsubscribe", 1, &Fault::Refuse(StoreErrorKind::Unavailable));
        assert!(client.ask("logout").await.contains("unavailable"), "{op}");
        assert_eq!(client.ask("logout").await, "out", "{op}");
        assert_eq!(node.hub().send_to_user(&user("ann"), Payload::text("x")).await.unwrap(), 0, "{op}");
    }
}

#[tokio::test]
async fn a_logout_comes_after_whatever_came_first() {
    let (store, faults) = faulty();
    let node = Node::start(app().store(store.clone())).await;
    let client = node.connect("/").await;
    faults.next("write", 1, &Fault::LoseAnswer(StoreErrorKind::Timeout));
    assert!(client.ask("login ann").await.contains("unavailable"));
    assert_eq!(client.ask("logout").await, "out");
    assert_eq!(client.ask("who").await, "nobody");
    assert_eq!(store.get(&client.id).await.unwrap().unwrap().session.value, None);
}

#[tokio::test]
async fn of_logins_at_once_one_holds_everywhere() {
    async fn both(channel: Channel) -> Json<Vec<String>> {
        let logins = ["ann", "bob", "cy"].map(|name| {
            let channel = channel.clone();
            tokio::spawn(async move {
                let result = channel.login(Session::new(name, format!("I am {name}")).unwrap()).await;
                result.map_or_else(|error| error.code().to_owned(), |()| name.to_owned())
            })
        });
        let mut results = Vec::new();
        for login in logins {
            results.push(login.await.unwrap());
        }
        Json(results)
    }
    let (store, faults) = faulty();
    let endpoint = endpoint().on("both", both);
    let node = Node::start(App::new().endpoint(endpoint).store(store.clone())).await;
    let client = node.connect("/").await;
    // The first answer is the last to arrive.
    faults.next("write", 1, &Fault::Delay(std::time::Duration::from_millis(20)));
    let results = client.ask(r#"{"action":"both"}"#).await;
    let stored = store.get(&client.id).await.unwrap().unwrap().session.value.expect("somebody is in").user;
    assert!(results.contains(stored.as_str()), "{results}");
    assert_eq!(client.ask("who").await, format!("I am {stored}"));
    for name in ["ann", "bob", "cy"] {
        let members = store.members(&Topic::of_user(&user(name)).unwrap(), None, 10).await.unwrap().items;
        assert_eq!(members.len(), usize::from(stored.as_str() == name), "{name}");
    }
}

#[tokio::test]
async fn an_older_logins_late_answer_changes_nothing() {
    async fn bob_after_ann(channel: Channel, State(gate): State<Gate>) -> Result<(), Error> {
        let ann = channel.clone();
        let ann = tokio::spawn(async move { ann.login(Session::new("ann", "I am ann".to_owned())?).await });
        eventually("ann is stored", || gate.waiting() == 1).await;
        let bob = || channel.login(Session::new("bob", "I am bob".to_owned()).expect("a name"));
        assert_eq!(bob().await.expect_err("ann came first").code(), "conflict");
        bob().await?;
        gate.open();
        ann.await?
    }
    let ((store, faults), gate) = (faulty(), Gate::new());
    let app = App::new().endpoint(endpoint().on("both", bob_after_ann)).state(gate.clone()).store(store);
    let node = Node::start(app).await;
    let client = node.connect("/").await;
    faults.next("write", 1, &Fault::HoldAnswer(gate));
    assert_eq!(client.ask(r#"{"action":"both"}"#).await, r#"{"action":"both"}"#);
    assert_eq!(client.ask("who").await, "I am bob");
    assert_eq!(node.hub().send_to_user(&user("ann"), Payload::text("x")).await.unwrap(), 0);
}

#[tokio::test]
async fn a_user_whose_channels_could_not_be_listed_has_no_session() {
    assert!(Session::new("u".repeat(249), ()).is_ok());
    assert!(Session::new("u".repeat(250), ()).is_err());
}

#[tokio::test]
async fn the_index_is_gone_with_the_channel() {
    let (store, _) = faulty();
    let node = Node::start(app().store(store.clone())).await;
    let client = node.connect("/").await;
    client.ask("login ann").await;
    let topic = Topic::of_user(&user("ann")).unwrap();
    assert_eq!(store.members(&topic, None, 10).await.unwrap().items.len(), 1);
    client.close();
    client.ended().await;
    eventually_async("the row is gone", async || store.members(&topic, None, 10).await.unwrap().items.is_empty()).await;
}
