//! Links between chapters.

use std::collections::BTreeSet;

use crate::chapters::{chapter, names};

/// The anchors that mdBook gives to a chapter's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere_and_every_chapter_is_in_the_summary() {
    let names = names();
    for name in &names {
        let text = chapter(name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            assert!(names.iter().any(|name| name == file), "{name}: there is no {file}");
            if let Some(anchor) = anchor {
                assert!(anchors(&chapter(file)).contains(anchor), "{name}: there is no {link}");
            }
        }
    }
    let summary = chapter("SUMMARY.md");
    for name in names.iter().filter(|name| *name != "SUMMARY.md") {
        assert!(summary.contains(&format!("]({name})")), "{name} is not in the summary");
    }
}
