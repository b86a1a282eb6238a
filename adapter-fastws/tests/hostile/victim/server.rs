//! The server under attack: this test program again, as a child.

use std::future::pending;
use std::io::{BufRead, Write, stdin, stdout};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use strait_adapter_fastws::{Server, ServerLimits};
use strait_core::{App, Channel, Endpoint, Error, Headers, Limits, Payload, RateLimit, Topic};
use strait_store_memory::MemoryStore;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, RuntimeMetrics};

use crate::kit::{echo, server_limits};

/// Tells the process to be the server, with the milliseconds that a handshake may take.
pub(super) const SERVES: &str = "STRAIT_HOSTILE_SERVES";
/// The server's lines begin with it; the test harness has its own lines on the same stream.
pub(super) const SAYS: char = '@';
/// The time that a handler takes, for tests that interrupt it.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);
/// The limit on messages at `/small`.
pub(crate) const SMALL: usize = 1_000;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// The defaults in bytes and numbers. Times that a test would wait for are short, or as long as an attack lasts.
fn limits(handshake: Duration) -> Limits {
    Limits {
        ping: handshake * 2 / 3,
        silent: handshake * 2,
        closing: Duration::from_millis(200),
        handler: Duration::from_millis(300),
        ..Limits::default()
    }
}

fn news() -> Topic {
    Topic::new("news").expect("a name")
}

fn app(store: MemoryStore, limits: &Limits) -> App {
    let pause = || tokio::time::sleep(PAUSE);
    let on = |name: &str| Endpoint::new(name, format!("/{name}")).public().limits(limits.clone());
    let strict = Limits {
        rate: Some(RateLimit { patience: Duration::from_millis(200), ..RateLimit::default() }),
        ..limits.clone()
    };
    let endless = Limits { rate: None, ..limits.clone() };
    let listen = on("listen")
        .limits(endless)
        .on_connect(|channel: Channel| async move { channel.subscribe(&news()).await })
        .on("pour", |channel: Channel| async move {
            for _ in 0..10 {
                channel.publish(&news(), Payload::text("x".repeat(10_000))).await?;
            }
            Ok::<_, Error>(())
        });
    App::new()
        .endpoint(echo("/echo").limits(limits.clone()))
        // An honest client may be silent for longer than the server takes to detect a hostile one.
        .endpoint(on("honest").limits(Limits { rate: None, ..Limits::default() }).on_message(|text: String| async { text }))
        .endpoint(
            on("small").limits(Limits { message: SMALL, ..limits.clone() }).on_message(|text: String| async { text }),
        )
        .endpoint(on("strict").limits(strict).on_message(|text: String| async { text }))
        .endpoint(on("large").on_message(|text: String| async move { text.repeat(2) }))
        .endpoint(listen)
        .endpoint(on("authenticating").authenticate(move |_: Headers| async move { pause().await }))
        .endpoint(on("connecting").on_connect(move || async move { pause().await }))
        .endpoint(on("handling").on_message(move |text: String| async move {
            pause().await;
            text
        }))
        .endpoint(on("stuck").on_message(|_: String| pending::<()>()))
        .store(store)
        .build()
        .expect("the application can be built")
}

/// Not a test, but the server for all of them.
#[test]
#[ignore = "the other tests start it"]
fn serves() {
    let Ok(handshake) = std::env::var(SERVES) else { return };
    let handshake = Duration::from_millis(handshake.parse().expect("milliseconds"));
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        tell(panic);
    }));
    let runtime = Builder::new_current_thread().enable_all().build().expect("there is a runtime");
    runtime.block_on(async {
        let store = MemoryStore::new();
        let app = app(store.clone(), &limits(handshake));
        let limits = ServerLimits { handshake, keep_alive: handshake, connections: 20_000, ..server_limits() };
        let server = Server::new(app.clone()).limits(limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        println!("\n{SAYS}{}", listener.local_addr().expect("it listens"));
        let (handle, metrics) = (server.handle(), tokio::runtime::Handle::current().metrics());
        thread::spawn(move || {
            // Each line asks for counts. The input ends with the parent, or when its patience ends; then this process
            // ends.
            for _ in stdin().lock().lines() {
                println!("\n{SAYS}{}", report(&app, &store, &metrics));
                stdout().flush().expect("the parent reads");
            }
            handle.drain();
        });
        server.serve(listener).await.expect("it serves");
    });
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}

fn report(app: &App, store: &MemoryStore, metrics: &RuntimeMetrics) -> String {
    let (hub, panics) = (app.hub(), PANICS.load(Ordering::SeqCst));
    format!("{} {} {} {panics}", metrics.num_alive_tasks(), hub.channels() + hub.topics(), store.stats().records)
}
