//! The opening handshake as a server does it (RFC 6455 §4.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use sha1::{Digest, Sha1};
use strait_core::Refusal;

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The handshake headers of a request, read in one pass: each look-up by name would compute a hash.
#[derive(Debug, Default)]
pub(crate) struct Asked<'a> {
    /// `Upgrade: websocket`
    websocket: bool,
    /// `Connection: upgrade`
    upgrade: bool,
    has_body: bool,
    host: Once<'a>,
    version: Once<'a>,
    key: Once<'a>,
}

/// A header that must occur once.
#[derive(Debug, Clone, Copy, Default)]
enum Once<'a> {
    #[default]
    Missing,
    Single(&'a HeaderValue),
    Several,
}

impl<'a> Asked<'a> {
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let mut asked = Self::default();
        for (name, value) in headers {
            if name == header::UPGRADE {
                asked.websocket |= has_token(value, "websocket");
            } else if name == header::CONNECTION {
                asked.upgrade |= has_token(value, "upgrade");
            } else if name == header::HOST {
                asked.host.add(value);
            } else if name == header::SEC_WEBSOCKET_VERSION {
                asked.version.add(value);
            } else if name == header::SEC_WEBSOCKET_KEY {
                asked.key.add(value);
            } else if name == header::CONTENT_LENGTH {
                asked.has_body |= value != "0";
            } else if name == header::TRANSFER_ENCODING {
                asked.has_body = true;
            }
        }
        asked
    }

    /// Whether the request is meant as a handshake, rightly or not.
    pub(crate) fn is_meant(&self) -> bool {
        self.websocket || !matches!(self.key, Once::Missing)
    }

    /// The host that the request names, if it names one.
    pub(crate) fn host(&self) -> Option<&'a str> {
        self.host.get().and_then(|host| host.to_str().ok())
    }

    /// Checks the request; returns `Sec-WebSocket-Accept`.
    pub(crate) fn check(&self, method: &Method, version: Version) -> Result<HeaderValue, Refusal> {
        if !self.websocket || !self.upgrade {
            return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "this takes WebSocket connections only"));
        }
        if method != Method::GET || version != Version::HTTP_11 {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "a WebSocket handshake is a GET request of HTTP/1.1"));
        }
        // RFC 9112 §3.2. Refuse a request in which a proxy could read another host, or a body, than we do.
        if !self.host.get().is_some_and(is_host) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "a request has one Host, a name or an address"));
        }
        if self.has_body {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "a WebSocket handshake has no body"));
        }
        if self.version.get().is_none_or(|version| version != "13") {
            return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "this takes WebSocket version 13"));
        }
        let Some(key) = self.key.get().filter(|key| is_nonce(key)) else {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "the WebSocket key must be 16 bytes in base64"));
        };
        let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
        let mut accept = [0; 28];
        let encoded = STANDARD.encode_slice(digest, &mut accept).is_ok();
        let accept = HeaderValue::from_bytes(&accept).ok().filter(|_| encoded);
        accept.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "the WebSocket key cannot be used"))
    }
}

impl<'a> Once<'a> {
    fn add(&mut self, value: &'a HeaderValue) {
        *self = if matches!(self, Self::Missing) { Self::Single(value) } else { Self::Several };
    }

    fn get(self) -> Option<&'a HeaderValue> {
        match self {
            Self::Single(value) => Some(value),
            Self::Missing | Self::Several => None,
        }
    }
}

/// Whether a name or an address, and a port, could be written so (RFC 3986 §3.2.2).
fn is_host(value: &HeaderValue) -> bool {
    value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.:_~[]%!$&'()*+,;=".contains(byte))
}

/// Whether this is base64 of any 16 bytes. The last digit has two bits.
fn is_nonce(key: &HeaderValue) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    match key.as_bytes() {
        [digits @ .., last, b'=', b'='] => digits.len() == 21 && digits.iter().all(is_digit) && b"AQgw".contains(last),
        _ => false,
    }
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    let is_it = |found: &[u8]| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes());
    value.as_bytes().split(|byte| *byte == b',').any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    const GOOD: [(&str, &str); 5] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("host", "strait.test"),
    ];

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        let accept = Asked::of(&headers(&GOOD)).check(&Method::GET, Version::HTTP_11).expect("a good request");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_nonce_is_what_base64_makes_of_16_bytes() {
        let is_decoded = |key: &HeaderValue| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
        let good = b"dGhlIHNhbXBsZSBub25jZQ==";
        let mut seen = [0; 2];
        for (at, byte) in (0..good.len()).flat_map(|at| (b' '..=b'~').map(move |byte| (at, byte))) {
            let mut key = *good;
            key[at] = byte;
            let key = HeaderValue::from_bytes(&key).expect("visible");
            assert_eq!(is_nonce(&key), is_decoded(&key), "{key:?}");
            seen[usize::from(is_nonce(&key))] += 1;
        }
        // 64 digits in 21 places, four in the last one, and the padding.
        assert_eq!(seen, [95 * 24 - 21 * 64 - 4 - 2, 21 * 64 + 4 + 2]);
        for length in (0..30).filter(|length| *length != 16) {
            let key = HeaderValue::try_from(STANDARD.encode(vec![7; length])).expect("visible");
            assert!(!is_nonce(&key), "{length}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_refused() {
        let refused = |at: usize, value: Option<&'static str>| {
            let mut given: Vec<_> = GOOD.to_vec();
            match value {
                Some(value) => given[at].1 = value,
                None => drop(given.remove(at)),
            }
            Asked::of(&headers(&given)).check(&Method::GET, Version::HTTP_11).expect_err("refused").status.as_u16()
        };
        assert_eq!(refused(0, None), 426);
        assert_eq!(refused(1, Some("h2c")), 426);
        assert_eq!(refused(2, Some("8")), 426);
        assert_eq!(refused(2, None), 426);
        assert_eq!(refused(3, None), 400);
        assert_eq!(refused(3, Some("c2hvcnQ=")), 400);
        assert_eq!(refused(3, Some("not base64")), 400);
        assert_eq!(refused(4, None), 400);
        for host in ["a b", "strait.test/", "user@strait.test", "strait.test#", "a\\b"] {
            assert_eq!(refused(4, Some(host)), 400, "{host}");
        }
        let status = |more: &[(&'static str, &'static str)]| {
            Asked::of(&headers(&[&GOOD, more].concat()))
                .check(&Method::GET, Version::HTTP_11)
                .map_err(|refusal| refusal.status.as_u16())
        };
        assert!(status(&[("content-length", "0")]).is_ok());
        for host in ["strait.test:8080", "[::1]:80", "127.0.0.1", "xn--bcher-kva.example"] {
            let given = GOOD.map(|(name, value)| (name, if name == "host" { host } else { value }));
            assert!(Asked::of(&headers(&given)).check(&Method::GET, Version::HTTP_11).is_ok(), "{host}");
        }
        for more in [("host", "evil.test"), ("content-length", "1"), ("transfer-encoding", "chunked")] {
            assert_eq!(status(&[more]), Err(400), "{more:?}");
        }
        let status =
            |method, version| Asked::of(&headers(&GOOD)).check(&method, version).expect_err("refused").status.as_u16();
        assert_eq!(status(Method::POST, Version::HTTP_11), 400);
        assert_eq!(status(Method::GET, Version::HTTP_10), 400);
    }
}
