//! Checks signatures (AWS Signature Version 4), written apart from the code that makes them.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::time::amz;

/// The difference allowed between the clocks, in five-minute steps as AWS allows.
const SKEW: u64 = 300;
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], data: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Whether a request is signed for a service with the secret.
pub(super) fn check(request: &Request<Bytes>, service: &str, secret: &str) -> Result<(), &'static str> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let authorization = header("authorization").ok_or("Missing Authentication Token")?;
    let rest = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("the algorithm is not known")?;
    let part = |name: &str| rest.split(", ").find_map(|part| part.strip_prefix(name));
    let (credential, signed, signature) = (
        part("Credential=").ok_or("Credential is missing")?,
        part("SignedHeaders=").ok_or("SignedHeaders is missing")?,
        part("Signature=").ok_or("Signature is missing")?,
    );
    let (_, scope) = credential.split_once('/').ok_or("the credential has no scope")?;
    let [day, region, of_service, "aws4_request"] = scope.split('/').collect::<Vec<_>>()[..] else {
        return Err("the credential's scope cannot be read");
    };
    if of_service != service {
        return Err("the credential is scoped to another service");
    }
    let date = header("x-amz-date").ok_or("x-amz-date is missing")?;
    let now = SystemTime::now();
    let (earliest, latest) = (amz(now - Duration::from_secs(SKEW)), amz(now + Duration::from_secs(SKEW)));
    if date < earliest.as_str() || date > latest.as_str() || !date.starts_with(day) {
        return Err("the signature has expired, or is not yet valid");
    }
    if !signed.split(';').any(|name| name == "host") {
        return Err("the host must be signed");
    }
    let mut headers = String::new();
    for name in signed.split(';') {
        let value = header(name).ok_or("a signed header is missing")?;
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        headers.push_str(&format!("{name}:{value}\n"));
    }
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{signed}\n{}",
        request.method(),
        utf8_percent_encode(request.uri().path(), PATH),
        query(request.uri().query().unwrap_or_default()),
        hex(&Sha256::digest(request.body())),
    );
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let key = [day, region, service, "aws4_request"]
        .iter()
        .fold(format!("AWS4{secret}").into_bytes(), |key, data| hmac(&key, data));
    if hex(&hmac(&key, &to_sign)) == signature {
        Ok(())
    } else {
        Err("The request signature we calculated does not match the signature you provided")
    }
}

fn query(query: &str) -> String {
    let encode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8_lossy().into_owned();
        utf8_percent_encode(&text, UNRESERVED).to_string()
    };
    let fields = query.split('&').filter(|field| !field.is_empty());
    let mut fields: Vec<(String, String)> =
        fields.map(|field| field.split_once('=').unwrap_or((field, ""))).map(|(n, v)| (encode(n), encode(v))).collect();
    fields.sort();
    fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;

    use super::*;
    use crate::gateway::sign_request;

    fn signed(uri: &str, body: &'static str, now: SystemTime) -> Request<Bytes> {
        let credentials = Credentials::new("id", "secret", None, None, "test");
        let mut request = Request::post(uri).body(Bytes::from_static(body.as_bytes())).expect("a request");
        sign_request(&mut request, &credentials, "us-east-1", "execute-api", now).expect("it is signed");
        let host = request.uri().authority().expect("a host").to_string();
        request.headers_mut().insert("host", host.parse().expect("a header"));
        request
    }

    #[test]
    fn what_the_client_signs_passes_and_nothing_else() {
        let now = SystemTime::now();
        for uri in ["http://h.example/prod/@connections/JBDvjfGEIAMCERw%3D", "http://h.example:81/a%20b?z=1&a=%2F"] {
            assert_eq!(check(&signed(uri, "hello", now), "execute-api", "secret"), Ok(()), "{uri}");
            assert!(check(&signed(uri, "hello", now), "execute-api", "other").is_err());
            assert!(check(&signed(uri, "hello", now), "lambda", "secret").is_err());
            assert!(check(&signed(uri, "hello", now - Duration::from_secs(900)), "execute-api", "secret").is_err());
            let mut changed = signed(uri, "hello", now);
            *changed.body_mut() = Bytes::from_static(b"hallo");
            assert!(check(&changed, "execute-api", "secret").is_err());
        }
        let unsigned = Request::post("http://h.example/").body(Bytes::new()).expect("a request");
        assert!(check(&unsigned, "execute-api", "secret").is_err());
    }
}
