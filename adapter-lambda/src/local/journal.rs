//! The journal of invocations, for people and tests.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use super::time::{iso, millis};

const KEPT: usize = 1_000;

/// One invocation, or one request of the function's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its begin, in milliseconds since 1970.
    pub at: u64,
    /// `connect`, `message`, `disconnect`, `invoke`, `schedule`, or a request: `POST`, `GET`, `DELETE`.
    pub what: String,
    /// The connection, if it is about one.
    pub connection: String,
    /// Its outcome: a status, `failed: …` with the reason, `timed out`.
    pub outcome: String,
    /// How long it took, in microseconds.
    pub took: u64,
}

#[derive(Default)]
pub(super) struct Journal(Mutex<VecDeque<Entry>>);

impl Journal {
    pub(super) fn note(&self, what: &str, connection: &str, outcome: String, began: SystemTime) {
        let took = began.elapsed().unwrap_or_default();
        tracing::info!(connection, outcome, took = format!("{took:.1?}"), "{what}");
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let entry =
            Entry { at: millis(began), what: what.to_owned(), connection: connection.to_owned(), outcome, took };
        let mut entries = self.0.lock();
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.0.lock().iter().cloned().collect()
    }

    /// A page that shows the last entries, the newest first.
    pub(super) fn page(&self) -> String {
        let mut rows = String::new();
        for entry in self.0.lock().iter().rev().take(200) {
            let at = iso(SystemTime::UNIX_EPOCH + Duration::from_millis(entry.at));
            let Entry { what, connection, outcome, took, .. } = entry;
            let took = *took as f64 / 1e3;
            let cells = [at, escape(what), escape(connection), escape(outcome), format!("{took:.1} ms")];
            rows.push_str(&format!("<tr><td>{}</td></tr>\n", cells.join("</td><td>")));
        }
        format!(
            "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>local gateway</title>\
             <style>body{{font:14px system-ui;margin:2em}}td,th{{padding:.2em .8em;text-align:left}}</style>\
             <h1>Invocations and requests</h1><table><tr><th>began<th>what<th>connection<th>outcome<th>took</tr>\n\
             {rows}</table>"
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
