use std::time::{Duration, Instant};

use super::server::Server;

/// How many slots there are.
const SLOTS: u16 = 16384;

/// A cluster of servers. They end when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The servers that share the slots evenly, in order.
    pub masters: Vec<Server>,
    /// Replicas of the first of them, in order.
    pub replicas: Vec<Server>,
}

impl Cluster {
    /// As many masters that share the slots evenly, and a replica for each of the first `replicas` of them.
    ///
    /// # Panics
    /// When it is not formed within 20 seconds.
    pub async fn start(masters: usize, replicas: usize) -> Self {
        let mut servers = Vec::new();
        for _ in 0..masters + replicas {
            servers.push(
                Server::start(&[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-node-timeout",
                    "1000",
                    "--cluster-replica-validity-factor",
                    "0",
                    "--repl-diskless-sync-delay",
                    "0",
                ])
                .await,
            );
        }
        let replicas = servers.split_off(masters);
        let cluster = Self { masters: servers, replicas };
        cluster.form().await;
        cluster
    }

    async fn form(&self) {
        let count = self.masters.len() as u16;
        for (n, server) in (0..).zip(&self.masters) {
            let (first, last) = (SLOTS / count * n, if n + 1 == count { SLOTS } else { SLOTS / count * (n + 1) } - 1);
            let () = server.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            let () = server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).await;
        }
        let first = self.masters[0].address().port().to_string();
        for server in self.all().skip(1) {
            let () = server.ask(&["CLUSTER", "MEET", "127.0.0.1", &first]).await;
        }
        let total = self.all().count();
        for server in self.all() {
            self.wait_for("all servers to know each other", server, |nodes, _| nodes.lines().count() == total).await;
        }
        for (master, replica) in self.masters.iter().zip(&self.replicas) {
            let id: String = master.ask(&["CLUSTER", "MYID"]).await;
            let () = replica.ask(&["CLUSTER", "REPLICATE", &id]).await;
        }
        for server in self.all() {
            self.wait_for("the cluster to work", server, |_, info| info.contains("cluster_state:ok")).await;
        }
        for replica in &self.replicas {
            let info = async || replica.ask::<String>(&["INFO", "replication"]).await;
            wait("a replica to be in step", async || info().await.contains("master_link_status:up")).await;
        }
    }

    async fn wait_for(&self, what: &str, server: &Server, done: impl Fn(&str, &str) -> bool) {
        wait(what, async || {
            let nodes: String = server.ask(&["CLUSTER", "NODES"]).await;
            let info: String = server.ask(&["CLUSTER", "INFO"]).await;
            done(&nodes, &info)
        })
        .await;
    }

    fn all(&self) -> impl Iterator<Item = &Server> {
        self.masters.iter().chain(&self.replicas)
    }
}

/// Waits until something holds.
async fn wait(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
