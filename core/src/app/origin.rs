//! Decides which pages may connect, by the `Origin` of their browser and the `Host` of their request.

use http::{HeaderMap, StatusCode, header};

use super::Refusal;
use crate::endpoint::EndpointInner;
use crate::policy::{Origins, Transport};

pub(super) fn origin_passes(origins: &Origins, headers: &HeaderMap, transport: Transport) -> bool {
    let mut given = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = given.next() else { return true };
    if matches!(origins, Origins::Any) {
        return true;
    }
    let (Ok(origin), None) = (origin.to_str(), given.next()) else { return false };
    if let Origins::Listed(listed) = origins
        && listed.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
    {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    same_host(origin, host.unwrap_or_default(), transport)
}

/// Whether host and port of an origin (RFC 6454 §6.1) are those of a `Host` header, which omits its scheme's default
/// port. By TLS only `https` matches: an attacker with a page at the host's plain port must not act for its users.
fn same_host(origin: &str, host: &str, transport: Transport) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default = match scheme {
        "http" if transport == Transport::Plain => ":80",
        "https" => ":443",
        _ => return false,
    };
    let without = |authority: &str| authority.strip_suffix(default).unwrap_or(authority).to_ascii_lowercase();
    !authority.is_empty() && without(authority) == without(host)
}

/// The refusal of a page. Neither `Origin` nor `Host` is secret.
pub(super) fn other_origin(endpoint: &EndpointInner, headers: &HeaderMap) -> Refusal {
    let given = |name| {
        let all = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        all.collect::<Vec<_>>().join(", ").chars().take(200).collect::<String>()
    };
    let (origin, host) = (given(header::ORIGIN), given(header::HOST));
    let (known, name) = (&endpoint.origins, &endpoint.name);
    let hint = format!(
        "origin {origin:?} is not of host {host:?}, nor in {known:?}; \
         if its pages may connect, list it with `Endpoint::origins` at endpoint {name:?}"
    );
    let refusal = Refusal::new(StatusCode::FORBIDDEN, "pages of this origin may not connect");
    Refusal { hint: Some(hint.into()), ..refusal }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes_by(transport: Transport, origins: &Origins, origin: &str, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, origin.parse().expect("a header"));
        headers.insert(header::HOST, host.parse().expect("a header"));
        origin_passes(origins, &headers, transport)
    }

    fn passes(origins: &Origins, origin: &str, host: &str) -> bool {
        passes_by(Transport::Plain, origins, origin, host)
    }

    #[test]
    fn only_pages_of_the_same_host_and_port_pass() {
        let same = Origins::SameHost;
        assert!(origin_passes(&same, &HeaderMap::new(), Transport::Plain));
        assert!(passes(&same, "http://a.test:8080", "a.test:8080"));
        assert!(passes(&same, "https://a.test", "A.test:443"));
        assert!(passes(&same, "http://[::1]:8080", "[::1]:8080"));
        assert!(!passes(&same, "http://a.test:8081", "a.test:8080"));
        assert!(!passes(&same, "http://a.test.evil.test", "a.test"));
        assert!(!passes(&same, "null", "a.test"));
        assert!(!passes(&same, "file://", ""));
        let listed = Origins::Listed(vec!["https://b.test".to_owned()]);
        assert!(passes(&listed, "https://b.test", "a.test"));
        assert!(passes(&listed, "http://a.test", "a.test"));
        assert!(!passes(&listed, "http://b.test", "a.test"));
        assert!(passes(&Origins::Any, "null", "a.test"));
    }

    #[test]
    fn by_tls_only_https_pages_are_of_the_same_host() {
        let passes = |origins, origin, host| passes_by(Transport::Tls, origins, origin, host);
        let same = Origins::SameHost;
        assert!(origin_passes(&same, &HeaderMap::new(), Transport::Tls));
        assert!(passes(&same, "https://a.test", "a.test"));
        assert!(passes(&same, "https://a.test:8443", "a.test:8443"));
        assert!(!passes(&same, "http://a.test", "a.test"));
        assert!(!passes(&same, "http://a.test:443", "a.test:443"));
        assert!(!passes(&same, "http://a.test:8443", "a.test:8443"));
        let listed = Origins::Listed(vec!["http://b.test".to_owned()]);
        assert!(passes(&listed, "http://b.test", "a.test"), "whoever lists it wants it");
        assert!(!passes(&listed, "http://a.test", "a.test"));
        assert!(passes(&Origins::Any, "http://a.test", "a.test"));
    }
}
