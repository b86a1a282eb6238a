//! Containers are known by label: a run's own, which it removes at its end, and those of runs that
//! were killed.

use std::{collections::HashMap, fs::File, io, path::Path};

use anyhow::Context;
use testcontainers::{
    bollard::{
        Docker,
        models::ContainerSummary,
        query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
    },
    core::client::docker_client_instance,
};

/// The file that the run keeps locked while it lives.
const LOCK: &str = "strait.test.lock";
/// The machine that the file is on: an engine may serve several.
const HOST: &str = "strait.test.host";

pub(crate) fn labels(lock: &Path) -> [(&'static str, String); 2] {
    [(LOCK, lock.display().to_string()), (HOST, host())]
}

/// Removes the containers of runs that were killed, and tells how many there were.
pub(crate) async fn sweep() -> anyhow::Result<usize> {
    let docker = docker_client_instance().await?;
    let containers = list(&docker, vec![format!("{HOST}={}", host())]).await?;
    let orphans: Vec<_> = containers
        .into_iter()
        .filter(|container| {
            let labels = container.labels.as_ref();
            labels.and_then(|labels| labels.get(LOCK)).is_some_and(|lock| !is_held(Path::new(lock)))
        })
        .collect();
    let count = orphans.len();
    remove(&docker, orphans).await?;
    Ok(count)
}

/// Removes the containers of the run of this lock.
pub(crate) async fn remove_of_run(lock: &Path) -> anyhow::Result<()> {
    let docker = docker_client_instance().await?;
    let labels = labels(lock).map(|(name, value)| format!("{name}={value}"));
    let containers = list(&docker, labels.into()).await?;
    remove(&docker, containers).await
}

async fn list(docker: &Docker, labels: Vec<String>) -> anyhow::Result<Vec<ContainerSummary>> {
    let filters = HashMap::from([("label", labels)]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    docker.list_containers(Some(options)).await.context("cannot list containers")
}

async fn remove(docker: &Docker, containers: Vec<ContainerSummary>) -> anyhow::Result<()> {
    for id in containers.into_iter().filter_map(|container| container.id) {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match docker.remove_container(&id, Some(options)).await {
            Ok(()) => {}
            // Gone, or about to be: another run swept at the same time.
            Err(testcontainers::bollard::errors::Error::DockerResponseServerError {
                status_code: 404 | 409, ..
            }) => {}
            Err(error) => return Err(error).context("cannot remove a container"),
        }
    }
    Ok(())
}

/// A lock that cannot be looked at is taken for alive.
fn is_held(lock: &Path) -> bool {
    match File::open(lock) {
        Ok(file) => file.try_lock().is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
