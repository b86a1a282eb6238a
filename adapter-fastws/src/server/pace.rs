//! Paces sockets that are no connections yet: only a few have a turn between two polls of all sockets, however many are
//! woken. So connections get their turns in between.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;

/// The turns of one round; each is worth between a few messages and a handshake.
const AT_ONCE: u64 = 4;

/// See the [module's documentation](self). One for each runtime.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Turns>);

#[derive(Debug, Default)]
struct Turns {
    /// The next number to be drawn.
    next: u64,
    /// Futures with lower numbers may go.
    admitted: u64,
    /// The wakers of the futures with numbers from `admitted` on, in order.
    waiting: VecDeque<Waker>,
    /// Whether the task runs that admits futures.
    runs: bool,
}

impl Pace {
    /// Ready when the future's turn has come; `number` is its drawn number while it waits.
    fn poll_turn(self: &Arc<Self>, number: &mut Option<u64>, cx: &Context<'_>) -> Poll<()> {
        let mut turns = self.0.lock();
        let drawn = number.unwrap_or(turns.next);
        if number.is_none() {
            turns.next += 1;
        }
        if drawn < turns.admitted {
            *number = None;
            return Poll::Ready(());
        }
        if number.replace(drawn).is_none() {
            turns.waiting.push_back(cx.waker().clone());
        } else {
            let place = (drawn - turns.admitted) as usize;
            turns.waiting[place].clone_from(cx.waker());
        }
        if !std::mem::replace(&mut turns.runs, true) {
            tokio::spawn(Arc::clone(self).run());
        }
        Poll::Pending
    }

    /// Admits a few futures in each round until none waits.
    async fn run(self: Arc<Self>) {
        loop {
            // Yields to all ready tasks, and lets the runtime poll the sockets.
            tokio::task::yield_now().await;
            let mut turns = self.0.lock();
            turns.admitted += AT_ONCE;
            let go = turns.waiting.len().min(AT_ONCE as usize);
            turns.waiting.drain(..go).for_each(Waker::wake);
            if turns.waiting.is_empty() {
                turns.waiting.shrink_to(0);
                turns.runs = false;
                return;
            }
        }
    }
}

/// Runs a future that waits for a turn before each poll. `make` creates it in its final place.
pub(super) async fn paced<F: Future>(pace: Arc<Pace>, make: impl FnOnce() -> F) -> F::Output {
    let (mut future, mut number) = (pin!(make()), None);
    poll_fn(|cx| {
        ready!(pace.poll_turn(&mut number, cx));
        future.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn each_turn_of_the_runtime_takes_so_many_in_their_order() {
        const ALL: usize = 40;
        let (pace, done) = (Arc::<Pace>::default(), Arc::<Mutex<Vec<usize>>>::default());
        for number in 0..ALL {
            let done = Arc::clone(&done);
            tokio::spawn(paced(Arc::clone(&pace), move || async move { done.lock().push(number) }));
        }
        let mut before = 0;
        while before < ALL {
            tokio::task::yield_now().await;
            let now = done.lock().len();
            assert!(now - before <= AT_ONCE as usize, "{} in one turn", now - before);
            before = now;
        }
        assert_eq!(*done.lock(), Vec::from_iter(0..ALL));
    }

    #[tokio::test]
    async fn who_leaves_while_it_waits_holds_nobody_up() {
        let pace = Arc::<Pace>::default();
        let polls = Arc::<AtomicUsize>::default();
        let mut waiting: Vec<_> = (0..18)
            .map(|_| {
                let polls = Arc::clone(&polls);
                let counting = poll_fn(move |_| Poll::Ready(polls.fetch_add(1, Ordering::Relaxed)));
                Box::pin(paced(Arc::clone(&pace), || counting))
            })
            .collect();
        for waiting in &mut waiting {
            assert!(waiting.now_or_never().is_none());
        }
        let last = waiting.pop().expect("there is one");
        drop(waiting);
        assert_eq!(last.await, 0);
        // The next futures use the spare turns without a wait.
        assert!(paced(Arc::clone(&pace), || std::future::ready(())).now_or_never().is_some());
        assert!(!pace.0.lock().runs);
    }
}
