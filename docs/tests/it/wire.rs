//! Plays the examples of the plain format against a server.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use strait_adapter_fastws::{Server, ServerHandle};
use strait_core::App;
use strait_store_memory::MemoryStore;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use crate::chapters::chapter;
use crate::client::Client;
use crate::endpoint::endpoint;

struct Running {
    address: SocketAddr,
    handle: ServerHandle,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        let app = App::new().endpoint(endpoint()).store(MemoryStore::new()).build().expect("it builds");
        let server = Server::new(app);
        let handle = server.handle();
        let (listening, address) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                listening.send(listener.local_addr().expect("an address")).expect("the test waits");
                server.serve(listener).await.expect("it serves");
            });
        });
        let address = address.recv().expect("it listens");
        Self { address, handle, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

#[test]
fn the_examples_of_the_plain_format_are_what_is_sent() {
    let server = Running::start();
    let text = chapter("plain.md");
    let mut played = 0;
    for block in text.split("```text,wire\n").skip(1) {
        let (block, _) = block.split_once("```").expect("the block ends");
        let mut client = Client::open(server.address, "/wire").expect("the handshake passes");
        for line in block.lines() {
            if let Some(said) = line.strip_prefix("→ ") {
                client.say(said);
            } else if let Some(expected) = line.strip_prefix("← ") {
                let (opcode, heard) = client.hear().expect("an answer");
                assert_eq!(opcode, 1, "{line}");
                assert_eq!(String::from_utf8(heard).expect("UTF-8"), expected);
                played += 1;
            } else {
                panic!("neither said nor heard: {line}");
            }
        }
    }
    assert!(played >= 20, "only {played} answers were compared");
}
