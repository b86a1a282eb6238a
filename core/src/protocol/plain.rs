//! The plain format: JSON text with a routing key, for any WebSocket client.

#[cfg(any(test, fuzzing))]
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use smallvec::SmallVec;

use super::json;
use crate::error::Error;
use crate::frame::{Frame, FrameKind};
use crate::name::Topic;

/// The case of a text message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<R> {
    /// A JSON object with a routing key that names a route; the payload is the object without the key.
    Routed {
        /// The route.
        route: R,
        /// The rest of the object.
        payload: String,
    },
    /// Any other text, unchanged.
    Whole {
        /// The text.
        payload: String,
        /// The value of its routing key, if no route has it.
        key: Option<String>,
    },
    /// An object with the routing key, and with a duplicate key.
    Twice {
        /// The route, if the routing key itself is unambiguous.
        route: Option<R>,
    },
}

/// With more keys than this, or with escapes in them, a hash set finds duplicates.
const FEW_KEYS: usize = 16;
/// Below this many bytes, a vectorised search does not pay off.
const SHORT: usize = 64;

/// Finds the routing key, and its route by `find`.
pub(crate) fn decode<R>(mut text: String, routing_key: &str, find: impl Fn(&str) -> Option<R>) -> Request<R> {
    let Some(Found { key, place, twice }) = scan(&text, routing_key) else {
        return Request::Whole { payload: text, key: None };
    };
    let route = key.as_deref().and_then(find);
    match (route, key) {
        (Some(route), _) if twice => Request::Twice { route: Some(route) },
        (Some(route), _) => {
            place.cut_out_of(&mut text);
            Request::Routed { route, payload: text }
        }
        (None, Some(key)) => {
            let key = Some(key.into_owned());
            Request::Whole { payload: text, key }
        }
        (None, None) if twice => Request::Twice { route: None },
        (None, None) => Request::Whole { payload: text, key: None },
    }
}

struct Found<'t> {
    /// The value of the routing key, if it is a string and stands once.
    key: Option<Cow<'t, str>>,
    /// The place of the routing key's member.
    place: Place,
    /// Whether any key stands twice.
    twice: bool,
}

#[derive(Default)]
struct Place {
    first: bool,
    last: bool,
    /// Its bytes, from the end of the text before it.
    span: Range<usize>,
}

/// `None` for text that is not a JSON object, or one without the routing key.
fn scan<'t>(text: &'t str, routing_key: &str) -> Option<Found<'t>> {
    let mut keys = Keys::default();
    let (mut key, mut place, mut times) = (None, Place::default(), 0);
    json::members(text, |member| {
        place.last = false;
        if member.key == routing_key {
            times += 1;
            place = Place { first: keys.is_empty(), last: true, span: member.from..member.value.end };
            key = json_string(&text[member.value]);
        }
        keys.add(member.key);
    })?;
    (times > 0).then(|| Found { key: key.filter(|_| times == 1), place, twice: keys.twice })
}

/// Decodes a value that is a string.
fn json_string(value: &str) -> Option<Cow<'_, str>> {
    let inside = value.strip_prefix('"')?.strip_suffix('"')?;
    if inside.bytes().any(|byte| byte == b'\\') {
        serde_json::from_str(value).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inside))
    }
}

#[derive(Default)]
struct Keys<'t> {
    /// The keys while they are few, as they stand in the text.
    few: SmallVec<[&'t str; 8]>,
    /// All the keys, once they are many.
    many: Option<HashSet<Cow<'t, str>>>,
    twice: bool,
}

impl<'t> Keys<'t> {
    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_none()
    }

    fn add(&mut self, key: Cow<'t, str>) {
        match (key, &mut self.many) {
            (Cow::Borrowed(key), None) if self.few.len() < FEW_KEYS => {
                self.twice |= self.few.contains(&key);
                self.few.push(key);
            }
            (key, many) => {
                let many = many.get_or_insert_with(|| self.few.iter().copied().map(Cow::Borrowed).collect());
                self.twice |= !many.insert(key);
            }
        }
    }
}

