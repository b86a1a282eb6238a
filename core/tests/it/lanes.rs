//! Deliveries: their runtimes, and the number of encodings of an event.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::Poll;
use std::thread::ThreadId;

use parking_lot::Mutex;
use strait_core::{App, Channel, Endpoint, Frame, FrameKind, Opening, Outlet, Payload, Publish, Topic, Transport};
use strait_store_memory::MemoryStore;

use crate::log::eventually;
use crate::node::topic;

/// Notes each event with its thread and its address in memory.
#[derive(Debug, Default)]
struct Places(Mutex<Vec<(String, ThreadId, usize)>>);

impl Outlet for Places {
    fn handler_begins(&self, _: u32) {}

    fn handler_ended(&self) {}

    fn reply(&self, _: FrameKind, _: &[&[u8]]) {}

    fn send(&self, _: &Frame) {}

    fn events(&self, topic: &Topic, frames: &[Frame], _: Option<u32>) {
        let here = std::thread::current().id();
        let places = frames.iter().map(|frame| {
            let text = format!("{topic} {}", String::from_utf8_lossy(&frame.payload()));
            (text, here, frame.bytes().as_ptr() as usize)
        });
        self.0.lock().extend(places);
    }

    fn gap(&self, _: &Topic) {}

    fn wake(&self) {}
}

#[derive(serde::Deserialize)]
struct Room {
    room: u32,
}

fn app() -> App {
    let join = async |channel: Channel, room: Opening<Room>| channel.subscribe(&topic(&room.room.to_string())).await;
    let endpoint = Endpoint::new("a", "/{room}").public().opening::<Room>().on_connect(join);
    App::new().endpoint(endpoint).store(MemoryStore::new()).build().unwrap()
}

/// Makes a channel a member of a room, for ever.
async fn join_room(app: &App, room: u32, places: &Arc<Places>) {
    let accepted = app.accept(&format!("/{room}"), None, &http::HeaderMap::new(), Transport::Plain).unwrap();
    let admitted = accepted.admit(http::HeaderMap::new(), None).await.unwrap();
    let mut conversation = admitted.open(Arc::clone(places) as Arc<dyn Outlet>).await.unwrap();
    let opened = std::future::poll_fn(|cx| {
        conversation.opened(cx);
        Poll::Ready(())
    });
    opened.await;
    let connected = std::future::poll_fn(|cx| {
        assert_eq!(conversation.poll(cx), Poll::Pending, "nothing ends it");
        if conversation.is_running() { Poll::Pending } else { Poll::Ready(()) }
    });
    connected.await;
    tokio::spawn(std::future::poll_fn(move |cx| conversation.poll(cx)));
}

#[tokio::test]
async fn an_event_is_encoded_once_for_all_members() {
    const MEMBERS: usize = 50;
    let (app, places) = (app(), Arc::new(Places::default()));
    app.start().await.unwrap();
    for _ in 0..MEMBERS {
        join_room(&app, 1, &places).await;
    }
    app.hub().publish(Publish::new(topic("1"), Payload::text("event"))).await.unwrap();
    eventually("all have it", || places.0.lock().len() == MEMBERS).await;
    let seen = places.0.lock().clone();
    let copies: HashSet<usize> = seen.iter().map(|(.., place)| *place).collect();
    assert_eq!(copies.len(), 1, "all are given the same bytes");
}

#[tokio::test]
async fn topics_are_spread_over_the_runtimes_and_each_keeps_its_order() {
    const TOPICS: u32 = 64;
    const EVENTS: u32 = 20;
    let runtimes: Vec<_> = (0..2)
        .map(|_| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
        .collect();
    let handles: Vec<_> = runtimes.iter().map(|runtime| runtime.handle().clone()).collect();
    let app = app();
    app.start_on(&handles).await.unwrap();
    let places = Arc::new(Places::default());
    for room in 0..TOPICS {
        join_room(&app, room, &places).await;
    }
    for n in 0..EVENTS {
        for room in 0..TOPICS {
            app.hub().publish(Publish::new(topic(&room.to_string()), Payload::text(n.to_string()))).await.unwrap();
        }
    }
    eventually("all is delivered", || places.0.lock().len() == (TOPICS * EVENTS) as usize).await;
    let seen = places.0.lock().clone();
    let used: HashSet<ThreadId> = seen.iter().map(|(_, thread, _)| *thread).collect();
    assert_eq!(used.len(), 2, "both deliver");
    for room in 0..TOPICS {
        let of_room = seen.iter().filter_map(|(text, ..)| text.strip_prefix(&format!("{room} ")).map(str::to_owned));
        assert!(of_room.eq((0..EVENTS).map(|n| n.to_string())), "{room}");
    }
    app.stop().await;
    runtimes.into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
}
