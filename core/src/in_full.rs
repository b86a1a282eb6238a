//! An error with all its causes in one line, for logs.

use std::error::Error as StdError;
use std::fmt;

/// The error and the whole chain of its sources in one line, for the operator's log and never for clients.
///
/// A source's text is not repeated if its error's text ends with it.
pub fn in_full<'a>(error: &'a (dyn StdError + 'static)) -> impl fmt::Display + 'a {
    InFull(error)
}

struct InFull<'a>(&'a (dyn StdError + 'static));

impl fmt::Display for InFull<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        f.write_str(&told)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            let text = error.to_string();
            if !told.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            (told, next) = (text, error.source());
        }
        Ok(())
    }
}
