use std::any::Any;
use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Longer texts are shared with a store in the same process. Shorter ones are copied: an `Arc` header would cost as
/// much.
const SHARED_ABOVE: usize = 64;

/// Names of path parameters are encoded, so that they contain no delimiter.
const NAMES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_');

/// The client's request when it connected: path and query. It is kept with the channel, so secrets do not belong into a
/// query.
pub struct OpeningData {
    /// `{bytes of the path}&{parameter}={first}-{end}?{path}{query}`: each path parameter's place in the path, then
    /// path and query unchanged. Memory and stores keep only this.
    text: Text,
    pub(super) typed: Option<Arc<dyn Any + Send + Sync>>,
}

/// Two words, like a plain `Box<str>`.
enum Text {
    Own(Box<str>),
    /// UTF-8.
    Shared(Box<Bytes>),
}

impl Text {
    fn as_str(&self) -> &str {
        match self {
            Self::Own(text) => text,
            Self::Shared(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        }
    }
}

/// The parts of the text of an [`OpeningData`].
struct Parts<'a> {
    path: &'a str,
    query: &'a str,
    params: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (head, rest) = text.split_once('?')?;
        let (length, params) = head.split_once('&').unwrap_or((head, ""));
        let (path, query) = rest.split_at_checked(length.parse().ok()?)?;
        Some(Self { path, query, params })
    }

    /// Names and values of the path parameters, decoded.
    fn params(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        let path = self.path;
        self.params.split('&').filter_map(move |param| {
            let (name, (first, end)) =
                param.split_once('=').and_then(|(name, at)| Some((name, at.split_once('-')?)))?;
            let value = path.get(first.parse().ok()?..end.parse().ok()?)?;
            Some((percent_decode_str(name).decode_utf8_lossy(), percent_decode_str(value).decode_utf8_lossy()))
        })
    }

    /// Path parameters and query as one form. The query cannot override the path.
    fn form(&self) -> Cow<'a, str> {
        if self.params.is_empty() {
            return self.query.into();
        }
        let params: Vec<_> = self.params().collect();
        let mut form = serde_urlencoded::to_string(&params).unwrap_or_default();
        for field in self.query.split('&').filter(|field| !field.is_empty()) {
            let name = field.split('=').next().unwrap_or_default().replace('+', " ");
            let name = percent_decode_str(&name).decode_utf8_lossy();
            if params.iter().all(|(param, _)| *param != name) {
                form.push('&');
                form.push_str(field);
            }
        }
        form.into()
    }
}

impl fmt::Debug for OpeningData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningData").finish_non_exhaustive()
    }
}

