//! Deliveries on several runtimes.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::ThreadId;

use parking_lot::Mutex;
use strait_core::{App, Channel, Endpoint, Frame, FrameKind, Opening, Outlet, Payload, Publish, Topic, Transport};
use strait_store_memory::MemoryStore;

use crate::log::eventually;
use crate::node::topic;

/// Notes which thread brings which event.
#[derive(Debug, Default)]
struct Threads(Mutex<Vec<(String, ThreadId)>>);

impl Outlet for Threads {
    fn handler_begins(&self, _: u32) {}

    fn handler_ended(&self) {}

    fn reply(&self, _: FrameKind, _: &[&[u8]]) {}

    fn send(&self, _: &Frame) {}

    fn events(&self, topic: &Topic, frames: &[Frame], _: Option<u32>) {
        let here = std::thread::current().id();
        let texts = frames.iter().map(|frame| format!("{topic} {}", String::from_utf8_lossy(&frame.payload())));
        self.0.lock().extend(texts.map(|text| (text, here)));
    }

    fn gap(&self, _: &Topic) {}

    fn wake(&self) {}
}

#[derive(serde::Deserialize)]
struct Room {
    room: u32,
}

#[tokio::test]
async fn topics_are_spread_over_the_runtimes_and_each_keeps_its_order() {
    const TOPICS: u32 = 64;
    const EVENTS: u32 = 20;
    let runtimes: Vec<_> = (0..2)
        .map(|_| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
        .collect();
    let handles: Vec<_> = runtimes.iter().map(|runtime| runtime.handle().clone()).collect();
    let join = async |channel: Channel, room: Opening<Room>| channel.subscribe(&topic(&room.room.to_string())).await;
    let endpoint = Endpoint::new("a", "/{room}").public().opening::<Room>().on_connect(join);
    let app = App::new().endpoint(endpoint).store(MemoryStore::new()).build().unwrap();
    app.start_on(&handles).await.unwrap();
    let threads = Arc::new(Threads::default());
    for room in 0..TOPICS {
        let accepted = app.accept(&format!("/{room}"), None, &http::HeaderMap::new(), Transport::Plain).unwrap();
        let admitted = accepted.admit(http::HeaderMap::new(), None).await.unwrap();
        let mut conversation = admitted.open(Arc::clone(&threads) as Arc<dyn Outlet>).await.unwrap();
        tokio::spawn(async move {
            std::future::poll_fn(|cx| {
                conversation.opened(cx);
                std::task::Poll::Ready(())
            })
            .await;
            std::future::poll_fn(|cx| conversation.poll(cx)).await
        });
    }
    eventually("all are members", || app.hub().topics() == TOPICS as usize).await;
    for n in 0..EVENTS {
        for room in 0..TOPICS {
            app.hub().publish(Publish::new(topic(&room.to_string()), Payload::text(n.to_string()))).await.unwrap();
        }
    }
    eventually("all is delivered", || threads.0.lock().len() == (TOPICS * EVENTS) as usize).await;
    let seen = threads.0.lock().clone();
    let used: HashSet<ThreadId> = seen.iter().map(|(_, thread)| *thread).collect();
    assert_eq!(used.len(), 2, "both deliver");
    for room in 0..TOPICS {
        let of_room = seen.iter().filter_map(|(text, _)| text.strip_prefix(&format!("{room} ")).map(str::to_owned));
        assert!(of_room.eq((0..EVENTS).map(|n| n.to_string())), "{room}");
    }
    app.stop().await;
    runtimes.into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
}
