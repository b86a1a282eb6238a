//! fastwebsockets, and the broadcast that a beginner writes on it.

use anyhow::Result;
use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{Frame, OpCode, Payload, WebSocketError};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::{JOINED, Room};

pub(super) async fn serve(listener: TcpListener, room: Room) -> Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let room = room.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let room = room.clone();
                async move { accept(request, room) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            // An error is the client's end; the load generator judges it.
            let _ended = connection.with_upgrades().await;
        });
    }
}

fn accept(mut request: Request<Incoming>, room: Room) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, socket) = upgrade(&mut request)?;
    match request.uri().path() {
        "/fan" => drop(tokio::spawn(member(socket, room))),
        "/publish" => drop(tokio::spawn(publisher(socket, room))),
        _ => drop(tokio::spawn(echo(socket))),
    }
    Ok(response)
}

async fn echo(socket: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = socket.await?;
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => {
                // A frame that was read keeps its mask, and a server must send none.
                socket.write_frame(Frame::new(true, frame.opcode, None, frame.payload)).await?;
            }
            OpCode::Continuation | OpCode::Ping | OpCode::Pong => {}
        }
    }
}

async fn publisher(socket: UpgradeFut, room: Room) -> Result<(), WebSocketError> {
    let mut socket = socket.await?;
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text => drop(room.send(Bytes::copy_from_slice(&frame.payload))),
            OpCode::Binary | OpCode::Continuation | OpCode::Ping | OpCode::Pong => {}
        }
    }
}

/// Naive: `read_frame` is dropped while it waits, which may lose bytes that it has read; members here send nothing.
async fn member(socket: UpgradeFut, room: Room) -> Result<(), WebSocketError> {
    let mut socket = socket.await?;
    let mut events = room.subscribe();
    socket.write_frame(Frame::text(Payload::Borrowed(JOINED.as_bytes()))).await?;
    loop {
        tokio::select! {
            event = events.recv() => {
                // A member that lagged behind has lost events: the load generator must see that.
                let Ok(event) = event else { return Ok(()) };
                socket.write_frame(Frame::text(Payload::Borrowed(&event))).await?;
            }
            frame = socket.read_frame() => {
                if frame?.opcode == OpCode::Close {
                    return Ok(());
                }
            }
        }
    }
}
