use std::io::ErrorKind;

use bytes::{Buf, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// The example of a key and its answer in RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A client that sends any bytes, right or wrong.
pub(crate) struct Client<S> {
    pub(crate) socket: S,
    received: BytesMut,
}

pub(crate) type TcpClient = Client<TcpStream>;

/// A message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    /// Code and reason; code 0 if there is none.
    Close(u16, String),
    /// The socket has ended.
    End,
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    }
}

/// A handshake request. The given headers replace the usual ones; an empty value takes a header out.
pub(crate) fn handshake(path: &str, headers: &[(&str, &str)]) -> String {
    let usual = [
        ("host", "strait.test"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    let kept = usual.iter().filter(|(name, _)| !headers.iter().any(|(other, _)| other == name));
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    for (name, value) in kept.chain(headers.iter().filter(|(_, value)| !value.is_empty())) {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request + "\r\n"
}

/// The header of a masked frame; the mask is zero, so that the payload follows as it is.
pub(crate) fn header(first: u8, length: usize) -> Vec<u8> {
    let mut header = vec![first];
    match length {
        0..=125 => header.push(0x80 | length as u8),
        126..=0xffff => {
            header.push(0x80 | 126);
            header.extend((length as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend((length as u64).to_be_bytes());
        }
    }
    header.extend([0; 4]);
    header
}

/// A frame with this first byte: the opcode, and 0x80 if it is the last of its message.
pub(crate) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut frame = header(first, payload.len());
    frame.extend(payload);
    frame
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    frame(0x80 | TEXT, text)
}

pub(crate) fn binary(bytes: &[u8]) -> Vec<u8> {
    frame(0x80 | BINARY, bytes)
}

pub(crate) fn ping(payload: &[u8]) -> Vec<u8> {
    frame(0x80 | PING, payload)
}

pub(crate) fn pong() -> Vec<u8> {
    frame(0x80 | PONG, [])
}

pub(crate) fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(0x80 | CLOSE, [&code.to_be_bytes(), reason.as_bytes()].concat())
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, received: BytesMut::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = async {
            self.socket.write_all(bytes.as_ref()).await?;
            self.socket.flush().await
        };
        within(sent).await.expect("the server takes it");
    }

    /// Sends bytes that the server may no longer take.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = async {
            self.socket.write_all(bytes.as_ref()).await?;
            self.socket.flush().await
        };
        within(sent).await.is_ok()
    }

    pub(crate) async fn text(&mut self, message: &str) {
        self.send(text(message)).await;
    }

    /// Upgrades the connection.
    pub(crate) async fn open(&mut self, path: &str) {
        self.send(handshake(path, &[])).await;
        self.is_let_in().await;
    }

    pub(crate) async fn is_let_in(&mut self) {
        let answer = self.answer().await;
        assert_eq!(answer.status, 101, "{}", answer.body);
        assert_eq!(answer.header("sec-websocket-accept"), Some(&*ACCEPT.to_ascii_lowercase()));
    }

    /// Reads more; `false` at any end of the socket.
    async fn read(&mut self) -> bool {
        match within(self.socket.read_buf(&mut self.received)).await {
            Ok(read) => read > 0,
            Err(error) => {
                let ends = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::ConnectionAborted];
                assert!(ends.contains(&error.kind()) || error.kind() == ErrorKind::UnexpectedEof, "{error}");
                false
            }
        }
    }

    /// The answer to an HTTP request.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("there is an answer")
    }

    async fn try_head(&mut self) -> Option<String> {
        let end = loop {
            match self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if !self.read().await => return None,
                None => {}
            }
        };
        Some(String::from_utf8(self.received.split_to(end).to_vec()).expect("a head is text"))
    }

    /// The head of an answer without a body, in lower case.
    pub(crate) async fn head(&mut self) -> String {
        self.try_head().await.expect("there is an answer").to_ascii_lowercase()
    }

    /// The answer to an HTTP request; `None` if the socket ends without one.
    pub(crate) async fn try_answer(&mut self) -> Option<Answer> {
        let head = self.try_head().await?;
        assert!(head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 "), "{head}");
        let status = head[9..12].parse().expect("a status is a number");
        let mut answer = Answer { status, head: head.to_ascii_lowercase(), body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().expect("a number"));
        while self.received.len() < length {
            assert!(self.read().await, "the body is cut off");
        }
        answer.body = String::from_utf8(self.received.split_to(length).to_vec()).expect("a body is text");
        Some(answer)
    }

    /// The next frame, pings from the server among them.
    pub(crate) async fn next_of_all(&mut self) -> Got {
        loop {
            if let Some(got) = self.parse() {
                return got;
            }
            if !self.read().await {
                assert!(self.received.is_empty(), "the socket ends inside of a frame");
                return Got::End;
            }
        }
    }

    /// The next frame; `None` if the socket ends, inside of a frame perhaps.
    pub(crate) async fn try_next(&mut self) -> Option<Got> {
        loop {
            if let Some(got) = self.parse() {
                return Some(got);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The next frame that is no ping.
    pub(crate) async fn next(&mut self) -> Got {
        loop {
            match self.next_of_all().await {
                Got::Ping => {}
                other => return other,
            }
        }
    }

    fn parse(&mut self) -> Option<Got> {
        let bytes = &self.received;
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        assert_eq!(second & 0x80, 0, "a server's frame is not masked");
        let (start, length) = match second {
            126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().expect("two bytes")))),
            127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().expect("eight bytes"))),
            short => (2, u64::from(short)),
        };
        let length = usize::try_from(length).expect("it fits");
        bytes.get(start..start + length)?;
        self.received.advance(start);
        let payload = self.received.split_to(length).to_vec();
        assert_eq!(first & 0xf0, 0x80, "a server sends whole frames without extensions");
        Some(match first & 0x0f {
            TEXT => Got::Text(String::from_utf8(payload).expect("text is UTF-8")),
            BINARY => Got::Binary(payload),
            PING => Got::Ping,
            PONG => Got::Pong(payload),
            CLOSE => match payload.split_first_chunk() {
                Some((code, reason)) => {
                    let reason = String::from_utf8(reason.to_vec()).expect("a reason is UTF-8");
                    Got::Close(u16::from_be_bytes(*code), reason)
                }
                None => Got::Close(0, String::new()),
            },
            CONTINUATION => panic!("a server does not fragment"),
            other => panic!("there is no opcode {other}"),
        })
    }

    pub(crate) async fn expect(&mut self, expected: &str) {
        assert_eq!(self.next().await, Got::Text(expected.to_owned()));
    }

    /// The next message, as JSON.
    pub(crate) async fn json(&mut self) -> Value {
        match self.next().await {
            Got::Text(text) => serde_json::from_str(&text).expect("it is JSON"),
            other => panic!("this is no text: {other:?}"),
        }
    }

    /// The code of the error that comes next.
    pub(crate) async fn error(&mut self) -> String {
        let answer = self.json().await;
        answer["error"]["code"].as_str().unwrap_or_else(|| panic!("this is no error: {answer}")).to_owned()
    }

    /// Reads until the close frame; tells its code and reason.
    pub(crate) async fn is_closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Got::Close(code, reason) => return (code, reason),
                Got::End => panic!("the socket ends without a close frame"),
                _ => {}
            }
        }
    }

    /// The close frame comes next, with this code; it is answered, and then the socket ends.
    pub(crate) async fn closes(mut self, code: u16) -> String {
        match self.next().await {
            Got::Close(found, reason) => {
                assert_eq!(found, code, "{reason}");
                self.try_send(close(code, "")).await;
                assert_eq!(self.next().await, Got::End);
                reason
            }
            other => panic!("instead of close {code} there is {other:?}"),
        }
    }

    /// Says goodbye, and waits for the answer.
    pub(crate) async fn leave(mut self) {
        self.send(close(1000, "")).await;
        assert_eq!(self.is_closed().await.0, 1000);
        assert_eq!(self.next().await, Got::End);
    }
}

impl TcpClient {
    /// Cuts the connection: the server's kernel is sent a reset.
    pub(crate) fn reset(self) {
        self.socket.set_zero_linger().expect("the socket can be set");
    }
}
