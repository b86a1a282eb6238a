//! tokio-tungstenite.

use anyhow::Result;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::{JOINED, Room};

type Socket = WebSocketStream<TcpStream>;

pub(super) async fn serve(listener: TcpListener, room: Room) -> Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(talk(socket, room.clone()));
    }
}

#[expect(clippy::result_large_err, reason = "the type of the callback is tokio-tungstenite's")]
async fn talk(socket: TcpStream, room: Room) -> Result<(), Error> {
    let mut path = String::new();
    let socket = accept_hdr_async(socket, |request: &Request, response: Response| {
        request.uri().path().clone_into(&mut path);
        Ok(response)
    })
    .await?;
    match path.as_str() {
        "/fan" => member(socket, room).await,
        "/publish" => publisher(socket, room).await,
        _ => echo(socket).await,
    }
}

async fn echo(mut socket: Socket) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn publisher(mut socket: Socket, room: Room) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            let _members = room.send(Bytes::from(text));
        }
    }
    Ok(())
}

async fn member(mut socket: Socket, room: Room) -> Result<(), Error> {
    let mut events = room.subscribe();
    socket.send(JOINED.into()).await?;
    loop {
        tokio::select! {
            event = events.recv() => {
                let Ok(event) = event else { return Ok(()) };
                socket.send(Message::Text(Utf8Bytes::try_from(event)?)).await?;
            }
            message = socket.next() => {
                if message.transpose()?.is_none() {
                    return Ok(());
                }
            }
        }
    }
}
