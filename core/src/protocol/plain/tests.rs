use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::Value;

use super::reference::Way;
use super::*;

fn keyed(text: &str) -> Request<String> {
    decode(text.to_owned(), "action", |key| (key != "unknown").then(|| key.to_owned()))
}

#[track_caller]
fn check(text: &str, key: &str, payload: &str) {
    assert_eq!(keyed(text), Request::Routed { route: key.to_owned(), payload: payload.to_owned() });
}

#[track_caller]
fn check_whole(text: &str, key: Option<&str>) {
    assert_eq!(keyed(text), Request::Whole { payload: text.to_owned(), key: key.map(str::to_owned) });
}

#[test]
fn the_key_is_taken_out_wherever_it_stands() {
    check(r#"{"action":"x"}"#, "x", "{}");
    check(r#"{"action":"x","a":1}"#, "x", r#"{"a":1}"#);
    check(r#"{"action":"x", "a":1}"#, "x", r#"{ "a":1}"#);
    check(r#"{"a":1,"action":"x"}"#, "x", r#"{"a":1}"#);
    check(r#"{"a":1,"action":"x","b":2}"#, "x", r#"{"a":1,"b":2}"#);
    check(r#" { "a" : 1 , "action" : "x" , "b" : 2 } "#, "x", r#" { "a" : 1 , "b" : 2 } "#);
    check(r#" { "action" : "x" , "b" : 2 } "#, "x", r#" { "b" : 2 } "#);
}

#[test]
fn the_key_may_be_written_with_escapes() {
    check(r#"{"\u0061ction":"\u0078","a":1}"#, "x", r#"{"a":1}"#);
}

#[test]
fn numbers_pass_unchanged() {
    check(r#"{"action":"x","n":12345678901234567890.10e+400}"#, "x", r#"{"n":12345678901234567890.10e+400}"#);
}

#[test]
fn only_the_objects_own_key_counts() {
    check_whole(r#"{"a":{"action":"x"}}"#, None);
    check_whole(r#"[{"action":"x"}]"#, None);
    check_whole(r#"{"toString":"x"}"#, None);
    check_whole(r#""action""#, None);
}

#[test]
fn what_no_route_takes_stays_whole() {
    check_whole("hello", None);
    check_whole("", None);
    check_whole(r#"{"action":1}"#, None);
    check_whole(r#"{"action":null,"a":1}"#, None);
    check_whole(r#"{"action":"unknown","a":1}"#, Some("unknown"));
    check_whole(r#"{"action":"x","a":tru}"#, None);
    check_whole(r#"{"action":"x"} trailing"#, None);
    check_whole(r#"{"action":"x""#, None);
    check_whole(&"[".repeat(100_000), None);
}

#[test]
fn a_key_given_twice_is_refused() {
    let twice = |route: Option<&str>| Request::Twice { route: route.map(str::to_owned) };
    assert_eq!(keyed(r#"{"action":"x","a":1,"a":2}"#), twice(Some("x")));
    assert_eq!(keyed(r#"{"action":"x","a":1,"\u0061":2}"#), twice(Some("x")));
    assert_eq!(keyed(r#"{"action":"x","action":"x"}"#), twice(None));
    let many = (0..100).map(|n| format!(r#","k{n}":0"#)).collect::<String>();
    assert_eq!(keyed(&format!(r#"{{"action":"x"{many},"k7":1}}"#)), twice(Some("x")));
    check(&format!(r#"{{"action":"x"{many}}}"#), "x", &format!("{{{}}}", &many[1..]));
}

fn replied(result: &str) -> String {
    let prefix = reply_prefix("action", "x");
    reply(&prefix, "action", result.as_bytes(), |parts| String::from_utf8(parts.concat()).expect("text"))
}

#[test]
fn objects_are_merged_and_everything_else_is_a_result() {
    assert_eq!(replied(r#"{"a":1}"#), r#"{"action":"x","a":1}"#);
    assert_eq!(replied(r#"{ "a":1}"#), r#"{"action":"x", "a":1}"#);
    assert_eq!(replied("{}"), r#"{"action":"x"}"#);
    assert_eq!(replied("{ }"), r#"{"action":"x"}"#);
    for falsy in ["0", "false", r#""""#, "null", "[1]", "1.50", "[]"] {
        assert_eq!(replied(falsy), format!(r#"{{"action":"x","result":{falsy}}}"#));
    }
}

#[test]
fn objects_with_reserved_members_are_not_merged() {
    for object in [r#"{"error":1}"#, r#"{"a":1,"gap":1}"#, r#"{"action":"y"}"#, r#"{"\u0065rror":1}"#] {
        assert_eq!(replied(object), format!(r#"{{"action":"x","result":{object}}}"#));
    }
    for object in [r#"{"a":"error"}"#, r#"{"a":{"gap":1}}"#, r#"{"a":"line\nbreak"}"#] {
        assert_eq!(replied(object), format!(r#"{{"action":"x",{}"#, &object[1..]));
    }
}

#[test]
fn keys_are_escaped() {
    assert_eq!(reply_prefix("action", "a\"b"), br#"{"action":"a\"b""#);
    let topic = Topic::new("a\"b").expect("valid");
    assert_eq!(gap(Some(&topic)).payload(), r#"{"gap":{"topic":"a\"b"}}"#.as_bytes());
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z\"\\\\é\n]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("action|error|[a-c\"]{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_left_is_the_object_without_its_key(value in json(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("json");
        let key = value.as_object().and_then(|object| object.get("action")).and_then(Value::as_str);
        match (keyed(&text), key) {
            (Request::Routed { route, payload }, Some(expected)) => {
                prop_assert_eq!(&route, expected);
                let mut left = value.clone();
                left.as_object_mut().expect("object").remove("action");
                prop_assert_eq!(serde_json::from_str::<Value>(&payload).expect("json"), left);
            }
            (Request::Whole { payload, .. }, None) => prop_assert_eq!(payload, text),
            (other, key) => prop_assert!(false, "{:?} for {:?}", other, key),
        }
    }

    #[test]
    fn every_reply_is_json_with_its_key_in_front(value in json()) {
        let reply: Value = serde_json::from_str(&replied(&value.to_string())).expect("json");
        prop_assert_eq!(&reply["action"], "x");
        prop_assert!(reply.get("error").is_none());
    }
}

/// Good and bad JSON text from clients: keys twice and escaped, numbers of any length, spaces, breakage.
fn messages() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?";
    let string = r#""([a-c é🦀]|\\["\\/bfnrt]|\\u00[0-7][0-9a-f]|\\ud83e\\udd80|\\ud800){0,6}""#;
    let leaf = prop_oneof![3 => number, 3 => string, 1 => "true|false|null"];
    let nested = leaf.prop_recursive(3, 12, 3, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(" ,"))),
            (string, inner).prop_map(|(key, value)| format!("{{{key}:{value}}}")),
        ]
    });
    let key = prop_oneof![
        4 => Just(r#""action""#.to_owned()),
        1 => Just(r#""\u0061ction""#.to_owned()),
        1 => Just(r#""__proto__""#.to_owned()),
        1 => Just(r#""constructor""#.to_owned()),
        4 => string.prop_map(|key| key),
    ];
    let value = prop_oneof![3 => Just(r#""x""#.to_owned()), 1 => Just(r#""unknown""#.to_owned()), 1 => Just(r#""\u0078""#.to_owned()), 3 => nested];
    let member = (key, "[ \n\t]{0,2}", value, "[ \r]{0,2}").prop_map(|(k, a, v, b)| format!("{b}{k}{a}:{b}{v}{a}"));
    let object = prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(",")));
    let spoil = prop_oneof![6 => Just(None), 1 => any::<(prop::sample::Index, u8)>().prop_map(Some)];
    (object, spoil).prop_map(|(mut text, spoil)| {
        if let Some((at, by)) = spoil {
            let at = text.floor_char_boundary(at.index(text.len()));
            text.insert(at, char::from(b" {}[]\":,\\0e"[usize::from(by) % 11]));
        }
        text
    })
}

/// Runs `cases` messages through the decoder and the reference; counts the cases that they took.
fn all_agree(cases: u32, messages: impl Strategy<Value = String>) -> BTreeMap<Way, usize> {
    let config = Config { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(8259), ..Config::default() };
    let seen = RefCell::new(BTreeMap::new());
    let result = TestRunner::new(config).run(&messages, |message| {
        let way = reference::compare(&message, "action", |key| key == "x");
        reference::compare_reply(&message, "action");
        *seen.borrow_mut().entry(way).or_default() += 1;
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    seen.into_inner()
}

#[test]
fn any_text_is_decoded_as_by_the_reference() {
    all_agree(4000, "[{}\\[\\]\"a-c:,0-9e\\\\u+-. ]{0,40}");
}

#[test]
fn what_clients_write_is_decoded_as_by_the_reference() {
    let cases = 3000;
    let seen = all_agree(cases, messages());
    // Without this check, a generator that had become one-sided would go unnoticed.
    for way in [Way::Whole, Way::Unknown, Way::Twice, Way::Routed] {
        let count = seen.get(&way).copied().unwrap_or_default();
        assert!(count >= cases as usize / 50, "{way:?} came {count} times: {seen:?}");
    }
}
