//! The hosts that requests may name.

use std::sync::Arc;

use http::{StatusCode, Uri};
use strait_core::Refusal;

/// Hosts that a request may name; by default any. Clones share the list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts(Option<Arc<[String]>>);

impl Hosts {
    pub(crate) fn listed<S: Into<String>>(hosts: impl IntoIterator<Item = S>) -> Self {
        Self(Some(hosts.into_iter().map(Into::into).collect()))
    }

    /// Checks the host of a request.
    ///
    /// # Errors
    /// 421 for one that is not listed.
    pub(crate) fn check(&self, host: Option<&str>) -> Result<(), Refusal> {
        let Some(listed) = &self.0 else { return Ok(()) };
        let host = host.unwrap_or_default();
        // A listed host without a port stands for all ports.
        let ported = host.rsplit_once(':').filter(|(name, port)| {
            (name.ends_with(']') || !name.contains(':')) && port.bytes().all(|byte| byte.is_ascii_digit())
        });
        let name = ported.map_or(host, |(name, _)| name);
        if listed.iter().any(|listed| listed.eq_ignore_ascii_case(host) || listed.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        let hint =
            format!("host {:?} is not in the server's list of hosts", host.chars().take(200).collect::<String>());
        let refusal = Refusal::new(StatusCode::MISDIRECTED_REQUEST, "this server does not answer for this host");
        Err(Refusal { hint: Some(hint.into()), ..refusal })
    }
}

/// Checks that a target in absolute form names the same host as the header (RFC 9112 §3.2.2). A proxy may have checked
/// only one of them.
///
/// # Errors
/// 400 if it does not.
pub(crate) fn check_target(target: &Uri, host: Option<&str>) -> Result<(), Refusal> {
    let Some(authority) = target.authority() else { return Ok(()) };
    let default = match target.scheme_str() {
        Some("https") => ":443",
        _ => ":80",
    };
    let without = |host: &str| host.strip_suffix(default).unwrap_or(host).to_ascii_lowercase();
    if host.is_some_and(|host| without(host) == without(authority.as_str())) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, "the target and Host name different hosts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_host_passes_with_any_port_unless_it_has_one() {
        let passes = |hosts: &[&str], host| Hosts::listed(hosts.iter().copied()).check(host).is_ok();
        assert!(Hosts::default().check(None).is_ok());
        assert!(passes(&["a.test"], Some("A.test")));
        assert!(passes(&["a.test"], Some("a.test:8080")));
        assert!(passes(&["a.test:8080"], Some("a.test:8080")));
        assert!(passes(&["[::1]"], Some("[::1]:8080")));
        assert!(passes(&["[::1]"], Some("[::1]")));
        for other in
            [None, Some(""), Some("a.test"), Some("a.test:80"), Some("evil.test:8080"), Some("a.test:8080:8080")]
        {
            assert!(!passes(&["a.test:8080"], other), "{other:?}");
        }
        assert!(!passes(&["a.test"], Some("a.test.evil.test")));
        assert!(!passes(&[], Some("a.test")));
    }

    #[test]
    fn a_target_is_of_the_host_that_the_header_names() {
        let agree = |target: &str, host| check_target(&target.parse().expect("a target"), host).is_ok();
        assert!(agree("/a", None));
        assert!(agree("http://a.test/a", Some("A.test:80")));
        assert!(agree("https://a.test:443/a", Some("a.test")));
        assert!(agree("ws://a.test:8080/a", Some("a.test:8080")));
        for (target, host) in [
            ("http://b.test/a", Some("a.test")),
            ("http://a.test:8080/a", Some("a.test")),
            ("http://user@a.test/a", Some("a.test")),
            ("http://a.test/a", None),
        ] {
            assert!(!agree(target, host), "{target}");
        }
    }
}
