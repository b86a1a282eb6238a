//! One connection under load: the bytes that may be sent and the bytes that must come back, compared one by one.

use std::os::fd::OwnedFd;

use anyhow::{Result, bail, ensure};

use super::socket;
use crate::wire::{self, Ring};

/// A connection that sends one ring and receives another.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    sent: u64,
    allowed: u64,
    received: u64,
    /// The beginning of a frame that is not of the ring.
    partial: Vec<u8>,
    /// Pongs that wait for the end of the frame being written.
    control: Vec<u8>,
}

impl Stream {
    /// Takes over an open connection.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, sent: 0, allowed: 0, received: 0, partial: Vec::new(), control: Vec::new() }
    }

    /// The socket to wait for.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whole frames received.
    pub(crate) fn frames(&self, expected: &Ring) -> u64 {
        self.received / expected.frame()
    }

    /// Permits `frames` more frames to be sent.
    pub(crate) fn allow(&mut self, frames: u64, ring: &Ring) {
        self.allowed += frames * ring.frame();
    }

    /// Writes as much as is allowed and as the socket takes.
    pub(crate) fn flush(&mut self, ring: &Ring) -> Result<()> {
        loop {
            if !self.control.is_empty() && self.sent.is_multiple_of(ring.frame()) {
                let count = socket::write(&self.socket, &self.control)?;
                self.control.drain(..count);
                if !self.control.is_empty() {
                    return Ok(());
                }
            }
            if self.sent == self.allowed {
                return Ok(());
            }
            let left = usize::try_from(self.allowed - self.sent)?;
            let bytes = ring.at(self.sent, left);
            let count = socket::write(&self.socket, bytes)?;
            self.sent += count as u64;
            if count < bytes.len() {
                return Ok(());
            }
        }
    }

    /// Reads the bytes that are there and compares them with `expected`.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], expected: &Ring) -> Result<()> {
        while let Some(count) = socket::read(&self.socket, buffer)? {
            if self.partial.is_empty() {
                self.compare(&buffer[..count], expected)?;
            } else {
                self.partial.extend_from_slice(&buffer[..count]);
                let bytes = std::mem::take(&mut self.partial);
                self.compare(&bytes, expected)?;
            }
            // A short read has emptied the socket (epoll(7)), which saves a system call.
            if count < buffer.len() {
                break;
            }
        }
        Ok(())
    }

    /// Reads answers that all begin with `start`; the rest of an answer may be anything.
    pub(crate) fn receive_answers(&mut self, buffer: &mut [u8], start: Option<&str>) -> Result<()> {
        while let Some(count) = socket::read(&self.socket, buffer)? {
            self.partial.extend_from_slice(&buffer[..count]);
            let mut used = 0;
            while let Some(frame) = wire::parse(&self.partial[used..])? {
                let answer = frame.opcode == wire::TEXT
                    && start.is_some_and(|start| frame.payload.starts_with(start.as_bytes()))
                    && !frame.payload.windows(8).any(|eight| eight == br#""error":"#);
                if !answer {
                    answer_control(&frame, &mut self.control)?;
                }
                used += frame.len;
            }
            self.partial.drain(..used);
        }
        Ok(())
    }

    fn compare(&mut self, mut bytes: &[u8], expected: &Ring) -> Result<()> {
        while !bytes.is_empty() {
            let wanted = expected.at(self.received, bytes.len());
            if bytes.starts_with(wanted) {
                self.received += wanted.len() as u64;
                bytes = &bytes[wanted.len()..];
                continue;
            }
            let same = bytes.iter().zip(wanted).take_while(|(a, b)| a == b).count() as u64;
            let boundary = (self.received + same) / expected.frame() * expected.frame();
            ensure!(boundary >= self.received, "an answer differs from what was sent: {}", bytes.escape_ascii());
            bytes = &bytes[usize::try_from(boundary - self.received)?..];
            self.received = boundary;
            let Some(frame) = wire::parse(bytes)? else {
                self.partial = bytes.to_vec();
                return Ok(());
            };
            answer_control(&frame, &mut self.control)?;
            bytes = &bytes[frame.len..];
        }
        Ok(())
    }
}

/// Answers a ping; anything else has no business here.
fn answer_control(frame: &wire::Frame<'_>, control: &mut Vec<u8>) -> Result<()> {
    let Some(pong) = wire::pong(frame) else {
        bail!("the server sent what was not asked for: opcode {}, {}", frame.opcode, frame.payload.escape_ascii());
    };
    control.extend(pong);
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::dialect::Dialect;
    use crate::wire::TEXT;

    fn stream() -> (Stream, OwnedFd) {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        (Stream::new(ours), theirs)
    }

    fn receive(chunks: &[&[u8]]) -> Result<Stream> {
        let (_, answers) = Dialect::Bare.echo(32)?;
        let (mut stream, theirs) = stream();
        let mut buffer = [0; 256];
        for chunk in chunks {
            socket::write(&theirs, chunk)?;
            stream.receive(&mut buffer, &answers)?;
        }
        Ok(stream)
    }

    #[test]
    fn replies_count_in_any_chunking() {
        let (_, answers) = Dialect::Bare.echo(32).unwrap();
        let bytes = answers.at(0, 3 * 34).to_vec();
        for cut in 1..bytes.len() {
            let stream = receive(&[&bytes[..cut], &bytes[cut..]]).unwrap();
            assert_eq!(stream.frames(&answers), 3);
        }
    }

    #[test]
    fn a_ping_between_replies_is_answered() {
        let (_, answers) = Dialect::Bare.echo(32).unwrap();
        let one = answers.at(0, 34);
        let two = answers.at(34, 34);
        let ping = wire::server_frame(wire::PING, b"hi");
        let whole = [one, &ping, two].concat();
        for cut in 1..whole.len() {
            let stream = receive(&[&whole[..cut], &whole[cut..]]).unwrap();
            assert_eq!(stream.frames(&answers), 2);
            assert_eq!(stream.control, wire::client_frame(wire::PONG, b"hi", 3));
        }
    }

    #[test]
    fn a_wrong_reply_and_a_close_are_errors() {
        let (_, answers) = Dialect::Bare.echo(32).unwrap();
        let mut wrong = answers.at(0, 34).to_vec();
        wrong[20] ^= 1;
        receive(&[&wrong]).unwrap_err();
        receive(&[answers.at(34, 34)]).unwrap_err();
        receive(&[&wire::server_frame(wire::CLOSE, &1000_u16.to_be_bytes())]).unwrap_err();
    }

    #[test]
    fn a_publishers_answers_must_begin_right_and_hold_no_error() {
        let answer = |text: &str| {
            let (mut stream, theirs) = stream();
            socket::write(&theirs, &wire::server_frame(TEXT, text.as_bytes()))?;
            stream.receive_answers(&mut [0; 7], Some(r#"{"action":"publish""#))
        };
        answer(r#"{"action":"publish"}"#).unwrap();
        answer(r#"{"action":"publish","offset":7}"#).unwrap();
        answer(r#"{"action":"publish","error":{"code":"rate_limited"}}"#).unwrap_err();
        answer(r#"{"gap":{}}"#).unwrap_err();
    }
}
