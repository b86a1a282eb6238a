//! A client of a node, in the node's protocol.

use std::fmt;
use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::PATIENCE;

/// The dialect of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Speech {
    Strait,
    #[value(name = "socketioxide")]
    SocketIo,
}

impl fmt::Display for Speech {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strait => "strait",
            Self::SocketIo => "socketioxide",
        })
    }
}

/// A connection.
pub(crate) struct Client {
    sending: Sending,
    receiving: Receiving,
}

pub(crate) struct Sending {
    speech: Speech,
    sink: SplitSink<WebSocketStream<TcpStream>, Message>,
}

pub(crate) struct Receiving(SplitStream<WebSocketStream<TcpStream>>);

impl Receiving {
    async fn text(&mut self) -> Result<String> {
        loop {
            match self.0.next().await.context("the connection has ended")?? {
                // Engine.IO's ping: the peer waits for its answer for longer than a measurement takes.
                Message::Text(text) if text == "2" => {}
                Message::Text(text) => return Ok(text.to_string()),
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("{other:?} instead of a text"),
            }
        }
    }

    /// Reads all messages, until there are no more.
    pub(crate) async fn drain(mut self) {
        while self.text().await.is_ok() {}
    }
}

impl Sending {
    async fn send(&mut self, text: String) -> Result<()> {
        Ok(self.sink.send(Message::text(text)).await?)
    }

    /// Publishes a number, with padding behind it.
    pub(crate) async fn publish(&mut self, topic: &str, number: u64, size: usize) -> Result<()> {
        let number = number.to_string();
        let rest = size.saturating_sub(number.len() + r#"{"n":,"x":""}"#.len());
        let data = format!(r#"{{"n":{number},"x":"{}"}}"#, "x".repeat(rest));
        self.send(match self.speech {
            Speech::Strait => format!(r#"{{"action":"publish","topic":"{topic}","data":{data}}}"#),
            Speech::SocketIo => format!(r#"42["publish","{topic}",{data}]"#),
        })
        .await
    }
}

impl Client {
    pub(crate) async fn connect(speech: Speech, address: SocketAddrV4) -> Result<Self> {
        let path = match speech {
            Speech::Strait => "/fan",
            Speech::SocketIo => "/socket.io/?EIO=4&transport=websocket",
        };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (socket, _) = client_async(format!("ws://{address}{path}"), stream).await?;
        let (sink, stream) = socket.split();
        let mut client = Self { sending: Sending { speech, sink }, receiving: Receiving(stream) };
        if speech == Speech::SocketIo {
            client.expect("0{").await?;
            client.sending.send("40".to_owned()).await?;
            client.expect("40{").await?;
            client.expect(r#"42["ready""#).await?;
        }
        Ok(client)
    }

    pub(crate) async fn subscribe(&mut self, topic: &str) -> Result<()> {
        let (request, answer) = match self.sending.speech {
            Speech::Strait => (format!(r#"{{"action":"subscribe","topic":"{topic}"}}"#), r#"{"action":"subscribe"}"#),
            Speech::SocketIo => (format!(r#"42["subscribe","{topic}"]"#), r#"42["subscribed""#),
        };
        self.sending.send(request).await?;
        self.expect(answer).await
    }

    /// The number in the next event.
    pub(crate) async fn event(&mut self) -> Result<u64> {
        let text = self.receiving.text().await?;
        let (_, rest) = text.split_once(r#""n":"#).with_context(|| format!("{text} is no event"))?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Ok(rest[..digits].parse()?)
    }

    pub(crate) fn split(self) -> (Sending, Receiving) {
        (self.sending, self.receiving)
    }

    async fn expect(&mut self, beginning: &str) -> Result<()> {
        let text = timeout(PATIENCE, self.receiving.text()).await;
        let text = text.with_context(|| format!("nothing has come instead of {beginning}…"))??;
        anyhow::ensure!(text.starts_with(beginning), "{text} instead of {beginning}…");
        Ok(())
    }
}
