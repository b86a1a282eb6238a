//! An attack beside honest clients: it measures the delay that the clients feel, and the cost for the server.

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::kit::{Client, TcpClient, handshake};
use crate::victim::Victim;

/// The number of honest clients, each with one message in flight.
const HONEST: usize = 10;
/// Well below the rate limit.
const THINK: Duration = Duration::from_millis(12);
/// How often an attack is tried: a machine that does other things at the same time has bad moments of its own.
const TRIES: usize = 5;
/// No client may wait longer than this many times its wait in quiet, or its wait at another server of this machine
/// meanwhile…
const RATIO: f64 = 2.0;
/// …where a wait shorter than this is as good as quiet: a time slice of a busy machine is not the server's fault. An
/// unoptimised server is some twenty times slower, so its bound is coarse; it also meets fewer attackers.
const UNNOTICED: Duration = Duration::from_millis(if cfg!(debug_assertions) { 25 } else { 4 });
const FEWER: usize = if cfg!(debug_assertions) { 4 } else { 1 };
/// How long an attacker that was thrown out takes to come back.
const BREATH: Duration = Duration::from_millis(20);
/// The pause between two writes of some 10 KB: twenty flooding clients send as much as a gigabit line carries. On one
/// machine, more would measure the kernel's work for the attackers.
const PACE: Duration = Duration::from_millis(2);
/// A file for the figures: `cargo xtask hostile` reads it.
const FIGURES: &str = "STRAIT_HOSTILE_FIGURES";

/// The name of an attack, the number of attackers, and the most memory that the attack may cost.
pub(crate) struct Siege {
    pub(crate) name: &'static str,
    pub(crate) attackers: usize,
    pub(crate) mib: usize,
}

impl Siege {
    /// Runs `attack` for each attacker, by its number, and again whenever the server throws it out. Checks that honest
    /// clients are served and that the server's state afterwards is as before.
    pub(crate) async fn by<A, F>(self, attack: A)
    where
        A: Fn(SocketAddr, usize) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        // One siege at a time: two would measure each other.
        let alone =
            File::create(std::env::temp_dir().join("strait-hostile.lock")).expect("there is a temporary folder");
        alone.lock().expect("it can be locked");
        let strict = std::env::var_os(FIGURES);
        let window = Duration::from_millis(if strict.is_some() { 1_000 } else { 200 });
        let mut victim = Victim::patient().await;
        // Clients of the bystander feel the load that the attackers themselves put on the machine.
        let bystander = Victim::patient().await;
        let (mut honest, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..HONEST {
            honest.push(victim.client("/honest").await);
            beside.push(bystander.client("/honest").await);
        }
        both(&mut honest, &mut beside, window / 2).await;
        let start = victim.resident();
        let mut most = 0;
        let mut tried = Vec::new();
        loop {
            let (quiet, _) = both(&mut honest, &mut beside, window).await;
            victim.peak();
            let attacker = Attacker::begin(self.attackers.div_ceil(FEWER), victim.address, attack.clone());
            sleep(window / 4).await;
            let (attacked, elsewhere) = both(&mut honest, &mut beside, window).await;
            most = most.max(victim.peak().saturating_sub(start));
            attacker.end();
            // Otherwise the next quiet measurement would not be quiet.
            victim.is_left_by_all_but(HONEST).await;
            tried.push(Try { quiet, attacked, elsewhere });
            if (strict.is_none() && tried.iter().any(Try::is_good)) || tried.len() == TRIES {
                break;
            }
            both(&mut honest, &mut beside, window / 2).await;
        }
        for client in honest.into_iter().chain(beside) {
            client.leave().await;
        }
        bystander.ends_unharmed().await;
        victim.is_left_by_all().await;
        let left = victim.resident().saturating_sub(start);
        tried.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        let counted = if strict.is_some() { &tried[tried.len() / 2] } else { &tried[0] };
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let figures = format!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
            self.name,
            ms(counted.quiet),
            ms(counted.elsewhere),
            ms(counted.attacked),
            counted.ratio(),
            most as f64 / 1024.0,
            left as f64 / 1024.0
        );
        if let Some(path) = strict {
            let mut file = File::options().append(true).create(true).open(path).expect("the figures can be written");
            writeln!(file, "{figures}").expect("the figures can be written");
        }
        say(&figures);
        assert!(most <= self.mib * 1024, "{most} KiB at most, {} MiB allowed", self.mib);
        assert!(counted.is_good(), "the honest wait: {tried:?}");
        victim.ends_unharmed().await;
    }
}

