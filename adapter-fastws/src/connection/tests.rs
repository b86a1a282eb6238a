//! The limits of one turn of a connection's task, on a socket in memory: many small units are as bounded as few big
//! ones.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use parking_lot::Mutex;
use strait_core::{App, Endpoint, Limits, Outlet, Transport};
use strait_store_memory::MemoryStore;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::registry::Registry;

const QUEUE: usize = 16 * 1024;
const REPLY: usize = 4 * 1024;

fn endpoint() -> Endpoint {
    let limits = Limits { queue: QUEUE, rate: None, ..Limits::default() };
    Endpoint::new("a", "/a").public().limits(limits)
}

/// A connection that no task runs, and the client's end of its socket, which reads nothing yet.
async fn connection(endpoint: Endpoint) -> (Connection, DuplexStream) {
    let app = App::new().endpoint(endpoint).store(MemoryStore::new()).build().expect("it is well formed");
    app.start().await.expect("the node starts");
    let accepted = app.accept("/a", None, &HeaderMap::new(), Transport::Plain).expect("there is such an endpoint");
    let admitted = accepted.admit(HeaderMap::new(), None).await.expect("everybody is let in");
    let (limits, place) = (admitted.limits().clone(), Registry::new(Arc::default()).take_place(1));
    let peer = Arc::new(Peer::new(&limits, admitted.gaps()));
    let conversation = admitted.open(Arc::clone(&peer) as Arc<dyn Outlet>).await.expect("the store takes it");
    let (client, server) = duplex(64 * 1024);
    let registered = place.expect("there is room").register(&peer);
    let wire = Wire::Other(Box::new(Unwritable(server)));
    let mut connection = Connection::new(peer, conversation, limits.message, registered);
    connection.connect(wire, &[]);
    (connection, client)
}

/// A socket with another end that reads nothing.
struct Unwritable(DuplexStream);

impl AsyncRead for Unwritable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Unwritable {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// A masked frame; the mask is zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("it is short");
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// Runs one turn of the connection.
fn turn(connection: &mut Connection) {
    assert!(Pin::new(connection).now_or_never().is_none(), "the connection goes on");
}

#[tokio::test]
async fn replies_to_many_small_messages_are_bounded_within_a_chunk() {
    let big = endpoint().on_message(async |_: String| "x".repeat(REPLY));
    let (mut connection, mut client) = connection(big).await;
    connection.open(&mut Context::from_waker(std::task::Waker::noop()));
    client.write_all(&frame(0x81, b"x").repeat(4_000)).await.expect("it fits");
    for _ in 0..10 {
        turn(&mut connection);
        let waiting = connection.peer.waiting();
        assert!(waiting < QUEUE + REPLY + 16, "{waiting} bytes wait for who reads nothing");
    }
}

#[tokio::test]
async fn pongs_to_many_pings_are_bounded() {
    let (mut connection, mut client) = connection(endpoint()).await;
    connection.open(&mut Context::from_waker(std::task::Waker::noop()));
    for _ in 0..20 {
        let pings = frame(0x89, &[b'x'; 100]).repeat(300);
        // The node stops reading from a client that does not read its pongs.
        let _ = client.write_all(&pings).now_or_never();
        turn(&mut connection);
        assert!(connection.peer.waiting() < QUEUE + 200);
    }
}

#[tokio::test]
async fn small_parts_cost_their_senders_turn_as_messages_do() {
    let (mut connection, mut client) = connection(endpoint().on_message(async |text: String| text)).await;
    connection.open(&mut Context::from_waker(std::task::Waker::noop()));
    client.write_all(&frame(0x01, b"x")).await.expect("it fits");
    client.write_all(&frame(0x00, b"x").repeat(4_000)).await.expect("it fits");
    turn(&mut connection);
    assert!(connection.decoder.has_pending(), "others have their turn before all parts are taken");
}

#[tokio::test]
async fn a_small_message_that_is_kept_keeps_no_whole_chunk() {
    let kept: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let keeping = Arc::clone(&kept);
    let keeper = endpoint().on_binary(move |bytes: Bytes| {
        keeping.lock().push(bytes);
        async {}
    });
    let (mut connection, mut client) = connection(keeper).await;
    connection.open(&mut Context::from_waker(std::task::Waker::noop()));
    client.write_all(&frame(0x82, b"small").repeat(50)).await.expect("it fits");
    turn(&mut connection);
    let kept = std::mem::take(&mut *kept.lock());
    assert_eq!(kept.len(), 50);
    for bytes in kept {
        let capacity = bytes.try_into_mut().map(|bytes| bytes.capacity());
        assert!(capacity.as_ref().is_ok_and(|capacity| *capacity < 100), "{capacity:?}");
    }
}