impl OpeningData {
    /// The values of `params` are parts of `path`.
    pub(super) fn new<'a>(path: &str, params: impl IntoIterator<Item = (&'a str, &'a str)>, query: &str) -> Self {
        let mut text = path.len().to_string();
        for (name, value) in params {
            let first = value.as_ptr().addr().saturating_sub(path.as_ptr().addr());
            let name = utf8_percent_encode(name, NAMES);
            // Writing to a string does not fail.
            let _ = write!(text, "&{name}={first}-{}", first + value.len());
        }
        text.reserve_exact(1 + path.len() + query.len());
        text.push('?');
        text.push_str(path);
        text.push_str(query);
        let text = if text.len() > SHARED_ABOVE {
            Text::Shared(Box::new(Bytes::from(text.into_boxed_str().into_boxed_bytes())))
        } else {
            Text::Own(text.into())
        };
        Self { text, typed: None }
    }

    fn parts(&self) -> Parts<'_> {
        Parts::of(self.text.as_str()).unwrap_or(Parts { path: "", query: "", params: "" })
    }

    /// The path as it arrived, without further decoding.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts().path
    }

    /// A path parameter, decoded.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<String> {
        self.parts().params().find(|(param, _)| param == name).map(|(_, value)| value.into_owned())
    }

    /// Path parameters and query as a `T`.
    pub(crate) fn decode<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, Error> {
        let form = self.parts().form();
        let fields = serde_urlencoded::Deserializer::new(form_urlencoded::parse(form.as_bytes()));
        serde_path_to_error::deserialize(fields).map(Arc::new).map_err(|error| {
            // The body of a 422 is the message alone.
            match error.path().iter().next() {
                Some(_) => Error::invalid(format!("parameter {}: {}", error.path(), error.inner())),
                None => Error::invalid(error.inner().to_string()),
            }
        })
    }

    /// Does the same as [`decode`](Self::decode), but from memory if the handshake has read it already.
    pub(crate) fn read<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, Error> {
        match self.typed.clone().map(Arc::downcast::<T>) {
            Some(Ok(value)) => Ok(value),
            _ => self.decode(),
        }
    }

    pub(crate) fn to_stored(&self) -> Bytes {
        match &self.text {
            Text::Own(text) => Bytes::copy_from_slice(text.as_bytes()),
            Text::Shared(bytes) => Bytes::clone(bytes),
        }
    }

    /// Reads the output of [`to_stored`](Self::to_stored); `None` for any other text.
    pub(crate) fn from_stored(stored: Bytes) -> Option<Self> {
        let text = std::str::from_utf8(&stored).ok().filter(|text| Parts::of(text).is_some())?;
        let text =
            if text.len() > SHARED_ABOVE { Text::Shared(Box::new(stored)) } else { Text::Own(text.to_owned().into()) };
        Some(Self { text, typed: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(path: &str, name: &str, value: &str, query: &str) -> OpeningData {
        let at = path.find(value).expect("a part of the path");
        OpeningData::new(path, [(name, &path[at..at + value.len()])], query)
    }

    #[test]
    fn path_and_query_are_kept_as_they_came_and_come_back() {
        // Behind API Gateway a path arrives decoded, so it may contain a question mark.
        for path in ["/rooms/is%20it%3F", "/a?b/is%20it%3F"] {
            for query in ["", "q=1", "q=%3F&r=a?b", "roo%6D=another&r=a?b&room=a+third"] {
                let opening = opening(path, "room", "is%20it%3F", query);
                assert!(opening.text.as_str().ends_with(&format!("?{path}{query}")), "{}", opening.text.as_str());
                let again = OpeningData::from_stored(opening.to_stored()).expect("its own text");
                for opening in [opening, again] {
                    assert_eq!((opening.path(), opening.param("room").as_deref()), (path, Some("is it?")));
                    let fields = opening.decode::<Vec<(String, String)>>().expect("pairs");
                    assert_eq!(fields.iter().any(|(name, value)| name == "r" && value == "a?b"), query.contains("r="));
                    let rooms: Vec<_> = fields.iter().filter(|(name, _)| name == "room").collect();
                    assert_eq!(rooms, [&("room".to_owned(), "is it?".to_owned())], "the path decides");
                }
            }
        }
        let plain = OpeningData::new("/", [], "q=1&q=2");
        assert_eq!((plain.path(), plain.param("q")), ("/", None));
        assert_eq!(plain.decode::<Vec<(String, u8)>>().expect("pairs")[..], [("q".into(), 1), ("q".into(), 2)]);
        assert!(opening("/x/y", "a&b=c?", "y", "").param("a&b=c?").is_some(), "whatever a parameter is called");
    }

    #[test]
    fn a_long_one_is_in_memory_once_and_takes_what_came() {
        // Each of these would be three bytes of an encoded form.
        let query = format!("q={}", "\u{e9}".repeat(4_000));
        let opening = opening("/rooms/a", "room", "a", &query);
        let (one, other) = (opening.to_stored(), opening.to_stored());
        assert_eq!(one.as_ptr(), other.as_ptr());
        assert!(one.len() < "/rooms/a".len() + query.len() + 32, "{}", one.len());
        let again = OpeningData::from_stored(one.clone()).expect("its own text");
        assert_eq!(again.to_stored().as_ptr(), one.as_ptr());
    }

    #[test]
    fn what_is_none_is_told() {
        for foreign in ["", "/rooms/a", "{}", "9?/short", "x?/a", "1?\u{e9}"] {
            assert!(OpeningData::from_stored(foreign.as_bytes().into()).is_none(), "{foreign}");
        }
        assert!(OpeningData::from_stored(Bytes::from_static(b"1?\xff")).is_none());
    }
}
