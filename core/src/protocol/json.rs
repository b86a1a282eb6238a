//! Finds the members of a JSON object (RFC 8259) without building it. Routing looks at every message and needs each
//! member's place in the text, which a deserialiser does not give. Accepts exactly the same input as `serde_json`.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

/// The first bytes of a string are scanned eight at a time, up to this length; the rest is scanned in larger blocks.
const SHORT: usize = 32;

/// One member of an object.
#[derive(Debug)]
pub(crate) struct Member<'t> {
    /// The key, decoded.
    pub(crate) key: Cow<'t, str>,
    /// The end of the text before it: the brace, or the previous member's value.
    pub(crate) from: usize,
    /// The place of the value.
    pub(crate) value: Range<usize>,
}

/// Hands each member of the object `text` to `visit`, in order. `None` if `text` is not one valid object; some members
/// may have been visited by then.
pub(crate) fn members<'t>(text: &'t str, mut visit: impl FnMut(Member<'t>)) -> Option<()> {
    let bytes = text.as_bytes();
    let mut from = expect(bytes, space(bytes, 0), b'{')?;
    let mut at = space(bytes, from);
    if bytes.get(at) != Some(&b'}') {
        loop {
            let (end, escaped) = string(bytes, at)?;
            let key = if escaped {
                Cow::Owned(serde_json::from_str(&text[at..end]).ok()?)
            } else {
                Cow::Borrowed(&text[at + 1..end - 1])
            };
            let start = space(bytes, expect(bytes, space(bytes, end), b':')?);
            let end = value(bytes, start)?;
            visit(Member { key, from, value: start..end });
            from = end;
            at = space(bytes, end);
            match bytes.get(at)? {
                b',' => at = space(bytes, at + 1),
                b'}' => break,
                _ => return None,
            }
        }
    }
    (space(bytes, at + 1) == bytes.len()).then_some(())
}

#[inline]
fn space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

#[inline]
fn expect(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    (bytes.get(at) == Some(&byte)).then_some(at + 1)
}

/// The end of the string that begins at `at`, and whether it has escapes.
#[inline]
fn string(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let mut at = expect(bytes, at, b'"')?;
    let mut escaped = false;
    loop {
        at += plain(&bytes[at..]);
        match bytes.get(at)? {
            b'"' => return Some((at + 1, escaped)),
            b'\\' => at = escape(bytes, at + 1)?,
            _ => return None,
        }
        escaped = true;
    }
}

/// The number of bytes before a quote, a backslash or a control character. Most strings are short.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < SHORT
        && let Some(eight) = bytes[at..].first_chunk()
    {
        let found = special(u64::from_le_bytes(*eight));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + plain_run(&bytes[at..])
}

/// The same for strings that may be long.
fn plain_run(bytes: &[u8]) -> usize {
    let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let is_control = |byte: &u8| *byte < 0x20;
    // Scan all bytes without an early exit: many can then be checked at once.
    let any = bytes[..end].iter().fold(false, |any, byte| any | is_control(byte));
    if any { bytes.iter().position(is_control).unwrap_or(end) } else { end }
}

/// Sets the highest bit of each byte that ends a plain run in a string. Only the lowest set bit is reliable: its borrow
/// may spoil the bytes above.
#[inline]
fn special(eight: u64) -> u64 {
    const EACH: u64 = u64::MAX / 0xff;
    let below = |bytes: u64, limit: u8| bytes.wrapping_sub(EACH * u64::from(limit)) & !bytes;
    let is = |byte: u8| below(eight ^ (EACH * u64::from(byte)), 1);
    (below(eight, 0x20) | is(b'"') | is(b'\\')) & (EACH << 7)
}

fn escape(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' => bytes.get(at + 1..at + 5)?.iter().all(u8::is_ascii_hexdigit).then_some(at + 5),
        _ => None,
    }
}

/// The end of the value that begins at `at`.
#[inline]
fn value(bytes: &[u8], at: usize) -> Option<usize> {
    // The short path for most values.
    match bytes.get(at)? {
        b'"' => Some(string(bytes, at)?.0),
        b'-' | b'0'..=b'9' => number(bytes, at),
        _ => nested(bytes, at),
    }
}

