use std::time::{Duration, Instant};

use super::server::Server;

/// The number of slots.
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
    /// Starts this many masters that share the slots evenly, and a replica for each of the first `replicas` of them.
    ///
    /// # Panics
    /// When the cluster is not formed within 20 seconds.
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

    /// The slot of a key that matches a pattern, and the index of its master.
    ///
    /// # Panics
    /// When there is no such key.
    pub async fn place(&self, pattern: &str) -> (u16, usize) {
        for (n, master) in self.masters.iter().enumerate() {
            let keys: Vec<String> = master.ask(&["KEYS", pattern]).await;
            if let Some(key) = keys.first() {
                return (master.ask(&["CLUSTER", "KEYSLOT", key]).await, n);
            }
        }
        panic!("no key matches {pattern}")
    }

    /// Moves a slot from one master to another, as `redis-cli --cluster reshard` does.
    ///
    /// # Panics
    /// When a server refuses a step.
    pub async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (from, to) = (&self.masters[from], &self.masters[to]);
        let (from_id, to_id): (String, String) =
            (from.ask(&["CLUSTER", "MYID"]).await, to.ask(&["CLUSTER", "MYID"]).await);
        let slot = slot.to_string();
        let () = to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        let () = from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
        let port = to.address().port().to_string();
        loop {
            let keys: Vec<String> = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).await;
            let Some(key) = keys.first() else { break };
            let _: String = from.ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
        }
        for server in [to, from] {
            let () = server.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        }
    }

    /// Ends a master with a replica, as a crash would, and waits until the replica has taken over.
    ///
    /// # Panics
    /// When it does not take over within 20 seconds.
    pub async fn fail_over(&mut self, master: usize) {
        self.masters[master].kill();
        let replica = &self.replicas[master];
        wait("a replica to take over", async || {
            let info: String = replica.ask(&["INFO", "replication"]).await;
            let cluster: String = replica.ask(&["CLUSTER", "INFO"]).await;
            info.contains("role:master") && cluster.contains("cluster_state:ok")
        })
        .await;
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

/// Waits until `holds` returns `true`.
async fn wait(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
