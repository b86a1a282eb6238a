//! The plain format as the book states it, on top of `serde_json`. It is written to be compared with the book's text,
//! not to be quick. The property tests and the fuzzer use it.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Request, decode, reply, reply_prefix};

/// An object's own members in their order: keys decoded, values as they were written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Members(pub(crate) Vec<(String, String)>);

impl Members {
    /// `None` if the text is not one JSON object.
    pub(crate) fn of(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    members.push((key, value.get().to_owned()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The book's cases of a message, in its order. The payload of a routed one is compared by its members.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Whole(Option<String>),
    Twice(Option<String>),
    Routed(String, Members),
}

fn expected(text: &str, routing_key: &str, is_route: impl Fn(&str) -> bool) -> Expected {
    let Some(Members(mut members)) = Members::of(text) else { return Expected::Whole(None) };
    let key = members.iter().position(|(key, _)| key == routing_key);
    let Some(key) = key else { return Expected::Whole(None) };
    let mut seen = HashSet::new();
    let twice = members.iter().any(|(key, _)| !seen.insert(key.clone()));
    let (_, value) = members.remove(key);
    if members.iter().any(|(key, _)| key == routing_key) {
        return Expected::Twice(None);
    }
    match serde_json::from_str::<String>(&value) {
        Err(_) if twice => Expected::Twice(None),
        Err(_) => Expected::Whole(None),
        Ok(name) if !is_route(&name) => Expected::Whole(Some(name)),
        Ok(name) if twice => Expected::Twice(Some(name)),
        Ok(name) => Expected::Routed(name, Members(members)),
    }
}

/// The case of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Whole,
    Unknown,
    Twice,
    Routed,
}

/// Decodes a message with the application's code and with the reference; panics if they differ.
pub(crate) fn compare(message: &str, routing_key: &str, is_route: impl Fn(&str) -> bool) -> Way {
    let find = |key: &str| is_route(key).then(|| key.to_owned());
    let decoded = decode(message.to_owned(), routing_key, find);
    match (decoded, expected(message, routing_key, is_route)) {
        (Request::Whole { payload, key }, Expected::Whole(expected)) => {
            assert_eq!((&*payload, &key), (message, &expected));
            if key.is_some() { Way::Unknown } else { Way::Whole }
        }
        (Request::Twice { route }, Expected::Twice(expected)) => {
            assert_eq!(route, expected);
            Way::Twice
        }
        (Request::Routed { route, payload }, Expected::Routed(name, rest)) => {
            assert_eq!(route, name);
            assert_eq!(Members::of(&payload), Some(rest), "{payload}");
            is_cut_once(message.as_bytes(), payload.as_bytes());
            Way::Routed
        }
        (decoded, expected) => panic!("{decoded:?} instead of {expected:?}"),
    }
}

/// All other bytes stay unchanged: the remainder is the beginning and the end of the original.
fn is_cut_once(whole: &[u8], left: &[u8]) {
    let same = |(a, b): &(&u8, &u8)| a == b;
    let front = whole.iter().zip(left).take_while(same).count();
    let back = whole.iter().rev().zip(left.iter().rev()).take_while(same).count();
    assert!(front + back >= left.len(), "{left:?} is left of {whole:?}");
}

/// A result that is one JSON value becomes a reply that is one object. The key comes first, no member has a reserved
/// name, and numbers stay as written.
pub(crate) fn compare_reply(result: &str, routing_key: &str) {
    if serde_json::from_str::<&RawValue>(result).is_err() {
        return;
    }
    // A result has been serialised, or is a `RawValue`: neither has space around it.
    let result = result.trim_matches([' ', '\t', '\n', '\r']);
    let answer = reply(&reply_prefix(routing_key, "x"), routing_key, result.as_bytes(), |parts| parts.concat());
    let answer = String::from_utf8(answer).expect("a reply is text");
    let Members(found) = Members::of(&answer).unwrap_or_else(|| panic!("this is no object: {answer}"));
    let key = (routing_key.to_owned(), "\"x\"".to_owned());
    let reserved = |(name, _): &(String, String)| ["error", "gap", routing_key].contains(&&**name);
    let expected = match Members::of(result) {
        Some(Members(members)) if !members.iter().any(reserved) => [vec![key], members].concat(),
        _ => vec![key, ("result".to_owned(), result.to_owned())],
    };
    assert_eq!(found, expected, "{answer}");
}

/// Compares a fuzzer's input as a message and as a result. Routes have one character, so that the fuzzer finds them.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    // Bytes that are no text never reach the format.
    if let Ok(text) = std::str::from_utf8(data) {
        compare(text, "action", |key| key.chars().count() == 1);
        compare_reply(text, "action");
    }
}