/// The same for a value that may contain others. Depth costs memory, not stack.
fn nested(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut open: SmallVec<[u8; 32]> = SmallVec::new();
    loop {
        match bytes.get(at)? {
            b'"' => at = string(bytes, at)?.0,
            b'-' | b'0'..=b'9' => at = number(bytes, at)?,
            b't' => at = literal(bytes, at, b"true")?,
            b'f' => at = literal(bytes, at, b"false")?,
            b'n' => at = literal(bytes, at, b"null")?,
            bracket @ (b'[' | b'{') => {
                let inside = space(bytes, at + 1);
                let close = bracket + 2;
                if bytes.get(inside) == Some(&close) {
                    at = inside + 1;
                } else {
                    open.push(close);
                    at = if close == b'}' { key(bytes, inside)? } else { inside };
                    continue;
                }
            }
            _ => return None,
        }
        // A value has ended: its container may end, too.
        loop {
            let Some(close) = open.last() else { return Some(at) };
            at = space(bytes, at);
            match bytes.get(at)? {
                b',' => {
                    at = space(bytes, at + 1);
                    if *close == b'}' {
                        at = key(bytes, at)?;
                    }
                    break;
                }
                byte if byte == close => {
                    open.pop();
                    at += 1;
                }
                _ => return None,
            }
        }
    }
}

/// The start of the value that belongs to the key at `at`.
fn key(bytes: &[u8], at: usize) -> Option<usize> {
    let (end, _) = string(bytes, at)?;
    Some(space(bytes, expect(bytes, space(bytes, end), b':')?))
}

fn literal(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    (bytes.get(at..at + word.len())? == word).then_some(at + word.len())
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + usize::from(bytes[at] == b'-');
    at = if bytes.get(at) == Some(&b'0') { at + 1 } else { digits(bytes, at)? };
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits(bytes, at)?;
    }
    Some(at)
}

/// At least one digit.
fn digits(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(b'0'..=b'9') = bytes.get(at) {
        at += 1;
    }
    (at > from).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::plain::reference::Members;

    fn found(text: &str) -> Option<Vec<(String, String)>> {
        let mut found = Vec::new();
        members(text, |member| found.push((member.key.into_owned(), text[member.value].to_owned())))?;
        Some(found)
    }

    /// The result of serde_json.
    fn expected(text: &str) -> Option<Vec<(String, String)>> {
        Members::of(text).map(|members| members.0)
    }

    #[track_caller]
    fn check(text: &str) {
        assert_eq!(found(text), expected(text), "{text:?}");
    }

    #[test]
    fn accepts_what_serde_json_accepts() {
        for value in [
            "1",
            "-0",
            "01",
            "1.",
            ".5",
            "1.5e+10",
            "1e",
            "-",
            "+1",
            "true",
            "tru",
            "nulll",
            "\"a\\u00e9\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\u{1}\"",
            "\"\t\"",
            "[]",
            "[1,2]",
            "[1,]",
            "[,1]",
            "{}",
            "{\"b\":[{}]}",
            "{\"b\"}",
            "{b:1}",
            "[[[[]]]",
            "[}",
            "{\"a\":1,}",
            "\"unended",
            "\"0123456789abcdef0123456789abcdef\"",
            "'a'",
            "NaN",
            "",
        ] {
            check(&format!("{{\"a\":{value}}}"));
            check(&format!(" {{ \"a\" : {value} , \"b\\n\" : {value} }} "));
            check(value);
        }
        for text in
            ["{\"\\ud800\":1}", "{\"a\":1}x", "{\"a\":1,}", "{,}", "{\"a\":1 \"b\":2}", "{", "{\"a\"", "\u{feff}{}"]
        {
            check(text);
        }
        for length in [0, 6, 7, 8, 15, 31, 32, 33, 70] {
            let run = "x".repeat(length);
            for end in ["\"", "\\n\"", "\\\"\"", "\u{1}\"", "é\u{1f}\"", "é\u{7f}\"", "éé", "\\", ""] {
                check(&format!("{{\"a\":\"{run}{end}}}"));
                check(&format!("{{\"{run}{end}:1}}"));
            }
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(found(&deep).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_serde_json_on_any_text(text in "[{}\\[\\]\":,\\\\a-eu0-9.+\\- é\n]{0,24}") {
            check(&text);
            check(&format!("{{\"a\":{text}}}"));
            // Long strings take another path.
            check(&format!("{{\"a\":\"0123456789abcdefé0123456789abcdef{text}\"}}"));
            check(&format!("{{\"0123456789abcdef0123456789abcdef{text}\":1}}"));
        }
    }
}
