//! One line a connection: messages posted to it go one after the other.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use strait_core::GatewayConnection;
use tokio::sync::OwnedMutexGuard;

type Line = Arc<tokio::sync::Mutex<()>>;
type Map = Arc<Mutex<HashMap<GatewayConnection, Line>>>;

#[derive(Default)]
pub(super) struct Lines(Map);

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("open", &self.0.lock().len()).finish()
    }
}

/// A turn in a line. The line is forgotten with its last turn.
pub(super) struct Turn {
    held: Option<OwnedMutexGuard<()>>,
    lines: Map,
    of: GatewayConnection,
}

impl Lines {
    /// Waits for earlier turns.
    pub(super) async fn enter(&self, of: &GatewayConnection) -> Turn {
        let line = Arc::clone(self.0.lock().entry(of.clone()).or_default());
        let mut turn = Turn { held: None, lines: Arc::clone(&self.0), of: of.clone() };
        turn.held = Some(line.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        let mut lines = self.lines.lock();
        if lines.get(&self.of).is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(&self.of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_taken_in_the_order_of_coming_and_lines_are_forgotten() {
        let lines = Lines::default();
        let of = GatewayConnection { endpoint: "e".into(), id: "c".try_into().expect("a name") };
        let order = Mutex::new(Vec::new());
        let turn = async |number: usize| {
            let _turn = lines.enter(&of).await;
            tokio::task::yield_now().await;
            order.lock().push(number);
        };
        tokio::join!(turn(1), turn(2), turn(3));
        assert_eq!(*order.lock(), [1, 2, 3]);
        assert!(lines.0.lock().is_empty());
        drop(tokio::time::timeout(std::time::Duration::ZERO, turn(4)).await);
        assert!(lines.0.lock().is_empty(), "one that was given up leaves nothing");
    }
}
