//! A WebSocket client that says and hears what it is told, over a blocking socket.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) struct Client {
    reader: BufReader<TcpStream>,
    stream: TcpStream,
}

impl Client {
    /// Opens a connection; a refusal is told with the head of its answer.
    pub(crate) fn open(address: SocketAddr, path: &str) -> Result<Self, String> {
        let told = |error: io::Error| error.to_string();
        let mut stream = TcpStream::connect(address).map_err(told)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(told)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).map_err(told)?;
        let mut reader = BufReader::new(stream.try_clone().map_err(told)?);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            reader.read_exact(&mut byte).map_err(told)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.starts_with("HTTP/1.1 101 ") { Ok(Self { reader, stream }) } else { Err(head) }
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.write(0x81, text.as_bytes()).expect("the server reads");
    }

    /// Writes one masked frame (RFC 6455 §5.2) with a mask of zeros.
    fn write(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![first];
        match u16::try_from(payload.len()) {
            Ok(short) if short < 126 => frame.push(0x80 | short as u8),
            Ok(medium) => {
                frame.push(0x80 | 126);
                frame.extend(medium.to_be_bytes());
            }
            Err(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.stream.write_all(&frame)
    }

    /// The next message's opcode and payload; `None` at the end.
    pub(crate) fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 2];
            self.reader.read_exact(&mut head).ok()?;
            let length = match head[1] {
                126 => {
                    let mut length = [0; 2];
                    self.reader.read_exact(&mut length).ok()?;
                    u64::from(u16::from_be_bytes(length))
                }
                127 => {
                    let mut length = [0; 8];
                    self.reader.read_exact(&mut length).ok()?;
                    u64::from_be_bytes(length)
                }
                short => short.into(),
            };
            let mut payload = vec![0; usize::try_from(length).ok()?];
            self.reader.read_exact(&mut payload).ok()?;
            match head[0] & 0x0f {
                9 | 10 => {}
                opcode => return Some((opcode, payload)),
            }
        }
    }
}
