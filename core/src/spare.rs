//! Each thread's spare buffer. It goes from a message to its reply and on to the next message, and saves an allocation
//! for each. A handler that ends at once needs no other buffer.

use std::cell::Cell;

/// The largest buffer that is kept.
const MOST: usize = 16 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An empty buffer with room for `length` bytes.
pub(crate) fn take(length: usize) -> Vec<u8> {
    // The thread-local is gone while the thread ends.
    let spare = SPARE.try_with(Cell::take).unwrap_or_default();
    if spare.capacity() < length { Vec::with_capacity(length) } else { spare }
}

/// Takes a buffer back that is no longer needed.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if (1..=MOST).contains(&buffer.capacity()) {
        buffer.clear();
        let _ = SPARE.try_with(|spare| spare.set(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_comes_back_empty_unless_it_is_too_long_or_too_short() {
        let buffer = b"a message".to_vec();
        let place = buffer.as_ptr();
        give(buffer);
        let (first, second) = (take(7), take(7));
        assert_eq!((first.as_ptr(), first.len()), (place, 0));
        assert_ne!(second.as_ptr(), place);
        give(first);
        assert!(take(1000).capacity() >= 1000);
        give(Vec::with_capacity(MOST + 1));
        assert_eq!(take(0).capacity(), 0);
    }
}
