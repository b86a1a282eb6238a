//! The end of a server, and the time when it is alive and not ready.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::time::Duration;

use futures_util::FutureExt;
use strait_adapter_fastws::{Runtimes, Server, ServerHandle, ServerLimits};
use strait_core::testkit::Faults;
use strait_core::{App, Channel, Endpoint, Error, EventHub, Json, Limits, Payload, Publish, Session, Topic};
use strait_store_memory::Stats;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::kit::within;
use crate::kit::{
    Client, Gate, Got, Node, TcpClient, echo, handshake, serve, serve_on, serve_with, server_limits, store, text,
};

/// An echo with a route that waits for its gate.
async fn waiting() -> (Node, Gate) {
    let (endpoint, gate) = waiting_echo();
    (serve(endpoint).await, gate)
}

fn waiting_echo() -> (Endpoint, Gate) {
    let gate = Gate::shut();
    let shut = gate.clone();
    let wait = move || {
        let gate = shut.clone();
        async move { gate.pass().await }
    };
    (echo("/echo").on("wait", wait), gate)
}

async fn status(client: &mut TcpClient, path: &str) -> u16 {
    client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
    client.answer().await.status
}

#[tokio::test]
async fn a_drain_lets_handlers_finish_and_nobody_in() {
    let (node, gate) = waiting().await;
    assert_eq!(status(&mut node.socket().await, "/healthz").await, 200);
    assert_eq!(status(&mut node.socket().await, "/readyz").await, 200);
    let (mut busy, idle) = (node.client("/echo").await, node.client("/echo").await);
    busy.send([text(r#"{"action":"wait"}"#), text("waits behind it")].concat()).await;
    busy.send(crate::kit::ping(b"running")).await;
    assert_eq!(busy.next().await, Got::Pong(b"running".to_vec()));
    node.handle.drain();
    idle.closes(1012).await;
    // The busy client holds the server, which still answers.
    assert_eq!(status(&mut node.socket().await, "/healthz").await, 200);
    assert_eq!(status(&mut node.socket().await, "/readyz").await, 503);
    let mut late = node.socket().await;
    late.send(handshake("/echo", &[])).await;
    let answer = late.answer().await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    busy.send(text("too late")).await;
    gate.let_in(1);
    busy.expect(r#"{"action":"wait"}"#).await;
    busy.expect("waits behind it").await;
    busy.closes(1012).await;
    node.end().await;
}

/// hyper reports that a socket is done before it has written all bytes.
#[tokio::test]
async fn a_page_is_sent_whole_though_the_server_drains() {
    const BIG: usize = 8 << 20;
    let big = || async { "x".repeat(BIG) };
    let pages = axum::Router::new().route("/big", axum::routing::get(big).post(big));
    let node =
        serve_with(App::new().endpoint(echo("/echo")), |server| server.limits(server_limits()).fallback(pages)).await;
    let requests = [
        "GET /big HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        // A body that no handler reads, and that does not come whole.
        "POST /big HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nno more",
    ];
    let mut clients = Vec::new();
    for request in requests {
        let mut client = node.narrow_socket().await;
        client.send(request).await;
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.handle.drain();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for mut client in clients {
        assert_eq!(client.answer().await.body.len(), BIG);
    }
    node.end().await;
}

#[tokio::test]
async fn a_stop_ends_at_once() {
    for drained_before in [false, true] {
        let (node, _gate) = waiting().await;
        let mut busy = node.client("/echo").await;
        busy.text(r#"{"action":"wait"}"#).await;
        busy.send(crate::kit::ping(b"running")).await;
        assert_eq!(busy.next().await, Got::Pong(b"running".to_vec()));
        if drained_before {
            node.handle.drain();
        }
        let start = Instant::now();
        node.handle.stop();
        within(node.served).await.expect("it does not panic").expect("it ends well");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(busy.next().await, Got::End);
    }
}

#[tokio::test]
async fn a_drain_waits_no_longer_than_it_may() {
    let gate = Gate::shut();
    let endpoint = echo("/echo").on("wait", move || {
        let gate = gate.clone();
        async move { gate.pass().await }
    });
    let limits = ServerLimits { drain: Duration::from_millis(100), ..server_limits() };
    let node = serve_with(App::new().endpoint(endpoint), |server| server.limits(limits)).await;
    let mut busy = node.client("/echo").await;
    busy.text(r#"{"action":"wait"}"#).await;
    busy.send(crate::kit::ping(b"running")).await;
    assert_eq!(busy.next().await, Got::Pong(b"running".to_vec()));
    node.handle.drain();
    within(node.served).await.expect("it does not panic").expect("it ends well");
    assert_eq!(busy.next().await, Got::End);
}

#[tokio::test]
async fn the_longest_times_are_no_times() {
    let gate = Gate::shut();
    let shut = gate.clone();
    let (ever, never) = (Duration::MAX, Duration::MAX);
    let limits =
        Limits { handler: ever, ping: Duration::from_secs(60), silent: never, closing: ever, ..Limits::default() };
    let authenticate = || async { Ok::<_, Error>(Session::new("ada", ())?) };
    let endpoint = echo("/echo").limits(limits).authenticate(authenticate).on("wait", move || {
        let gate = shut.clone();
        async move { gate.pass().await }
    });
    let app = App::new().endpoint(endpoint).lease(ever);
    let limits = ServerLimits { handshake: ever, keep_alive: ever, drain: ever, ..server_limits() };
    let node = serve_with(app, |server| server.limits(limits)).await;
    let mut kept = node.socket().await;
    assert_eq!(status(&mut kept, "/healthz").await, 200);
    assert_eq!(status(&mut kept, "/readyz").await, 200);
    let mut busy = node.client("/echo").await;
    busy.send([text("hello"), text(r#"{"action":"wait"}"#)].concat()).await;
    busy.expect("hello").await;
    node.handle.drain();
    gate.let_in(1);
    busy.expect(r#"{"action":"wait"}"#).await;
    busy.closes(1012).await;
    node.end().await;
}

/// Its publisher has the answer: an event that reached this node goes out before the close frame.
#[tokio::test]
async fn events_that_came_before_the_drain_go_out_before_the_close() {
    const EVENTS: usize = 40;
    const MEMBERS: usize = 8;
    let topic = Topic::new("room").expect("a name");
    let joined = topic.clone();
    let limits = Limits { queue: 64 << 20, ..crate::kit::limits() };
    let endpoint = echo("/echo").limits(limits).on("join", move |channel: Channel| {
        let topic = joined.clone();
        async move { channel.subscribe(&topic).await }
    });
    // All at once: a connection has no time before its close.
    let limits = ServerLimits { spread: Duration::ZERO, ..server_limits() };
    let node = serve_with(App::new().endpoint(endpoint), |server| server.limits(limits)).await;
    let mut clients = Vec::new();
    for _ in 0..MEMBERS {
        let mut client = node.client("/echo").await;
        client.text(r#"{"action":"join"}"#).await;
        client.expect(r#"{"action":"join"}"#).await;
        clients.push(client);
    }
    // Big enough that the delivery yields to other tasks after each member.
    let event = "x".repeat(8 * 1024);
    for _ in 0..EVENTS {
        let publishing = node.app.hub().publish(Publish::new(topic.clone(), Payload::text(event.clone())));
        publishing.now_or_never().expect("the store is in memory").expect("it is published");
    }
    node.handle.drain();
    let reading = clients.into_iter().map(|mut client| {
        let event = &event;
        async move {
            for _ in 0..EVENTS {
                client.expect(event).await;
            }
            client.closes(1012).await;
        }
    });
    futures_util::future::join_all(reading).await;
    node.end().await;
}

#[tokio::test]
async fn closes_are_spread() {
    let limits = ServerLimits { spread: Duration::from_millis(200), ..server_limits() };
    let node = serve_with(App::new().endpoint(echo("/echo")), |server| server.limits(limits)).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(node.client("/echo").await);
    }
    let start = Instant::now();
    node.handle.drain();
    let closing = clients.into_iter().map(|client| async move {
        client.closes(1012).await;
        start.elapsed()
    });
    let times = futures_util::future::join_all(closing).await;
    let latest = times.iter().max().expect("some");
    assert!(*latest >= Duration::from_millis(100), "all are closed at once: {times:?}");
    node.end().await;
}

#[tokio::test]
async fn an_upgrade_during_the_drain_is_closed_as_the_others() {
    let gate = Gate::shut();
    let shut = gate.clone();
    let slow = echo("/echo").authenticate(move || {
        let gate = shut.clone();
        async move { gate.pass().await }
    });
    let node = serve(slow).await;
    let mut client = node.socket().await;
    client.send(handshake("/echo", &[])).await;
    // The connection has its place once authentication runs; the drain waits for it.
    tokio::time::sleep(Duration::from_millis(20)).await;
    node.handle.drain();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!node.served.is_finished(), "the drain waits for who is being let in");
    gate.let_in(1);
    client.is_let_in().await;
    client.closes(1012).await;
    node.end().await;
}

/// Runs a server on threads of its own; answers its address and a way to wait for its end.
fn run(server: Server, address: SocketAddr, runtimes: Runtimes) -> (SocketAddr, mpsc::Receiver<std::io::Result<()>>) {
    let (ended, end) = mpsc::channel();
    let (listening, address_told) = mpsc::channel();
    std::thread::spawn(move || {
        let result = server.run(address, runtimes, move |address| listening.send(address).expect("it is awaited"));
        let _ = ended.send(result);
    });
    (address_told.recv_timeout(Duration::from_secs(5)).expect("it listens"), end)
}

#[tokio::test]
async fn every_kind_of_runtime_serves_and_drains() {
    let two = NonZeroUsize::new(2).expect("not zero");
    for runtimes in [Runtimes::Threads(two), Runtimes::PerCore, Runtimes::Shared] {
        let store = store();
        let app = App::new().endpoint(echo("/echo")).store(store.clone()).build().expect("it can be built");
        let server = Server::new(app.clone()).limits(server_limits());
        let handle = server.handle();
        let (address, end) = run(server, "127.0.0.1:0".parse().expect("an address"), runtimes);
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = Client::new(within(TcpStream::connect(address)).await.expect("it listens"));
            client.open("/echo").await;
            clients.push(client);
        }
        for client in &mut clients {
            client.text("hello").await;
            client.expect("hello").await;
        }
        handle.drain();
        for client in clients {
            client.closes(1012).await;
        }
        let ended = tokio::task::spawn_blocking(move || end.recv_timeout(Duration::from_secs(10)));
        within(ended).await.expect("no panic").expect("it ends").expect("it ends well");
        assert_eq!(app.hub().channels(), 0);
        assert_eq!(store.stats(), Stats::default(), "{runtimes:?}");
    }
}

/// Subscribes to topics of all lanes, and publishes on each when the client says so: it needs the other runtimes.
fn needy(gate: &Gate, asked: &Gate) -> Endpoint {
    let (gate, asked) = (gate.clone(), asked.clone());
    let topics = |channel: &Channel| (0..TOPICS).map(|n| format!("{} {n}", channel.id())).collect::<Vec<_>>();
    echo("/needy")
        .on_connect(move |channel: Channel| async move {
            for topic in topics(&channel) {
                channel.subscribe(&Topic::new(topic)?).await?;
            }
            Ok::<_, Error>(())
        })
        .on("where", || async { Json(std::thread::current().name().unwrap_or_default().to_owned()) })
        .on("last words", move |channel: Channel, hub: EventHub| {
            let gate = gate.clone();
            asked.let_in(1);
            async move {
                gate.pass().await;
                for topic in topics(&channel) {
                    // Without the channel's name: otherwise the events would wait for the reply.
                    hub.publish(Publish::new(Topic::new(topic)?, Payload::text("event"))).await?;
                }
                gate.pass().await;
                Ok::<_, Error>(())
            }
        })
}

const TOPICS: usize = 24;

#[tokio::test]
async fn runtimes_that_have_drained_still_do_their_part_for_the_others() {
    let two = NonZeroUsize::new(2).expect("not zero");
    for runtime_of_the_last in ["", "strait-1"] {
        let (gate, asked) = (Gate::shut(), Gate::shut());
        let app = App::new().endpoint(needy(&gate, &asked)).store(store()).build().expect("it can be built");
        let server = Server::new(app.clone()).limits(server_limits());
        let handle = server.handle();
        let (address, end) = run(server, "127.0.0.1:0".parse().expect("an address"), Runtimes::Threads(two));
        // The kernel chooses their runtimes.
        let (mut last, mut others) = (None, Vec::new());
        while last.is_none() || others.is_empty() {
            let mut client = Client::new(within(TcpStream::connect(address)).await.expect("it listens"));
            client.open("/needy").await;
            client.text(r#"{"action":"where"}"#).await;
            let there = client.json().await["result"] == "strait-1";
            if there == (runtime_of_the_last == "strait-1") {
                last.get_or_insert(client);
            } else {
                others.push(client);
            }
        }
        let mut last = last.expect("it was found");
        last.text(r#"{"action":"last words"}"#).await;
        within(asked.pass()).await;
        handle.drain();
        for other in others {
            other.closes(1012).await;
        }
        // By now the other runtime may be idle.
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.let_in(1);
        for _ in 0..TOPICS {
            last.expect("event").await;
        }
        gate.let_in(1);
        last.expect(r#"{"action":"last words"}"#).await;
        last.closes(1012).await;
        let ended = tokio::task::spawn_blocking(move || end.recv_timeout(Duration::from_secs(10)));
        within(ended).await.expect("no panic").expect("it ends").expect("it ends well");
        assert_eq!(app.hub().channels(), 0);
    }
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = taken.local_addr().expect("it listens");
    for runtimes in [Runtimes::PerCore, Runtimes::Shared, Runtimes::Threads(NonZeroUsize::MIN)] {
        let app = App::new().endpoint(echo("/echo")).store(store()).build().expect("it can be built");
        let result = tokio::task::spawn_blocking(move || Server::new(app).run(address, runtimes, |_| ()));
        let error = within(result).await.expect("no panic").expect_err("the port is taken");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{runtimes:?}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_run_on_a_runtime_says_so() {
    for runtimes in [Runtimes::PerCore, Runtimes::Shared] {
        let app = App::new().endpoint(echo("/echo")).store(store()).build().expect("it can be built");
        let address = "127.0.0.1:0".parse().expect("an address");
        let error = Server::new(app).run(address, runtimes, |_| ()).expect_err("this thread drives a runtime");
        assert!(error.to_string().contains("Server::run_with"), "{error}");
    }
}

/// A pool is made on a runtime, and lives as long as that one.
#[test]
fn a_server_is_set_up_on_its_own_runtime() {
    let two = NonZeroUsize::new(2).expect("not zero");
    for runtimes in [Runtimes::Threads(two), Runtimes::Shared] {
        let set_up = async || {
            let (ask, mut asked) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<&str>>(1);
            // The connection answers as long as its runtime runs.
            tokio::spawn(async move {
                while let Some(answer) = asked.recv().await {
                    let _ = answer.send("from the pool");
                }
            });
            tokio::time::sleep(Duration::from_millis(1)).await;
            let endpoint = Endpoint::new("a", "/a").public().on("ask", move || {
                let ask = ask.clone();
                async move {
                    let (answer, answered) = tokio::sync::oneshot::channel();
                    ask.send(answer).await.map_err(|_| Error::unavailable("there is no pool"))?;
                    answered.await.map(Json).map_err(|_| Error::unavailable("there is no answer"))
                }
            });
            let app = App::new().endpoint(endpoint).store(store()).build().map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(Server::new(app).limits(server_limits()))
        };
        let (told, address) = mpsc::channel();
        let client = std::thread::spawn(move || {
            let (address, handle): (SocketAddr, ServerHandle) = address.recv().expect("it listens");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut client = Client::new(within(TcpStream::connect(address)).await.expect("it listens"));
                client.open("/a").await;
                client.text(r#"{"action":"ask"}"#).await;
                client.expect(r#"{"action":"ask","result":"from the pool"}"#).await;
                handle.drain();
                client.closes(1012).await;
            });
        });
        let handle = std::cell::OnceCell::new();
        let with_handle = async || {
            let server: Server = set_up().await?;
            let _ = handle.set(server.handle());
            Ok::<_, std::io::Error>(server)
        };
        let listening = |address| {
            let handle = handle.get().expect("it was set up").clone();
            told.send((address, handle)).expect("it is awaited");
        };
        let address = "127.0.0.1:0".parse().expect("an address");
        Server::run_with(address, runtimes, with_handle, listening).expect("it ends well");
        client.join().expect("no panic");
    }
    let failed = async || Err(std::io::Error::other("there is no database"));
    let address = "127.0.0.1:0".parse().expect("an address");
    let error = Server::run_with(address, Runtimes::Shared, failed, |_| ()).expect_err("it cannot be set up");
    assert_eq!(error.to_string(), "there is no database");
}

#[tokio::test]
async fn an_application_is_started_once() {
    let node = serve(echo("/echo")).await;
    node.client("/echo").await.leave().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    within(Server::new(node.app.clone()).serve(listener)).await.expect_err("it runs already");
    node.end().await;
}

#[tokio::test]
async fn idle_sockets_without_a_request_do_not_hold_a_drain_up() {
    let node = serve(echo("/echo")).await;
    let mut idle = node.socket().await;
    let mut kept = node.socket().await;
    assert_eq!(status(&mut kept, "/healthz").await, 200);
    node.handle.drain();
    assert!(kept.try_answer().await.is_none());
    assert!(idle.try_answer().await.is_none());
    node.end().await;
}

#[tokio::test]
async fn a_node_whose_bus_is_deaf_is_alive_and_not_ready_until_it_hears_again() {
    let faults = Faults::new();
    let node = serve_on(App::new().endpoint(echo("/echo")), &faults, |server| server.limits(server_limits())).await;
    assert_eq!(status(&mut node.socket().await, "/readyz").await, 200);
    faults.deafen();
    let mut client = node.socket().await;
    client.send("GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (503, "the bus does not hear\n"));
    assert_eq!(status(&mut node.socket().await, "/healthz").await, 200);
    assert!(node.app.hub().is_sure(), "the lease is held");
    faults.hear();
    assert_eq!(status(&mut node.socket().await, "/readyz").await, 200);
    node.end().await;
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_every_reason() {
    let (endpoint, gate) = waiting_echo();
    let faults = Faults::new();
    let node = serve_on(App::new().endpoint(endpoint), &faults, |server| server.limits(server_limits())).await;
    // The busy client holds the server, which still answers.
    let mut busy = node.client("/echo").await;
    busy.send([text(r#"{"action":"wait"}"#), crate::kit::ping(b"running")].concat()).await;
    assert_eq!(busy.next().await, Got::Pong(b"running".to_vec()));
    faults.deafen();
    node.handle.drain();
    let mut client = node.socket().await;
    client.send("GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (503, "draining\nthe bus does not hear\n"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    gate.let_in(1);
    busy.expect(r#"{"action":"wait"}"#).await;
    busy.closes(1012).await;
    node.end().await;
}
