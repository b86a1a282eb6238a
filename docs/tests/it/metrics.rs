//! The table of metrics, compared with what the crates register.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::chapters::{chapter, root};

type Metric = (String, String);

/// Name and type of the metrics that a source registers.
fn registered(source: &str) -> impl Iterator<Item = Metric> {
    ["counter", "gauge", "histogram"].into_iter().flat_map(move |kind| {
        let calls = source.split(&format!("{kind}!(")).skip(1).collect::<Vec<_>>();
        calls.into_iter().filter_map(move |call| {
            let (name, _) = call.trim_start().strip_prefix('"')?.split_once('"')?;
            Some((name.to_owned(), kind.to_owned()))
        })
    })
}

fn search(folder: &Path, found: &mut BTreeSet<Metric>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            search(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(registered(&fs::read_to_string(&path).expect("a source")));
        }
    }
}

#[test]
fn every_metric_is_in_the_book_and_every_one_in_the_book_is_registered() {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root()).expect("the workspace") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        let sources = entry.path().join("src");
        if (name == "core" || name.starts_with("store-") || name.starts_with("adapter-")) && sources.is_dir() {
            search(&sources, &mut found);
        }
    }
    let chapter = chapter("metrics.md");
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `strait_"));
    let told: BTreeSet<Metric> = rows
        .map(|row| {
            let mut cells = row.split('|');
            let name = cells.next().and_then(|name| name.trim().strip_suffix('`')).expect("a name");
            (format!("strait_{name}"), cells.next().expect("a type").trim().to_owned())
        })
        .collect();
    assert!(!found.is_empty());
    assert_eq!(told, found, "left: the book, right: the sources");
}
