//! A node on a server that fails over and loses the last writes: its channels and their records agree again.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use strait_core::store::{ChannelStore, NewChannel, Record};
use strait_core::testkit::Proxy;
use strait_core::{App, ChannelId, Close, Conversation, Driven, Endpoint, NodeId, Nowhere, State, Transport};
use strait_store_redis::testkit::Server;
use strait_store_redis::{RedisConfig, RedisStore};
use tokio::task::JoinHandle;

use crate::kit::{eventually, quick};

/// No lease ends, and no comparison comes by itself, while a test runs.
const LEASE: Duration = Duration::from_secs(120);

fn store(address: SocketAddr) -> RedisStore {
    RedisStore::new(quick(RedisConfig::new(address.ip().to_string(), address.port())))
}

/// Drives a conversation as an adapter does; answers the code of the server's close.
async fn drive(mut conversation: Conversation) -> Option<u16> {
    poll_fn(|cx| {
        conversation.opened(cx);
        Poll::Ready(())
    })
    .await;
    let mut code = None;
    loop {
        // The outlet leads nowhere, and wakes no task.
        let driven = tokio::time::timeout(Duration::from_millis(20), poll_fn(|cx| conversation.poll(cx))).await;
        match driven {
            Ok(Driven::Close(close)) => {
                code = Some(close.code());
                poll_fn(|cx| {
                    conversation.peer_closed(cx);
                    Poll::Ready(())
                })
                .await;
            }
            Ok(Driven::Done) => return code,
            Err(_) => {}
        }
    }
}

async fn connect(app: &App) -> (ChannelId, JoinHandle<Option<u16>>) {
    let accepted = app.accept("/", None, &Default::default(), Transport::Plain).unwrap();
    let admitted = accepted.admit(Default::default(), None).await.unwrap();
    let conversation = admitted.open(Arc::new(Nowhere)).await.unwrap();
    (conversation.channel().id().clone(), tokio::spawn(drive(conversation)))
}

#[tokio::test]
async fn after_a_reconnect_ghosts_end_and_lost_channels_close() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::before(server.address()).await;
    let ends = Arc::new(AtomicUsize::new(0));
    let endpoint = Endpoint::new("a", "/").public().on_disconnect(async |State(ends): State<Arc<AtomicUsize>>| {
        ends.fetch_add(1, Ordering::SeqCst);
    });
    let app = App::new().endpoint(endpoint).state(Arc::clone(&ends)).store(store(proxy.address())).lease(LEASE);
    let app = app.build().unwrap();
    app.start().await.unwrap();
    let (straight, kept, lost) = (store(server.address()), connect(&app).await, connect(&app).await);
    let ghost = connect(&app).await.0;
    let record = async |id: &ChannelId| straight.get(id).await.unwrap();
    // The server loses that one channel has ended …
    let Record { id, endpoint, location, opening, grace, .. } = record(&ghost).await.expect("it is open");
    assert!(app.hub().close_channel(&id, Close::normal("")).await.unwrap());
    eventually("its end", async || record(&ghost).await.is_none()).await;
    let new = NewChannel { id, endpoint, location, opening, session: None, grace, token: None, due: None };
    assert!(straight.open(new).await.unwrap().created);
    // … and that another one was opened.
    let fence = record(&lost.0).await.expect("it is open").fence();
    let claim = straight.claim(&fence, &NodeId::unique(), LEASE).await.unwrap().expect("nobody else claims");
    straight.remove(&[claim]).await.unwrap();
    assert_eq!(ends.load(Ordering::SeqCst), 1);

    proxy.cut();
    let closed = tokio::time::timeout(Duration::from_secs(30), lost.1).await;
    assert_eq!(closed.expect("it is closed").unwrap(), Some(1012));
    eventually("the ghost's end", async || record(&ghost).await.is_none()).await;
    eventually("on_disconnect of both", async || ends.load(Ordering::SeqCst) == 3).await;
    assert!(record(&kept.0).await.is_some());
    assert!(!kept.1.is_finished());
    app.stop().await;
}
