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

/// Whether the task was woken.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn more_than_may_be_held_back_for_a_handler_goes_and_wakes() {
    let limits = Limits { queue: 1_000, ..Limits::default() };
    let peer = Peer::new(&limits, strait_core::Gaps::default());
    let woken = std::sync::Arc::new(Woken::default());
    peer.register(&Context::from_waker(&std::sync::Arc::clone(&woken).into()));
    let (topic, frame) = (Topic::new("a").expect("a name"), Frame::new(FrameKind::Text, &["x".repeat(600).as_bytes()]));
    peer.handler_begins(1);
    peer.events(&topic, std::slice::from_ref(&frame), Some(1));
    assert!(!woken.0.load(Ordering::SeqCst), "it is held back");
    peer.events(&topic, std::slice::from_ref(&frame), Some(1));
    assert!(woken.0.load(Ordering::SeqCst), "it goes");
}

#[test]
fn a_gap_does_not_overtake_what_is_held_back_for_a_handler() {
    let peer = Peer::new(&Limits::default(), strait_core::Gaps::default());
    let topic = Topic::new("a").expect("a name");
    peer.handler_begins(1);
    peer.events(&topic, &[Frame::new(FrameKind::Text, &[b"own"])], Some(1));
    peer.gap(&topic);
    peer.gap(&topic);
    peer.events(&topic, &[Frame::new(FrameKind::Text, &[b"later"])], None);
    peer.reply(FrameKind::Text, &[b"reply"]);
    peer.handler_ended();
    let mut written = Vec::new();
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    assert!(matches!(peer.poll_write(Some(&mut written), cx), Poll::Ready(Ok(()))));
    let expected = [&b"\x81\x05reply"[..], b"\x81\x03own", b"\x81\x15{\"gap\":{\"topic\":\"a\"}}", b"\x81\x05later"];
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&expected.concat()));
}
