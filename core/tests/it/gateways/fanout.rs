use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use strait_core::store::ChannelStore;
use strait_core::{App, AppBuilder, Channel, Endpoint, Error, Payload, Posted, Publish, Topic};
use strait_store_memory::MemoryStore;

use super::fake::{FakeGateway, Function, Later, at};

async fn subscribe(channel: Channel) -> Result<(), Error> {
    channel.subscribe(&Topic::new("t")?).await
}

fn app(store: &MemoryStore) -> AppBuilder {
    async fn publish(channel: Channel, text: String) -> Result<strait_core::NoReply, Error> {
        match text.strip_prefix("others ") {
            Some(text) => channel.publish_to_others(&Topic::new("t")?, Payload::text(text)).await?,
            None => channel.publish(&Topic::new("t")?, Payload::text(text)).await?,
        };
        Ok(strait_core::NoReply)
    }
    let endpoint = Endpoint::new("a", "/a").public().on_connect(subscribe).on_message(publish);
    App::new().endpoint(endpoint).store(store.clone())
}

async fn publish(function: &Function, text: &str) {
    function.app.hub().publish(Publish::new(Topic::new("t").expect("a name"), Payload::text(text))).await.expect("ok");
}

#[tokio::test]
async fn a_publication_reaches_everybody_also_with_nobody_excluded() {
    let function = Function::new(app(&MemoryStore::new()), &FakeGateway::new());
    for connection in ["c1", "c2", "c3"] {
        function.connect(connection, "/?path=/a").await;
    }
    function.message("c1", "all").await;
    function.message("c1", "others rest").await;
    assert_eq!(function.gateway.seen("c1"), ["all"]);
    for connection in ["c2", "c3"] {
        assert_eq!(function.gateway.seen(connection), ["all", "rest"]);
    }
}

