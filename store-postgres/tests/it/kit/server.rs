//! A server of a test's own, from the machine's programs, for faults that the shared server must not have.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use strait_core::NodeId;

use crate::kit::skip;

/// The longest time for a program to start or to end.
const LIMIT: Duration = Duration::from_secs(60);

/// A program's path: on `PATH`, or where Debian keeps those of Postgres.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let versions = debian.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let folders = std::env::split_paths(&on_path).chain(["/usr/sbin".into()]).chain(versions);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The user and group ids for a server that refuses to run as root; `None` if we are not root.
pub(crate) fn unprivileged() -> Option<(u32, u32)> {
    let own = Command::new("id").arg("-u").output().unwrap();
    if own.stdout != b"0\n" {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let fields = |name: &str| {
        let line = accounts.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut numbers = line.split(':').skip(2).map_while(|field| field.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    fields("postgres").or_else(|| fields("nobody"))
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder that is removed with its owner.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("strait-{}", NodeId::unique()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Runs a program in the folder, as a user that is not root.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.0).env("LC_ALL", "C").stdin(Stdio::null());
        if let Some((user, group)) = unprivileged() {
            chown(&self.0, Some(user), Some(group)).unwrap();
            command.uid(user).gid(group).env("HOME", &self.0);
        }
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program that ends with its owner.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }

    pub(crate) fn wait(&mut self) {
        let start = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Postgres of a test's own.
#[derive(Debug)]
pub(crate) struct Server {
    process: Option<Running>,
    postgres: PathBuf,
    port: u16,
    /// As `name=value`, from the next start on.
    pub(crate) settings: Vec<String>,
    pub(crate) folder: Folder,
}

impl Server {
    /// `None`, with a message, if the machine lacks the programs.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_in(Folder::new(), &[]).await
    }

    /// In a folder, with further options of `initdb`.
    pub(crate) async fn start_in(folder: Folder, options: &[&str]) -> Option<Self> {
        let (Some(postgres), Some(initdb)) = (program("postgres"), program("initdb")) else {
            skip("there is no postgres with its initdb");
            return None;
        };
        let mut command = folder.command(&initdb);
        command.args(["-D", "data", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        command.arg("--no-sync").args(options);
        let made = command.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server = Self { process: None, postgres, port: free_port(), settings: Vec::new(), folder };
        server.begin().await;
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) async fn begin(&mut self) {
        let mut command = self.folder.command(&self.postgres);
        let port = format!("port={}", self.port);
        for setting in [&port, "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(self.folder.0.join("log")).unwrap();
        command.args(["-D", "data"]).stdout(Stdio::null()).stderr(log);
        self.process = Some(Running(command.spawn().unwrap()));
        let start = Instant::now();
        let log = self.folder.0.join("log");
        while !fs::read_to_string(&log).unwrap().contains("ready to accept connections") {
            assert!(start.elapsed() < LIMIT, "{}", fs::read_to_string(&log).unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops it at once, in good order or as a crash would.
    pub(crate) fn stop(&mut self, signal: &str) {
        let mut process = self.process.take().unwrap();
        process.signal(signal);
        process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.stop("-INT");
        }
    }
}
