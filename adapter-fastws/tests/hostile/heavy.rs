//! Attacks by ten thousand sockets: `cargo xtask hostile` runs them, and test-all leaves them out.

use crate::kit::{handshake, text};
use crate::siege::{Siege, client, socket};

const MANY: usize = 10_000;

#[tokio::test]
#[ignore = "heavy: cargo xtask hostile"]
async fn ten_thousand_half_open_sockets() {
    let attack = |address, number| async move {
        if let Some(mut client) = socket(address).await {
            // Some clients say nothing, some begin a request.
            let request = handshake("/echo", &[]);
            client.try_send(&request[..number % request.len()]).await;
            client.try_next().await;
        }
    };
    Siege { name: "10,000 connect and do not finish the handshake", attackers: MANY, mib: 64 }.by(attack).await;
}

#[tokio::test]
#[ignore = "heavy: cargo xtask hostile"]
async fn ten_thousand_that_stop_within_a_message() {
    let attack = |address, _| async move {
        if let Some(mut client) = client(address, "/echo").await {
            client.try_send(&text("a message")[..9]).await;
            client.try_next().await;
        }
    };
    Siege { name: "10,000 stop within a message", attackers: MANY, mib: 128 }.by(attack).await;
}
