//! Runs `xtask` in a temporary folder of its own: tests see the files that it leaves, and other runs stay untouched.

use std::{
    env, fs,
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wire;

/// The start may include compiling xtask-containers.
const START_LIMIT: Duration = Duration::from_secs(300);
const END_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("xtask-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Checks that the run has cleaned up wholly.
    pub(crate) fn assert_empty(&self) {
        let left: Vec<_> = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `xtask`, without the service variables of the run that this test is a part of.
pub(crate) fn command(folder: &Folder, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    for name in ["STRAIT_TEST_REDIS_URL", "STRAIT_TEST_POSTGRES_URL", "STRAIT_TEST_SERVICES"] {
        command.env_remove(name);
    }
    command.args(args).env("TMPDIR", folder.path()).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end. Returns the status and all output.
pub(crate) fn run(folder: &Folder, args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = command(folder, args, variables).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// `xtask services` that holds its servers. Ends them when dropped.
pub(crate) struct Held {
    child: Child,
    pub(crate) redis: String,
    pub(crate) postgres: String,
    pub(crate) said: String,
}

impl Held {
    /// `Err` with all its output if it ended instead.
    pub(crate) fn start(folder: &Folder, variables: &[(&str, &str)]) -> Result<Held, String> {
        let mut child =
            command(folder, &["services"], variables).stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut held = Held { child, redis: String::new(), postgres: String::new(), said: String::new() };
        let deadline = Instant::now() + START_LIMIT;
        while held.redis.is_empty() || held.postgres.is_empty() {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(url) = line.strip_prefix("STRAIT_TEST_REDIS_URL=") {
                        url.clone_into(&mut held.redis);
                    } else if let Some(url) = line.strip_prefix("STRAIT_TEST_POSTGRES_URL=") {
                        url.clone_into(&mut held.postgres);
                    }
                    held.said += &line;
                    held.said.push('\n');
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(held.said.clone()),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("no services: {}", held.said),
            }
        }
        Ok(held)
    }

    /// As `start`; `None`, with the reason shown, if this machine cannot take the way.
    pub(crate) fn start_by(way: &str, folder: &Folder) -> Option<Held> {
        let reasons: &[&str] = match way {
            "docker" => &["no Docker engine", "Docker responded with status code"],
            _ => &["there is no redis-server", "there is no postgres", "there is no user postgres"],
        };
        match Held::start(folder, &[("STRAIT_TEST_SERVICES", way)]) {
            Ok(held) => Some(held),
            Err(said) => {
                let cannot = |line: &&str| reasons.iter().any(|reason| line.contains(reason));
                let Some(reason) = said.lines().find(cannot) else { panic!("no services: {said}") };
                skip(reason.rsplit_once("not by ").map_or(reason, |(_, reason)| reason));
                None
            }
        }
    }

    pub(crate) fn assert_answer(&self) {
        wire::assert_redis_answers(&self.redis);
        wire::assert_postgres_answers(&self.postgres);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end. `None`: by a signal that it did not handle.
    pub(crate) fn status(&mut self) -> Option<i32> {
        wait_until("xtask ends", || self.child.try_wait().unwrap()).code()
    }

    /// As a caller does that needs the servers no more.
    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn assert_gone(&self) {
        for url in [&self.redis, &self.postgres] {
            wait_until("the port is closed", || {
                TcpStream::connect_timeout(&wire::address(url), Duration::from_secs(1)).err()
            });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.close_input();
        let _ = self.child.wait();
    }
}

pub(crate) fn wait_until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < END_LIMIT, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Says that this machine cannot run a test: here, and at the end of test-all, since runners hide the output of a
/// passing test.
pub(crate) fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
    if let Some(path) = env::var_os("STRAIT_TEST_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{test}: {reason}\n").as_bytes()).unwrap();
    }
}
