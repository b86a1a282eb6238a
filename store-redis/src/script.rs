use std::sync::OnceLock;

use sha1::{Digest, Sha1};

/// A Lua script, which servers know by the hash of its text.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) text: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self { text, hash: OnceLock::new() }
    }

    pub(crate) fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let digest = Sha1::digest(self.text.as_bytes());
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }
}
