use std::future::poll_fn;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::coop;

use super::*;

#[tokio::test]
async fn a_task_that_has_had_its_turn_is_no_full_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let client = TcpStream::connect(listener.local_addr().expect("it listens")).await.expect("it listens");
    let (server, _) = listener.accept().await.expect("somebody comes");
    let peer = Peer::new(&Limits::default(), strait_core::Gaps::default());
    peer.connect(server.into_split().1);
    client.writable().await.expect("it is connected");
    peer.reply(FrameKind::Text, &[b"a reply"]);
    let written = poll_fn(|cx| {
        while let Poll::Ready(turn) = coop::poll_proceed(cx) {
            turn.made_progress();
        }
        Poll::Ready(peer.poll_write(None::<&mut TcpStream>, cx))
    });
    assert!(matches!(written.await, Poll::Ready(Ok(()))));
    assert!(!peer.out.lock().outbox.blocked);
}
