//! Finds a Docker engine that answers, over its HTTP API by hand: the client library takes a minute to compile, which
//! is wasted on a machine without an engine.

use std::{
    env,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, bail};

const LIMIT: Duration = Duration::from_secs(5);

/// The image that `cargo xtask image` builds, unless `STRAIT_TEST_IMAGE` names another.
pub(crate) fn image_name() -> String {
    named_image().unwrap_or_else(|| "strait-test-services".to_owned())
}

/// The image that `STRAIT_TEST_IMAGE` names.
pub(crate) fn named_image() -> Option<String> {
    env::var("STRAIT_TEST_IMAGE").ok().filter(|name| !name.is_empty())
}

/// A Docker engine that has answered.
pub(crate) struct Engine {
    /// In the form of `DOCKER_HOST`.
    pub(crate) address: String,
}

impl Engine {
    /// The engine of `DOCKER_HOST`, else the first that answers at one of the usual sockets. The error lists the tried
    /// addresses.
    pub(crate) fn find() -> anyhow::Result<Engine> {
        if let Ok(address) = env::var("DOCKER_HOST") {
            let engine = Engine { address };
            let place = engine.address.clone();
            engine.ping().with_context(|| format!("no Docker engine answers at DOCKER_HOST={place}"))?;
            return Ok(engine);
        }
        let home = env::var_os("HOME").map(PathBuf::from);
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let sockets = [
            Some(PathBuf::from("/var/run/docker.sock")),
            runtime.map(|folder| folder.join("docker.sock")),
            home.as_ref().map(|folder| folder.join(".docker/run/docker.sock")),
            home.as_ref().map(|folder| folder.join(".docker/desktop/docker.sock")),
        ];
        let mut silent = Vec::new();
        for socket in sockets.into_iter().flatten().filter(|socket| socket.exists()) {
            let engine = Engine { address: format!("unix://{}", socket.display()) };
            match engine.ping() {
                Ok(()) => return Ok(engine),
                Err(error) => silent.push(format!("{}: {error:#}", engine.address)),
            }
        }
        if silent.is_empty() {
            bail!("no Docker engine: DOCKER_HOST is not set, and there is no socket such as /var/run/docker.sock");
        }
        bail!("no Docker engine answers ({})", silent.join("; "));
    }

    /// Whether the image is there; nothing is pulled.
    pub(crate) fn has_image(&self, name: &str) -> anyhow::Result<bool> {
        match self.get(&format!("/images/{name}/json"))? {
            200 => Ok(true),
            404 => Ok(false),
            status => bail!("the engine answered {status} when asked for image {name}"),
        }
    }

    fn ping(&self) -> anyhow::Result<()> {
        match self.get("/_ping")? {
            200 => Ok(()),
            status => bail!("it answered {status}"),
        }
    }

    /// The status of the answer. HTTP/1.0, so that the answer ends with the connection.
    fn get(&self, path: &str) -> anyhow::Result<u16> {
        let request = format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n");
        let head = if let Some(socket) = self.address.strip_prefix("unix://") {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            first_bytes(stream, &request)?
        } else if let Some(place) = self.address.strip_prefix("tcp://") {
            let address = place.to_socket_addrs()?.next().context("the name has no address")?;
            let stream = TcpStream::connect_timeout(&address, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            first_bytes(stream, &request)?
        } else {
            bail!("only unix:// and tcp:// without TLS are understood");
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.context("what answers is no HTTP server")
    }
}

fn first_bytes(mut stream: impl Read + Write, request: &str) -> anyhow::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut head = vec![0; 64];
    let mut filled = 0;
    while filled < head.len() {
        match stream.read(&mut head[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    head.truncate(filled);
    Ok(String::from_utf8_lossy(&head).into_owned())
}