/// The waits of honest clients: 99 of 100 answers come within them.
#[derive(Debug)]
struct Try {
    quiet: Duration,
    attacked: Duration,
    /// The wait at another server, while this one was attacked.
    elsewhere: Duration,
}

impl Try {
    /// The ratio of the wait under attack to the wait without this server's part in it.
    fn ratio(&self) -> f64 {
        self.attacked.as_secs_f64() / self.quiet.max(self.elsewhere).as_secs_f64()
    }

    fn is_good(&self) -> bool {
        self.attacked <= UNNOTICED || self.ratio() <= RATIO
    }
}

/// Prints the figures for a run with `--no-capture`.
#[expect(clippy::print_stdout, reason = "a passing test has no other way to tell a figure")]
fn say(figures: &str) {
    println!("{figures}");
}

/// The time within which 99 of 100 answers come, here and there.
async fn both(here: &mut [TcpClient], there: &mut [TcpClient], window: Duration) -> (Duration, Duration) {
    futures_util::future::join(p99(here, window), p99(there, window)).await
}

/// The time within which 99 of 100 answers come.
async fn p99(clients: &mut [TcpClient], window: Duration) -> Duration {
    let until = Instant::now() + window;
    let message = "x".repeat(32);
    let all = clients.iter_mut().enumerate().map(|(at, client)| {
        let message = &message;
        async move {
            let mut times = Vec::new();
            // The clients do not send all at the same moment.
            sleep(THINK * at as u32 / HONEST as u32).await;
            while Instant::now() < until {
                let start = Instant::now();
                client.text(message).await;
                client.expect(message).await;
                times.push(start.elapsed());
                sleep(THINK).await;
            }
            times
        }
    });
    let mut times = futures_util::future::join_all(all).await.concat();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// A thread that attacks until the test ends it; then its sockets are gone, too.
struct Attacker {
    end: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Attacker {
    fn begin<A, F>(count: usize, address: SocketAddr, attack: A) -> Self
    where
        A: Fn(SocketAddr, usize) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn(move || {
            // Attackers are on other machines in reality: their own work must not delay the honest clients and the
            // server.
            rustix::process::nice(19).expect("a thread may be less urgent");
            let runtime = Builder::new_current_thread().enable_all().build().expect("there is a runtime");
            let tasks = (0..count).map(|number| {
                let attack = attack.clone();
                runtime.spawn(async move {
                    loop {
                        attack(address, number).await;
                        sleep(BREATH).await;
                    }
                })
            });
            let tasks: Vec<_> = tasks.collect();
            // A sender dropped without a word means that the test has failed.
            let _ = runtime.block_on(ended);
            for task in tasks {
                assert!(!task.is_finished(), "an attacker has failed");
            }
        });
        Self { end, thread }
    }

    fn end(self) {
        let _ = self.end.send(());
        self.thread.join().expect("the attacker does not fail");
    }
}

/// A socket, if the server takes it.
pub(crate) async fn socket(address: SocketAddr) -> Option<TcpClient> {
    Some(Client::new(TcpStream::connect(address).await.ok()?))
}

/// A client, if it is let in.
pub(crate) async fn client(address: SocketAddr, path: &str) -> Option<TcpClient> {
    let mut client = socket(address).await?;
    client.try_send(handshake(path, &[])).await.then_some(())?;
    (client.try_answer().await?.status == 101).then_some(client)
}

/// Sends the same bytes again and again, and reads the answers, until the server throws it out.
pub(crate) async fn repeat(client: TcpClient, bytes: &[u8]) {
    let (mut read, mut write) = client.socket.into_split();
    let mut scratch = vec![0; 64 * 1024];
    let reading = async { while matches!(read.read(&mut scratch).await, Ok(1..)) {} };
    let writing = async {
        while write.write_all(bytes).await.is_ok() {
            sleep(PACE).await;
        }
    };
    tokio::select! { () = reading => {}, () = writing => {} }
}

/// Sends `first` once, and `then` again and again behind it.
pub(crate) async fn flood(address: SocketAddr, first: Bytes, then: Bytes) {
    if let Some(mut client) = client(address, "/echo").await
        && client.try_send(&first).await
    {
        repeat(client, &then).await;
    }
}