#[tokio::test]
async fn one_processs_publications_arrive_in_order() {
    let function = Function::new(app(&MemoryStore::new()), &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    function.gateway.latency(Duration::from_millis(1));
    for n in 0..50 {
        publish(&function, &n.to_string()).await;
    }
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    function.gateway.sees("c1", &expected).await;
}

#[tokio::test]
async fn only_who_is_gone_is_evicted_and_the_others_get_the_event() {
    let store = MemoryStore::new();
    let function =
        Function::new(app(&store), &FakeGateway::new().with(|caps| caps.patience = Duration::from_millis(50)));
    for connection in ["gone", "throttled", "well"] {
        function.connect(connection, "/?path=/a").await;
    }
    function.gateway.lose("gone");
    function.gateway.fault(|connection, _| (connection == "throttled").then_some(Posted::Throttled));
    publish(&function, "event").await;
    function.gateway.sees("well", &["event"]).await;
    crate::log::eventually_async("the eviction", async || {
        store.find(&at("gone").location()).await.expect("answers").is_none()
    })
    .await;
    assert!(store.find(&at("throttled").location()).await.expect("answers").is_some());
}

#[tokio::test]
async fn who_is_still_opening_gets_the_event_once_it_is_open() {
    let gateway = FakeGateway::new().with(|caps| caps.handshake = Duration::from_secs(60));
    let function = Function::new(app(&MemoryStore::new()), &gateway);
    function.handshake("c1", "/?path=/a").await.expect("let in");
    publish(&function, "event").await;
    crate::log::eventually("tries", || gateway.posts() >= 2).await;
    gateway.establish("c1");
    gateway.sees("c1", &["event"]).await;
}

#[tokio::test]
async fn what_there_is_no_time_for_is_handed_over_and_arrives_once() {
    const MEMBERS: usize = 700;
    let (store, gateway, later) = (MemoryStore::new(), FakeGateway::new(), Later::default());
    let function = Function::new(app(&store).continuation(later.clone()), &gateway);
    for n in 0..MEMBERS {
        function.connect(&format!("c{n}"), "/?path=/a").await;
    }
    gateway.latency(Duration::from_millis(500));
    function.message_within("c0", "event", Duration::from_secs(1)).await;
    let first: usize = (0..MEMBERS).map(|n| gateway.seen(&format!("c{n}")).len()).sum();
    assert!(first < MEMBERS, "the time was short");
    gateway.latency(Duration::ZERO);
    for work in later.take() {
        function.go_on(work).await;
    }
    for n in 0..MEMBERS {
        assert_eq!(gateway.seen(&format!("c{n}")), ["event"], "c{n}");
    }
}

#[tokio::test]
async fn members_are_posted_to_in_bounded_slices() {
    #[derive(Debug, Clone)]
    struct Largest(FakeGateway, Arc<AtomicUsize>);

    #[strait_core::testkit::async_trait]
    impl strait_core::Gateway for Largest {
        fn capabilities(&self) -> strait_core::Capabilities {
            self.0.capabilities()
        }

        async fn post(&self, posts: &[strait_core::Post], until: std::time::Instant) -> Vec<Posted> {
            self.1.fetch_max(posts.len(), SeqCst);
            self.0.post(posts, until).await
        }

        async fn close(
            &self,
            to: &strait_core::GatewayConnection,
            close: &strait_core::Close,
            until: std::time::Instant,
        ) -> Posted {
            self.0.close(to, close, until).await
        }

        async fn probe(&self, to: &strait_core::GatewayConnection, until: std::time::Instant) -> strait_core::Probed {
            self.0.probe(to, until).await
        }
    }
    let (gateway, largest) = (FakeGateway::new(), Arc::new(AtomicUsize::new(0)));
    let app = app(&MemoryStore::new()).gateway(Largest(gateway.clone(), Arc::clone(&largest)));
    let function = Function { app: app.build().expect("it builds"), gateway };
    for n in 0..300 {
        function.connect(&format!("c{n}"), "/?path=/a").await;
    }
    publish(&function, "event").await;
    function.gateway.sees("c299", &["event"]).await;
    assert!(largest.load(SeqCst) <= 64, "{largest:?} at once");
}

#[tokio::test]
async fn one_member_that_is_stuck_keeps_no_other_one_waiting() {
    const MEMBERS: usize = 200;
    let gateway = FakeGateway::new().with(|capabilities| capabilities.patience = Duration::from_secs(600));
    let function = Function::new(app(&MemoryStore::new()), &gateway);
    for n in 0..MEMBERS {
        function.connect(&format!("c{n}"), "/?path=/a").await;
    }
    gateway.stick("c1");
    publish(&function, "event").await;
    for n in (0..MEMBERS).filter(|n| *n != 1) {
        function.gateway.sees(&format!("c{n}"), &["event"]).await;
    }
    // The next publication does not wait either.
    publish(&function, "next").await;
    for n in (0..MEMBERS).filter(|n| *n != 1) {
        function.gateway.sees(&format!("c{n}"), &["event", "next"]).await;
    }
}

#[tokio::test]
async fn what_is_handed_over_fits_into_an_asynchronous_invocation() {
    let (store, gateway, later) = (MemoryStore::new(), FakeGateway::new(), Later::default());
    let function = Function::new(app(&store).continuation(later.clone()), &gateway);
    function.connect("c1", "/?path=/a").await;
    // An invocation without time left: all its publications are handed over.
    let over = function.app.invocation(std::time::Instant::now());
    for n in 0..8 {
        publish(&function, &n.to_string().repeat(60 * 1024)).await;
    }
    crate::log::eventually("all is handed over", || later.sizes().len() >= 7).await;
    drop(over);
    assert!(later.sizes().iter().all(|size| *size < 256 * 1024), "{:?}", later.sizes());
    for work in later.take() {
        function.go_on(work).await;
    }
    crate::log::eventually("all events", || gateway.seen("c1").len() == 8).await;
}

#[tokio::test]
async fn an_event_is_encoded_once_for_all_posts() {
    const MEMBERS: usize = 600;
    let function = Function::new(app(&MemoryStore::new()), &FakeGateway::new());
    for n in 0..MEMBERS {
        function.connect(&format!("c{n}"), "/?path=/a").await;
    }
    publish(&function, "event").await;
    crate::log::eventually("all posts", || function.gateway.frames().len() == MEMBERS).await;
    let frames = function.gateway.frames();
    assert!(frames.iter().all(|frame| frame.bytes().as_ptr() == frames[0].bytes().as_ptr()));
}