impl Place {
    /// Removes the member from the object `text`; the other members stay unchanged.
    fn cut_out_of(self, text: &mut String) {
        let Self { first, last, span } = self;
        let end = match (first, last) {
            // `{"action":"x","a":1}`: the comma goes with it.
            (true, false) => {
                let comma = text.as_bytes()[span.end..].iter().position(|byte| *byte == b',');
                comma.map_or(span.end, |at| span.end + at + 1)
            }
            // `{"action":"x"}`; the span begins after the brace. `{"a":1,"action":"x"…`: it begins with the comma.
            _ => span.end,
        };
        text.drain(span.start..end);
    }
}

/// The beginning of every reply behind a key: `{"action":"x"`.
pub(crate) fn reply_prefix(routing_key: &str, key: &str) -> Vec<u8> {
    let mut prefix = b"{".to_vec();
    push_json(&mut prefix, routing_key);
    prefix.push(b':');
    push_json(&mut prefix, key);
    prefix
}

fn push_json(into: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(into, text).expect("writing a string into memory does not fail");
}

/// Hands the parts of the reply behind a key to `write`; `result` is one JSON value.
pub(crate) fn reply<R>(prefix: &[u8], routing_key: &str, result: &[u8], write: impl FnOnce(&[&[u8]]) -> R) -> R {
    match result {
        [b'{', members @ ..] if merges(result, routing_key) => {
            if members.trim_ascii_start() == b"}" {
                write(&[prefix, b"}"])
            } else {
                write(&[prefix, b",", members])
            }
        }
        _ => write(&[prefix, b",\"result\":", result, b"}"]),
    }
}

/// Whether an object has no member with a reserved name.
fn merges(object: &[u8], routing_key: &str) -> bool {
    let reserved = ["error", "gap", routing_key];
    !may_name(object, &reserved) || !has_key(object, &reserved)
}

/// Whether one of `names` stands in quotes anywhere in a JSON value, or might be hidden in an escape.
fn may_name(value: &[u8], names: &[&str]) -> bool {
    let names_one = |at: usize| {
        let rest = &value[at + 1..];
        let one = |name: &&str| rest.get(name.len()) == Some(&b'"') && rest.starts_with(name.as_bytes());
        value[at] == b'\\' || names.iter().any(one)
    };
    if value.len() < SHORT {
        return value.iter().enumerate().any(|(at, byte)| matches!(byte, b'"' | b'\\') && names_one(at));
    }
    memchr::memchr2_iter(b'"', b'\\', value).any(names_one)
}

/// An object that cannot be read counts as having the key: it is not merged.
fn has_key(object: &[u8], names: &[&str]) -> bool {
    let mut found = false;
    let members = |text| json::members(text, |member| found |= names.contains(&&*member.key));
    let read = std::str::from_utf8(object).ok().and_then(members).is_some();
    found || !read
}

/// `{"action":"x","error":{…}}`, or `{"error":{…}}` where there is no key to echo.
pub(crate) fn error(prefix: Option<&[u8]>, error: &Error, write: impl FnOnce(&[&[u8]])) {
    let body = serde_json::to_vec(&error.body()).expect("an error is made of strings and checked details");
    match prefix {
        Some(prefix) => write(&[prefix, b",\"error\":", &body, b"}"]),
        None => write(&[b"{\"error\":", &body, b"}"]),
    }
}

/// `{"gap":{"topic":"…"}}`, or `{"gap":{}}` for direct sends.
pub(crate) fn gap(topic: Option<&Topic>) -> Frame {
    let Some(topic) = topic else { return Frame::new(FrameKind::Text, &[b"{\"gap\":{}}"]) };
    let mut name = Vec::new();
    push_json(&mut name, topic.as_str());
    Frame::new(FrameKind::Text, &[b"{\"gap\":{\"topic\":", &name, b"}}"])
}
