//! socketioxide: its own framing over the WebSocket transport, rooms for fan-out.

use ::axum::Router;
use ::axum::serve::ListenerExt;
use anyhow::Result;
use serde_json::Value;
use socketioxide::SocketIo;
use socketioxide::extract::{Data, SocketRef};
use tokio::net::TcpListener;

pub(super) async fn serve(listener: TcpListener) -> Result<()> {
    let (layer, io) = SocketIo::new_layer();
    io.ns("/", async |socket: SocketRef| {
        // The load generator misses an event that cannot be sent, and reports it.
        socket.on("echo", async |socket: SocketRef, Data::<Value>(data)| {
            let _sent = socket.emit("echo", &data);
        });
        socket.on("subscribe", async |socket: SocketRef| {
            socket.join("bench");
            let _sent = socket.emit("subscribed", &());
        });
        socket.on("publish", async |socket: SocketRef, Data::<Value>(data)| {
            let _sent = socket.to("bench").emit("event", &data).await;
        });
    });
    let listener = listener.tap_io(|socket| {
        socket.set_nodelay(true).expect("a socket just accepted takes options");
    });
    Ok(::axum::serve(listener, Router::new().layer(layer)).await?)
}
