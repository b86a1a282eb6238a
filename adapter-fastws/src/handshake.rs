//! The opening handshake as a server does it (RFC 6455 §4.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use sha1::{Digest, Sha1};
use strait_core::Refusal;

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request is meant as a handshake, rightly or not.
pub(crate) fn is_meant(headers: &HeaderMap) -> bool {
    asks_for_upgrade(headers) || headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "websocket")
}

/// Checks the request and tells `Sec-WebSocket-Accept`.
pub(crate) fn check(method: &Method, version: Version, headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    if !asks_for_upgrade(headers) || !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "this takes WebSocket connections only"));
    }
    if method != Method::GET || version != Version::HTTP_11 {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "a WebSocket handshake is a GET request of HTTP/1.1"));
    }
    // RFC 9112 §3.2. Where a proxy and we could read two hosts, or a body, differently, neither is taken.
    if !single(headers, header::HOST).is_some_and(is_host) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "a request has one Host"));
    }
    let length = headers.get_all(header::CONTENT_LENGTH).iter();
    if headers.contains_key(header::TRANSFER_ENCODING) || length.into_iter().any(|length| length != "0") {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "a WebSocket handshake has no body"));
    }
    if single(headers, header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "this takes WebSocket version 13"));
    }
    let key = single(headers, header::SEC_WEBSOCKET_KEY);
    let valid = |key: &HeaderValue| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
    let Some(key) = key.filter(|key| valid(key)) else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the WebSocket key must be 16 bytes in base64"));
    };
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let accept = STANDARD.encode(digest);
    HeaderValue::try_from(accept).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the WebSocket key cannot be used"))
}

/// A header that must stand once.
fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether a name or an address, and a port, could be written so (RFC 3986 §3.2.2).
fn is_host(value: &HeaderValue) -> bool {
    value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.:_~[]%!$&'()*+,;=".contains(byte))
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let is_it = |found: &[u8]| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes());
    headers.get_all(name).iter().any(|value| value.as_bytes().split(|byte| *byte == b',').any(is_it))
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
        let accept = check(&Method::GET, Version::HTTP_11, &headers(&GOOD)).expect("a good request");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_missing_or_wrong_is_refused() {
        let refused = |at: usize, value: Option<&'static str>| {
            let mut given: Vec<_> = GOOD.to_vec();
            match value {
                Some(value) => given[at].1 = value,
                None => drop(given.remove(at)),
            }
            check(&Method::GET, Version::HTTP_11, &headers(&given)).expect_err("refused").status.as_u16()
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
            check(&Method::GET, Version::HTTP_11, &headers(&[&GOOD, more].concat()))
                .map_err(|refusal| refusal.status.as_u16())
        };
        assert!(status(&[("content-length", "0")]).is_ok());
        for host in ["strait.test:8080", "[::1]:80", "127.0.0.1", "xn--bcher-kva.example"] {
            let given = GOOD.map(|(name, value)| (name, if name == "host" { host } else { value }));
            assert!(check(&Method::GET, Version::HTTP_11, &headers(&given)).is_ok(), "{host}");
        }
        for more in [("host", "evil.test"), ("content-length", "1"), ("transfer-encoding", "chunked")] {
            assert_eq!(status(&[more]), Err(400), "{more:?}");
        }
        let status = |method, version| check(&method, version, &headers(&GOOD)).expect_err("refused").status.as_u16();
        assert_eq!(status(Method::POST, Version::HTTP_11), 400);
        assert_eq!(status(Method::GET, Version::HTTP_10), 400);
    }
}
