//! Messages that wait while a handler runs, and requests that are answered meanwhile.

use std::time::Duration;

use strait_core::Endpoint;

use crate::kit::{Gate, Got, Notes, limits, serve, text};

/// Sends messages until the server takes no more; answers the number of bytes taken.
async fn fill(client: &mut crate::kit::TcpClient, message: &[u8], most: usize) -> usize {
    let mut taken = 0;
    while taken < most {
        match tokio::time::timeout(Duration::from_millis(200), client.socket.writable()).await {
            Ok(writable) => writable.expect("the socket is open"),
            Err(_) => break,
        }
        let rest = &message[taken % message.len()..];
        match client.socket.try_write(rest) {
            Ok(written) => taken += written,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    taken
}

#[tokio::test]
async fn while_a_handler_runs_messages_wait_until_there_are_too_many() {
    let (gate, seen) = (Gate::shut(), Notes::default());
    let handler = {
        let (gate, seen) = (gate.clone(), seen.clone());
        move |text: String| {
            let (gate, seen) = (gate.clone(), seen.clone());
            async move {
                seen.add("");
                gate.pass().await;
                text.len().to_string()
            }
        }
    };
    let node = serve(Endpoint::new("slow", "/slow").public().limits(limits()).on_message(handler)).await;
    let mut client = node.client("/slow").await;
    // Big messages wait up to 64 KiB; further bytes stay in the kernels' buffers, which in the end take no more.
    let message = text(&"x".repeat(60_000));
    let most = 200 << 20;
    let taken = fill(&mut client, &message, most).await;
    assert!(taken < most, "the server reads on and on");
    assert_eq!(seen.all().len(), 1, "one is handled at a time");
    // The server answers pings once it reads again, and loses nothing.
    let whole = taken.div_ceil(message.len());
    gate.let_in(whole);
    client.send(&message[taken % message.len()..][..(whole * message.len() - taken)]).await;
    for _ in 0..whole {
        client.expect("60000").await;
    }
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn pings_are_answered_while_a_handler_runs_until_16_messages_wait() {
    let gate = Gate::shut();
    let waiting = gate.clone();
    let handler = move |text: String| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            text
        }
    };
    let node = serve(Endpoint::new("slow", "/slow").public().limits(limits()).on_message(handler)).await;
    let mut client = node.client("/slow").await;
    for n in 0..16 {
        client.text(&n.to_string()).await;
    }
    client.send(crate::kit::ping(b"alive?")).await;
    assert_eq!(client.next().await, Got::Pong(b"alive?".to_vec()), "one runs and 15 wait: it still reads");
    client.send([text("16"), crate::kit::ping(b"too late")].concat()).await;
    let early = tokio::time::timeout(Duration::from_millis(50), client.next()).await;
    assert!(early.is_err(), "with 16 it stops: {early:?}");
    gate.let_in(17);
    let mut answers = Vec::new();
    for _ in 0..18 {
        answers.push(client.next().await);
    }
    let pong = answers.iter().position(|got| *got == Got::Pong(b"too late".to_vec())).expect("it is answered");
    answers.remove(pong);
    assert!((1..=17).contains(&pong), "{pong}");
    let expected: Vec<_> = (0..17).map(|n| Got::Text(n.to_string())).collect();
    assert_eq!(answers, expected);
    client.leave().await;
    node.end().await;
}
