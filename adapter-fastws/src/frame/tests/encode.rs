use super::super::{close, ping, pong};

#[test]
fn control_frames_are_whole_and_unmasked() {
    assert_eq!(&ping()[..], [0x89, 0]);
    assert_eq!(&pong(b"ab")[..], [0x8a, 2, b'a', b'b']);
    assert_eq!(&close(None, "")[..], [0x88, 0]);
    assert_eq!(&close(Some(1008), "no")[..], [0x88, 4, 0x03, 0xf0, b'n', b'o']);
}

#[test]
fn a_reason_that_does_not_fit_is_cut_between_two_characters() {
    let frame = close(Some(1000), &"é".repeat(100));
    assert_eq!(frame.len(), 2 + 2 + 122);
    assert!(std::str::from_utf8(&frame[4..]).is_ok());
}
