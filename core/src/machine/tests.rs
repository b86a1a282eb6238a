mod invariants;

use super::*;

impl Weigh for u32 {
    fn weight(&self) -> usize {
        *self as usize % 7
    }
}

const BACKLOG: Backlog = Backlog { messages: 4, bytes: 18 };

fn bye() -> Close {
    Close::normal("bye")
}

/// Feeds one event, and returns the effects.
fn run(machine: &mut Machine<u32>, event: Event<u32>) -> Vec<Effect<u32>> {
    take(machine, event).into_vec()
}

/// Acts like a driver: a message may begin at once, and a handler's end may rest.
fn take(machine: &mut Machine<u32>, event: Event<u32>) -> Effects<u32> {
    let mut effects = Effects::new();
    match event {
        Event::Received(message) if machine.try_begin() => effects.push(Effect::Run(Step::Message(message))),
        Event::Ended if machine.try_rest() => {}
        event => machine.handle(event, BACKLOG, &mut effects),
    }
    effects
}

fn opened(resumable: bool) -> Machine<u32> {
    let mut machine = Machine::new(resumable);
    assert_eq!(run(&mut machine, Event::Opened), [Effect::Run(Step::Connect)]);
    assert_eq!(run(&mut machine, Event::Ended), []);
    machine
}

#[test]
fn no_message_starts_before_on_connect_has_ended() {
    let mut machine = Machine::new(false);
    run(&mut machine, Event::Opened);
    assert_eq!(run(&mut machine, Event::Received(1)), []);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Run(Step::Message(1))]);
}

#[test]
fn a_refused_connect_closes_and_still_runs_on_disconnect() {
    let mut machine = Machine::new(true);
    run(&mut machine, Event::Opened);
    let effects = run(&mut machine, Event::Refused(Close::policy("no")));
    assert_eq!(effects, [Effect::Close(Close::policy("no")), Effect::Run(Step::End)]);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Done]);
}

#[test]
fn messages_are_handled_one_at_a_time_in_order() {
    let mut machine = opened(false);
    assert_eq!(run(&mut machine, Event::Received(1)), [Effect::Run(Step::Message(1))]);
    assert_eq!(run(&mut machine, Event::Received(2)), []);
    assert_eq!(run(&mut machine, Event::Received(3)), []);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Run(Step::Message(2))]);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Run(Step::Message(3))]);
}

#[test]
fn reading_pauses_at_the_backlog_and_resumes_at_half() {
    let mut machine = opened(false);
    run(&mut machine, Event::Received(1));
    for message in 2..5 {
        assert_eq!(run(&mut machine, Event::Received(message)), []);
    }
    assert_eq!(run(&mut machine, Event::Received(5)), [Effect::Pause]);
    assert!(!machine.reads());
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Run(Step::Message(2))]);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Run(Step::Message(3)), Effect::Resume]);
    assert!(machine.reads());
}

#[test]
fn close_by_a_handler_closes_the_socket_and_drops_what_waits() {
    let mut machine = opened(true);
    run(&mut machine, Event::Received(1));
    run(&mut machine, Event::Received(2));
    assert_eq!(run(&mut machine, Event::Close(bye())), [Effect::Close(bye())]);
    assert_eq!(run(&mut machine, Event::Received(3)), []);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Run(Step::End)]);
    assert_eq!(run(&mut machine, Event::PeerClosed { leaves: false }), []);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Done]);
}

#[test]
fn what_arrived_before_the_connection_was_lost_is_handled() {
    let mut machine = opened(false);
    run(&mut machine, Event::Received(1));
    run(&mut machine, Event::Received(2));
    assert_eq!(run(&mut machine, Event::Lost), []);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Run(Step::Message(2))]);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Run(Step::End)]);
}

#[test]
fn a_resumable_channel_detaches_resumes_and_ends_with_its_grace() {
    let mut machine = opened(true);
    assert_eq!(run(&mut machine, Event::Lost), [Effect::Detach]);
    assert_eq!(run(&mut machine, Event::Resumed), []);
    assert_eq!(run(&mut machine, Event::Received(1)), [Effect::Run(Step::Message(1))]);
    run(&mut machine, Event::Ended);
    assert_eq!(run(&mut machine, Event::Lost), [Effect::Detach]);
    assert_eq!(run(&mut machine, Event::GraceEnded), [Effect::Run(Step::End)]);
}

#[test]
fn a_client_that_leaves_does_not_detach() {
    let mut machine = opened(true);
    assert_eq!(run(&mut machine, Event::PeerClosed { leaves: true }), [Effect::Run(Step::End)]);
}

#[test]
fn suspended_nothing_starts() {
    let mut machine = opened(false);
    run(&mut machine, Event::Suspend);
    assert_eq!(run(&mut machine, Event::Received(1)), []);
    assert_eq!(run(&mut machine, Event::Unsuspend), [Effect::Run(Step::Message(1))]);
}

#[test]
fn draining_handles_what_waits_and_then_closes() {
    let mut machine = opened(false);
    run(&mut machine, Event::Received(1));
    run(&mut machine, Event::Received(2));
    assert_eq!(run(&mut machine, Event::Drain(bye())), []);
    assert_eq!(run(&mut machine, Event::Received(3)), []);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Run(Step::Message(2))]);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Close(bye()), Effect::Run(Step::End)]);
}

#[test]
fn draining_detaches_what_can_resume() {
    let mut machine = opened(true);
    assert_eq!(run(&mut machine, Event::Drain(bye())), [Effect::Close(bye()), Effect::Detach]);
}

#[test]
fn a_displaced_connection_ends_without_on_disconnect() {
    let mut machine = opened(true);
    run(&mut machine, Event::Received(1));
    assert_eq!(run(&mut machine, Event::Displaced(bye())), [Effect::Close(bye())]);
    assert_eq!(run(&mut machine, Event::Ended), [Effect::Done]);
}
