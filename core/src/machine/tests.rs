use proptest::prelude::*;

use super::*;

impl Weigh for u32 {
    fn weight(&self) -> usize {
        *self as usize % 7
    }
}

const BACKLOG: Backlog = Backlog { messages: 4, bytes: 1000 };

fn bye() -> Close {
    Close::normal("bye")
}

/// Feeds events, answering nothing by itself, and tells the effects.
fn run(machine: &mut Machine<u32>, event: Event<u32>) -> Vec<Effect<u32>> {
    take(machine, event).into_vec()
}

/// As a driver does it: messages are offered, and a handler's end may rest.
fn take(machine: &mut Machine<u32>, event: Event<u32>) -> Effects<u32> {
    let mut effects = Effects::new();
    if let Event::Received(message) = event {
        let now = machine.offer(message, BACKLOG, &mut effects);
        effects.extend(now.map(|message| Effect::Run(Step::Message(message))));
    } else if event != Event::Ended || !machine.rest() {
        machine.handle(event, BACKLOG, &mut effects);
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

fn events() -> impl Strategy<Value = Event<u32>> {
    prop_oneof![
        8 => any::<u32>().prop_map(Event::Received),
        8 => Just(Event::Ended),
        1 => Just(Event::Refused(bye())),
        1 => Just(Event::Close(bye())),
        1 => any::<bool>().prop_map(|leaves| Event::PeerClosed { leaves }),
        1 => Just(Event::Lost),
        1 => Just(Event::Resumed),
        1 => Just(Event::Drain(bye())),
        2 => Just(Event::Suspend),
        3 => Just(Event::Unsuspend),
        1 => Just(Event::GraceEnded),
        1 => Just(Event::Displaced(bye())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// The invariants of the channel's life, for any order of events that a driver can bring about.
    #[test]
    fn invariants_hold_for_any_sequence(resumable: bool, events in prop::collection::vec(events(), 0..60)) {
        let mut machine = Machine::new(resumable);
        let (mut sent, mut started) = (Vec::new(), Vec::new());
        let (mut running, mut connected, mut closed_by_us, mut suspended) = (None, false, false, false);
        let (mut ends, mut done, mut displaced, mut detached) = (0, 0, false, false);
        let mut serial = 0;
        // A driver that stops early still lets the channel end: the tail closes the link and ends what runs.
        let tail = [Event::Unsuspend, Event::Lost, Event::GraceEnded].into_iter();
        let tail = tail.chain(std::iter::repeat_n(Event::Ended, 80)).chain([Event::GraceEnded, Event::Ended]);
        for event in std::iter::once(Event::Opened).chain(events).chain(tail) {
            let event = match event {
                Event::Ended | Event::Refused(_) if running.is_none() => continue,
                Event::Refused(_) if running != Some(Step::Connect) => Event::Ended,
                Event::Received(_) if detached => continue,
                Event::Received(_) => {
                    serial += 1;
                    sent.push(serial);
                    Event::Received(serial)
                }
                event => event,
            };
            if done > 0 {
                break;
            }
            match &event {
                Event::Ended | Event::Refused(_) => {
                    connected |= running == Some(Step::Connect);
                    running = None;
                }
                Event::Suspend => suspended = true,
                Event::Unsuspend => suspended = false,
                Event::Resumed => detached = false,
                Event::Displaced(_) => displaced = true,
                _ => {}
            }
            if matches!(event, Event::Close(_) | Event::Refused(_)) {
                closed_by_us = true;
            }
            for effect in take(&mut machine, event) {
                match effect {
                    Effect::Run(step) => {
                        prop_assert_eq!(&running, &None, "one handler at a time");
                        match &step {
                            Step::Message(message) => {
                                prop_assert!(connected, "no message before on_connect has ended");
                                prop_assert!(!closed_by_us && !displaced, "no message after a close");
                                prop_assert!(!suspended, "no message without a lease");
                                prop_assert_eq!(ends, 0);
                                started.push(*message);
                            }
                            Step::End => ends += 1,
                            Step::Connect => prop_assert!(!connected),
                        }
                        running = Some(step);
                    }
                    Effect::Detach => {
                        prop_assert!(resumable && running.is_none());
                        detached = true;
                    }
                    Effect::Done => done += 1,
                    Effect::Close(_) | Effect::Pause | Effect::Resume => {}
                }
            }
            prop_assert!(machine.waiting.len() <= BACKLOG.messages || machine.paused);
        }
        let mut in_order = started.clone();
        in_order.sort_unstable();
        prop_assert_eq!(&in_order, &started, "messages start in arrival order, each once");
        prop_assert!(started.iter().all(|message| sent.contains(message)));
        prop_assert_eq!(done, 1, "every channel comes to its end: {:?}", machine);
        if !displaced {
            prop_assert_eq!(ends, 1, "on_disconnect runs once for every channel whose on_connect started");
        }
    }
}
