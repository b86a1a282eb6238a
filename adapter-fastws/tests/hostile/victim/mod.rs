//! A server under attack, seen from outside.

mod server;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::kit::{Client, TcpClient, becomes, within};

pub(crate) use server::{PAUSE, SMALL};

/// A server in a process of its own.
pub(crate) struct Victim {
    pub(crate) address: SocketAddr,
    process: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    before: Count,
}

/// The counts that must be the same after an attack as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    tasks: usize,
    descriptors: usize,
    /// Channels and topics in memory.
    channels: usize,
    /// Channels in the store.
    records: usize,
    panics: usize,
}

impl Victim {
    pub(crate) async fn start() -> Self {
        Self::with_handshakes_of(Duration::from_millis(150)).await
    }

    /// A server that lets a handshake take as long as an attack lasts.
    pub(crate) async fn patient() -> Self {
        Self::with_handshakes_of(Duration::from_secs(1)).await
    }

    async fn with_handshakes_of(limit: Duration) -> Self {
        let program = std::env::current_exe().expect("this program is known");
        let mut process = Command::new(program)
            .args(["--exact", "victim::server::serves", "--ignored", "--nocapture", "--test-threads=1"])
            .env(server::SERVES, limit.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let asks = process.stdin.take();
        let mut answers = BufReader::new(process.stdout.take().expect("it is piped"));
        let address = answer(&mut answers).parse().expect("an address");
        let before = Count { tasks: 0, descriptors: 0, channels: 0, records: 0, panics: 0 };
        let mut victim = Self { address, process, asks, answers, before };
        // Resources that the first connection allocates for good are not left by an attack.
        for _ in 0..2 {
            let mut client = victim.client("/echo").await;
            client.text("hello").await;
            client.expect("hello").await;
            client.leave().await;
        }
        // The task of the last connection may still be ending: the least count is right.
        for _ in 0..20 {
            let now = victim.count();
            if (now.channels, now.records) == (0, 0) && (victim.before.tasks == 0 || now.tasks <= victim.before.tasks) {
                victim.before = now;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_ne!(victim.before.tasks, 0, "it does not come to rest");
        victim
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.process.id())
    }

    pub(crate) fn count(&mut self) -> Count {
        let asks = self.asks.as_mut().expect("it has not ended");
        writeln!(asks).expect("the server listens");
        let said = answer(&mut self.answers);
        let mut numbers = said.split(' ').map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().expect("a number");
        let (tasks, channels, records, panics) = (next(), next(), next(), next());
        let descriptors = fs::read_dir(self.proc("fd")).expect("it is there").count();
        Count { tasks, descriptors, channels, records, panics }
    }

    /// KiB of memory, by a name of proc(5): `VmRSS` now, `VmHWM` at most.
    fn memory(&self, what: &str) -> usize {
        let status = fs::read_to_string(self.proc("status")).expect("it is there");
        let line = status.lines().find(|line| line.starts_with(what)).expect("it has memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    pub(crate) fn resident(&self) -> usize {
        self.memory("VmRSS")
    }

    /// The most that was resident since the last call.
    pub(crate) fn peak(&self) -> usize {
        let peak = self.memory("VmHWM");
        fs::write(self.proc("clear_refs"), "5").expect("the peak can be forgotten");
        peak
    }

    /// A socket without a request so far.
    pub(crate) async fn socket(&self) -> TcpClient {
        Client::new(within(TcpStream::connect(self.address)).await.expect("the server listens"))
    }

    /// A client that was let in.
    pub(crate) async fn client(&self, path: &str) -> TcpClient {
        let mut client = self.socket().await;
        client.open(path).await;
        client
    }

    /// A client that was let in, with a small kernel buffer: the kernel takes little before the client reads.
    pub(crate) async fn narrow_client(&self, path: &str) -> TcpClient {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket.set_recv_buffer_size(4 * 1024).expect("the buffer can be set");
        let mut client = Client::new(within(socket.connect(self.address)).await.expect("the server listens"));
        client.open(path).await;
        client
    }

    /// Waits until the server's counts are as before the first client.
    pub(crate) async fn is_left_by_all(&mut self) {
        let before = self.before;
        becomes(|| self.count(), before).await;
    }

    /// Waits until only this number of honest clients is left.
    pub(crate) async fn is_left_by_all_but(&mut self, clients: usize) {
        let Count { descriptors, channels, records, .. } = self.before;
        let expected = (descriptors + clients, channels + clients, records + clients);
        let found = |count: Count| (count.descriptors, count.channels, count.records);
        becomes(|| found(self.count()), expected).await;
    }

    /// Checks that the server still serves, keeps nothing of its clients, and ends well.
    pub(crate) async fn ends_unharmed(mut self) {
        let mut client = self.client("/echo").await;
        client.text("still here").await;
        client.expect("still here").await;
        client.leave().await;
        self.is_left_by_all().await;
        drop(self.asks.take());
        let ended = async {
            loop {
                match self.process.try_wait().expect("it can be waited for") {
                    Some(status) => return status,
                    None => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        assert!(within(ended).await.success());
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // A failed test must leave no server behind; after a passed one there is none.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn answer(from: &mut BufReader<ChildStdout>) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(from.read_line(&mut line).expect("the server says something"), 0, "the server has ended");
        if let Some(said) = line.trim_end().strip_prefix(server::SAYS) {
            return said.to_owned();
        }
    }
}
