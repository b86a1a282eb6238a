use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

/// Kills the server when the script's input ends, so also when the test is killed.
const KEEPER: &str = r#"
redis-server "$@" >"$LOG" 2>&1 &
server=$!
echo $server
cat >/dev/null
kill -9 $server 2>/dev/null
wait $server 2>/dev/null
"#;

static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// A `redis-server` on a free port of this machine.
#[derive(Debug)]
pub struct Server {
    port: u16,
    folder: PathBuf,
    options: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    keeper: Child,
    /// Closed to end the server.
    input: ChildStdin,
    pid: u32,
}

impl Server {
    /// Starts a server with further options for its command line.
    ///
    /// # Panics
    /// When it does not start within 20 seconds.
    pub async fn start(options: &[&str]) -> Self {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("strait-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the system does what tests need");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { port: free_port(), folder, options, running: None };
        server.run().await;
        server
    }

    /// Starts an ended server again, at the same address. It loads the data that it has written, if its options make it
    /// write any.
    ///
    /// # Panics
    /// When it does not start within 20 seconds.
    pub async fn run(&mut self) {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper", "--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--daemonize", "no", "--save", ""]).args(&self.options);
        command.current_dir(&self.folder).env("LOG", self.folder.join("log"));
        let mut keeper = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the system does what tests need");
        let mut pid = String::new();
        let mut output = keeper.stdout.take().expect("the system does what tests need");
        while !pid.ends_with('\n') {
            let mut byte = [0];
            output.read_exact(&mut byte).expect("the system does what tests need");
            pid.push(char::from(byte[0]));
        }
        let input = keeper.stdin.take().expect("the system does what tests need");
        self.running =
            Some(Running { keeper, input, pid: pid.trim().parse().expect("the system does what tests need") });
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.connection().await.is_err() {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "redis-server does not start (is it installed?): {log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the server as a crash would.
    ///
    /// # Panics
    /// When the system does not report its end.
    pub fn kill(&mut self) {
        if let Some(Running { mut keeper, input, .. }) = self.running.take() {
            drop(input);
            keeper.wait().expect("the system does what tests need");
        }
    }

    /// Sends the server's process a signal: `-STOP` for a machine that hangs, `-CONT` for one that goes on.
    ///
    /// # Panics
    /// When the server does not run.
    pub fn signal(&self, signal: &str) {
        let pid = self.running.as_ref().expect("the system does what tests need").pid.to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("the system does what tests need").success());
    }

    /// The server's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The server's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// A new connection to the server.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        redis::Client::open(self.url())?.get_multiplexed_async_connection().await
    }

    /// Sends a command and returns the answer.
    ///
    /// # Panics
    /// When the server does not answer, or with another type.
    pub async fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connection().await.expect("the system does what tests need");
        redis::cmd(command[0])
            .arg(&command[1..])
            .query_async(&mut connection)
            .await
            .expect("the system does what tests need")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A free port; the port 10,000 above it, for a cluster's bus, is free too.
fn free_port() -> u16 {
    loop {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .expect("the system does what tests need")
            .local_addr()
            .expect("the system does what tests need")
            .port();
        let Some(bus) = free.checked_add(10_000) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, bus)).is_ok() {
            return free;
        }
    }
}
