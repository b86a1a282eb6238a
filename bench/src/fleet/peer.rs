//! socketioxide on its Redis adapter, as in its own example; the client names the rooms.

use std::net::Ipv4Addr;
use std::time::Duration;

use ::axum::Router;
use ::axum::serve::ListenerExt;
use anyhow::Result;
use clap::Args;
use serde_json::Value;
use socketioxide::SocketIo;
use socketioxide::adapter::Adapter;
use socketioxide::extract::{Data, SocketRef};
use socketioxide_redis::{RedisAdapter, RedisAdapterCtr};
use tokio::net::TcpListener;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Listen here, on loopback
    #[arg(long)]
    port: u16,
    /// The Redis that the nodes share
    #[arg(long)]
    redis: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options.port, &options.redis))
}

async fn serve(port: u16, redis: &str) -> Result<()> {
    let client = redis::Client::open(format!("{redis}?protocol=resp3"))?;
    let adapter = RedisAdapterCtr::new_with_redis(&client).await?;
    let (layer, io) = SocketIo::builder()
        .ping_timeout(Duration::from_secs(600))
        .with_adapter::<RedisAdapter<_>>(adapter)
        .build_layer();
    io.ns("/", connect).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?.tap_io(|socket| {
        socket.set_nodelay(true).expect("a socket just accepted takes options");
    });
    Ok(::axum::serve(listener, Router::new().layer(layer)).await?)
}

async fn connect<A: Adapter>(socket: SocketRef<A>) {
    socket.on("subscribe", subscribe);
    socket.on("publish", publish);
    // Messages of a client are dropped before the handlers are there, and this runs beside the answer to its connect.
    let _sent = socket.emit("ready", &());
}

async fn subscribe<A: Adapter>(socket: SocketRef<A>, Data(topic): Data<String>) {
    socket.join(topic);
    let _sent = socket.emit("subscribed", &());
}

/// The load generator misses an event that cannot be sent, and reports it.
async fn publish<A: Adapter>(socket: SocketRef<A>, Data((topic, data)): Data<(String, Value)>) {
    let _sent = socket.to(topic).emit("event", &data).await;
}
