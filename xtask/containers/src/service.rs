//! One service in one container.

use std::{collections::HashMap, env, path::Path, time::Duration};

use anyhow::{Context, bail};
use testcontainers::{
    ContainerAsync, GenericImage, ImageExt,
    bollard::models::PortBinding,
    core::{ContainerPort, WaitFor},
    runners::AsyncRunner,
};

use crate::leftovers;

const LOOPBACK: &str = "127.0.0.1";
const STARTUP_LIMIT: Duration = Duration::from_secs(120);

/// Makes a cluster that listens to all addresses and runs it. The image may hold Debian's packages
/// or be the official one: both have the user, but the programs are elsewhere.
const POSTGRES: &str = r#"
PATH="$PATH:$(echo /usr/lib/postgresql/*/bin)"
printf %s "$STRAIT_TEST_PASSWORD" >/tmp/password
initdb -D /tmp/data --username=postgres --pwfile=/tmp/password --auth=password --encoding=UTF8 --locale=C --no-sync >/dev/null || exit
echo "host all all all password" >>/tmp/data/pg_hba.conf
exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories= -c fsync=off -c full_page_writes=off -c max_connections=200
"#;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Redis,
    Postgres,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Redis => "redis",
            Kind::Postgres => "postgres",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) kind: Kind,
    pub(crate) image: String,
}

impl Service {
    /// From `redis=IMAGE` or `postgres=IMAGE`.
    pub(crate) fn parse(argument: &str) -> anyhow::Result<Service> {
        let (name, image) = argument.split_once('=').with_context(|| format!("{argument} is not SERVICE=IMAGE"))?;
        let kind = match name {
            "redis" => Kind::Redis,
            "postgres" => Kind::Postgres,
            _ => bail!("{name} is no service: name redis or postgres"),
        };
        Ok(Service { kind, image: image.to_owned() })
    }

    /// Starts a container, pulling its image if the engine lacks it, and waits until the server
    /// says that it is ready. Returns its URL too.
    pub(crate) async fn start(
        &self,
        lock: &Path,
        password: &str,
    ) -> anyhow::Result<(ContainerAsync<GenericImage>, String)> {
        let (name, tag) = name_and_tag(&self.image);
        let image = GenericImage::new(name, tag);
        let (port, ready) = match self.kind {
            Kind::Redis => (6379, WaitFor::message_on_stdout("Ready to accept connections")),
            Kind::Postgres => (5432, WaitFor::message_on_stderr("database system is ready to accept connections")),
        };
        let image = image.with_exposed_port(ContainerPort::Tcp(port)).with_wait_for(ready);
        let request = match self.kind {
            // Protected mode refuses clients that come through the published port.
            Kind::Redis => image.with_entrypoint("redis-server").with_user("redis").with_cmd([
                "--bind",
                "0.0.0.0",
                "--protected-mode",
                "no",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                "/tmp",
            ]),
            Kind::Postgres => image
                .with_entrypoint("sh")
                .with_user("postgres")
                .with_env_var("LC_ALL", "C")
                .with_env_var("STRAIT_TEST_PASSWORD", password)
                .with_cmd(["-c", POSTGRES]),
        };
        let request = request.with_labels(leftovers::labels(lock)).with_startup_timeout(STARTUP_LIMIT);
        let request = request.with_host_config_modifier(move |config| {
            // By default the port is open to the network, as it must be if the engine is elsewhere.
            if engine_is_here() {
                let here = PortBinding { host_ip: Some(LOOPBACK.to_owned()), host_port: None };
                config.port_bindings = Some(HashMap::from([(format!("{port}/tcp"), Some(vec![here]))]));
                config.publish_all_ports = Some(false);
            }
        });
        let container = request.start().await?;
        // Not localhost: that may be ::1, without a listener.
        let host = if engine_is_here() { LOOPBACK.to_owned() } else { container.get_host().await?.to_string() };
        let port = container.get_host_port_ipv4(port).await?;
        let url = match self.kind {
            Kind::Redis => format!("redis://{host}:{port}/0"),
            Kind::Postgres => format!("postgres://postgres:{password}@{host}:{port}/postgres"),
        };
        Ok((container, url))
    }
}

/// Whether a container's port on loopback is on ours: not if the engine is on another machine, nor if this is a
/// container itself.
fn engine_is_here() -> bool {
    let socket = env::var("DOCKER_HOST").is_ok_and(|address| address.starts_with("unix://"));
    socket && !Path::new("/.dockerenv").exists()
}

/// The colon of a registry's port, before the last slash, separates no tag.
fn name_and_tag(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        let check = |image, expected| assert_eq!(name_and_tag(image), expected, "{image}");
        check("strait-test-services", ("strait-test-services", "latest"));
        check("redis:7-bookworm", ("redis", "7-bookworm"));
        check("registry.example:5000/services", ("registry.example:5000/services", "latest"));
        check("registry.example:5000/services:2", ("registry.example:5000/services", "2"));
    }
}
