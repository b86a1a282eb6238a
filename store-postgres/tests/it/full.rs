//! A database on a full file system. Its WAL is elsewhere: without room for that the server ends, as in a crash.

use std::fs;
use std::process::Command;

use strait_core::store::{EventHubStore, StoreErrorKind};

use crate::kit::server::{Folder, Server, unprivileged};
use crate::kit::skip;
use crate::kit::{Schema, eventually, hearing, publication, topic};

/// A small file system in memory, until it is dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn on(folder: &Folder) -> Option<Self> {
        let Some((user, group)) = unprivileged() else {
            skip("only root can mount a small file system");
            return None;
        };
        let options = format!("size=80m,mode=0700,uid={user},gid={group}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&folder.0).output().unwrap();
        if !mounted.status.success() {
            skip("a small file system cannot be mounted here");
            return None;
        }
        Some(Self(folder.0.clone()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_database_that_is_full_is_waited_for() {
    let (folder, wal) = (Folder::new(), Folder::new());
    let Some(_mounted) = Mounted::on(&folder) else { return };
    // Give the folder to the user that runs the server.
    wal.command("true".as_ref()).status().unwrap();
    let waldir = format!("--waldir={}", wal.0.join("wal").display());
    let Some(server) = Server::start_in(folder, &[&waldir]).await else { return };
    let schema = Schema::at(server.url());
    let store = schema.store().await;
    let (ears, bus) = hearing(&store, &["a"]).await;

    let filler = server.folder.0.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(file);

    // Use up the room in the tables first.
    let mut published = 0;
    let refused = loop {
        assert!(published < 20_000, "it is not full");
        match store.publish(&[publication("a", format!("{published} {}", "x".repeat(1000)))]).await.remove(0) {
            Ok(_) => published += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.kind, StoreErrorKind::Unavailable);
    assert!(refused.is_retryable());
    let reason = std::error::Error::source(&refused).unwrap().to_string();
    assert!(reason.contains("No space left"), "{reason}");
    assert!(store.publish(&[publication("a", "y".repeat(1000))]).await.remove(0).is_err(), "it stays full");
    assert_eq!(store.history(&topic("a"), 20_000).await.unwrap().len(), published, "reading goes on");

    fs::remove_file(&filler).unwrap();
    let again = async || store.publish(&[publication("a", "after")]).await.remove(0).ok();
    let after = eventually("room", again).await;
    assert_eq!(after.position.offset, published as u64 + 1, "what was refused has not happened");
    assert_eq!(ears.hear(&topic("a"), published + 1).await.len(), published + 1);
    assert!(!ears.has_gap(&topic("a")));
    eventually("the node to hear", async || bus.health().hears.then_some(())).await;
    schema.drop().await;
}
