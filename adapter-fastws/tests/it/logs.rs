//! The operator's log lines about clients that are not let in.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::kit::{Node, echo, handshake, serve};

/// Keeps the lines of this thread, each as its fields.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        self.0.lock().push(fields.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

async fn refuse(node: &Node, request: &str) {
    let mut client = node.socket().await;
    client.send(request).await;
    assert!((400..500).contains(&client.answer().await.status));
}

/// Asks until a line with all of these parts is logged: other tests of the process may have used up the second's lines.
async fn is_logged(lines: &Lines, node: &Node, request: &str, parts: &[&str]) {
    let start = Instant::now();
    while !lines.all().iter().any(|line| parts.iter().all(|part| line.contains(part))) {
        assert!(start.elapsed().as_secs() < 20, "there is no line with {parts:?}: {:#?}", lines.all());
        refuse(node, request).await;
    }
}

#[tokio::test]
async fn a_refused_handshake_is_logged_with_its_reason_and_without_secrets() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let node = serve(echo("/echo")).await;
    let secret = [("authorization", "Bearer secret"), ("cookie", "id=secret")];
    let unknown = handshake("/nothing?token=secret", &secret);
    is_logged(&lines, &node, &unknown, &["status=404", r#""/nothing""#, "there is no endpoint at this path"]).await;
    let other = handshake("/echo", &[("origin", "http://page.test"), secret[0]]);
    let parts = ["status=403", r#""/echo""#, "http://page.test", "strait.test", "Endpoint::origins", "SameHost"];
    is_logged(&lines, &node, &other, &parts).await;
    assert!(lines.all().iter().all(|line| !line.contains("secret")), "{:#?}", lines.all());
    node.end().await;
}

#[tokio::test]
async fn refused_handshakes_are_logged_so_many_a_second() {
    const REFUSED: u64 = 200;
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let node = serve(echo("/echo")).await;
    let (start, request) = (Instant::now(), handshake("/nothing", &[]));
    let mut client = node.socket().await;
    for _ in 0..REFUSED {
        client.send(&request).await;
        assert_eq!(client.answer().await.status, 404);
    }
    let seconds = start.elapsed().as_secs() + 2;
    let logged = lines.all().iter().filter(|line| line.contains("/nothing")).count() as u64;
    assert!(logged <= seconds * 10, "{logged} lines in {seconds} s");
    // The next second's line counts them.
    is_logged(&lines, &node, &handshake("/other", &[]), &["/other"]).await;
    node.end().await;
}
