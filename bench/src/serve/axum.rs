//! axum's WebSockets.

use ::axum::Router;
use ::axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use ::axum::response::Response;
use ::axum::routing::any;
use ::axum::serve::ListenerExt;
use anyhow::Result;
use bytes::Bytes;
use tokio::net::TcpListener;

use super::{JOINED, Room};

pub(super) async fn serve(listener: TcpListener, room: Room, buffers: Option<usize>) -> Result<()> {
    let sized = move |upgrade: WebSocketUpgrade| match buffers {
        Some(size) => upgrade.read_buffer_size(size).write_buffer_size(size),
        None => upgrade,
    };
    let (members, publishers) = (room.clone(), room);
    let router = Router::new()
        .route("/echo", any(async move |upgrade| -> Response { sized(upgrade).on_upgrade(echo) }))
        .route(
            "/fan",
            any(async move |upgrade| -> Response { sized(upgrade).on_upgrade(|socket| member(socket, members)) }),
        )
        .route(
            "/publish",
            any(async move |upgrade| -> Response { sized(upgrade).on_upgrade(|socket| publisher(socket, publishers)) }),
        );
    let listener = listener.tap_io(|socket| {
        socket.set_nodelay(true).expect("a socket just accepted takes options");
    });
    Ok(::axum::serve(listener, router).await?)
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn publisher(mut socket: WebSocket, room: Room) {
    while let Some(Ok(message)) = socket.recv().await {
        if let Message::Text(text) = message {
            let _members = room.send(Bytes::from(text));
        }
    }
}

async fn member(mut socket: WebSocket, room: Room) {
    let mut events = room.subscribe();
    let mut sent = socket.send(JOINED.into()).await;
    while sent.is_ok() {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event.ok().and_then(|event| Utf8Bytes::try_from(event).ok()) else { return };
                sent = socket.send(Message::Text(event)).await;
            }
            message = socket.recv() => {
                if !matches!(message, Some(Ok(_))) {
                    return;
                }
            }
        }
    }
}
