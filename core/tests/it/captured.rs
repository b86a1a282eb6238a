//! The lines that a test's thread logs.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;

/// The log of this thread, as long as it lives: the test must not use other threads.
pub(crate) struct Captured {
    text: Text,
    _until_dropped: DefaultGuard,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Captured {
    pub(crate) fn begin() -> Self {
        let text = Text::default();
        let writer = text.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).without_time().with_max_level(LevelFilter::DEBUG);
        let subscriber = lines.with_writer(move || writer.clone()).finish();
        Self { text, _until_dropped: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines that contain a text.
    pub(crate) fn lines(&self, about: &str) -> Vec<String> {
        let text = String::from_utf8(self.text.0.lock().clone()).expect("text");
        text.lines().filter(|line| line.contains(about)).map(str::to_owned).collect()
    }
}
