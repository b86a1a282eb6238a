//! Measures the chat's function behind the local gateway: the time to start, its size, and the time of its invocations.
//!
//! `cargo run --release -p strait-adapter-lambda --features local --example latency -- path/to/bootstrap redis://…`

use std::io::{Error, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{SinkExt, StreamExt};
use strait_adapter_lambda::local::{LocalGateway, Options, Program};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

const STARTS: usize = 20;
const WARM: usize = 20;
const ROUNDS: usize = 500;
const INSTANCES: usize = 4;
const MEMBERS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn say(text: impl std::fmt::Display) {
    // With a closed stdout there is no reader to inform.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn percentiles(mut took: Vec<Duration>) -> String {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99))
}

/// A process that ends with this program, if `main` returns.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From the process's start to its first request for an event, and the memory it has then, in KiB.
async fn start(program: &Program, variables: &[(&'static str, String)]) -> Result<(Duration, u64)> {
    let runtime_api = TcpListener::bind("127.0.0.1:0").await?;
    let mut command = Command::new(&program.path);
    command.envs(variables.iter().map(|(name, value)| (*name, value)));
    command.envs(program.variables.iter().map(|(name, value)| (name, value)));
    command.env("AWS_LAMBDA_RUNTIME_API", runtime_api.local_addr()?.to_string()).stdout(Stdio::null());
    let began = Instant::now();
    let process = Started(command.spawn()?);
    let (mut asking, _) = tokio::time::timeout(PATIENCE, runtime_api.accept()).await??;
    let mut head = [0; 512];
    let read = asking.read(&mut head).await?;
    let took = began.elapsed();
    if !String::from_utf8_lossy(&head[..read]).contains("/invocation/next") {
        return Err(Error::other("it asks for something else than an event").into());
    }
    Ok((took, resident(process.0.id())?))
}

/// In KiB.
fn resident(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or_else(|| Error::other("no VmRSS"))?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

async fn connect(gateway: &LocalGateway, path: &str) -> Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(gateway.address()).await?;
    stream.set_nodelay(true)?;
    let (client, _) = client_async(format!("ws://{}/?path={path}", gateway.address()), stream).await?;
    Ok(client)
}

/// Sends, and reads until a message that starts with `answer` comes.
async fn ask(client: &mut WebSocketStream<TcpStream>, text: &str, answer: &str) -> Result<()> {
    client.send(Message::text(text)).await?;
    let answered = async {
        while let Some(message) = client.next().await {
            if message?.to_text()?.starts_with(answer) {
                return Ok(());
            }
        }
        Err(Error::other("the connection has ended").into())
    };
    tokio::time::timeout(PATIENCE, answered).await?
}

/// The time of the last invocation of a kind that began after `since`, once none runs.
async fn last(gateway: &LocalGateway, what: &str, since: SystemTime) -> Result<Duration> {
    let since = u64::try_from(since.duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    let began = Instant::now();
    loop {
        let entry = gateway.journal().into_iter().rev().find(|entry| entry.what == what && entry.at >= since);
        match entry {
            Some(entry) if entry.outcome != "200" => {
                return Err(Error::other(format!("{what}: {}", entry.outcome)).into());
            }
            Some(entry) if gateway.is_idle() => return Ok(Duration::from_micros(entry.took)),
            _ if began.elapsed() > PATIENCE => return Err(Error::other(format!("no {what} that ends")).into()),
            _ => tokio::time::sleep(Duration::from_micros(500)).await,
        }
    }
}

#[derive(Default)]
struct Times {
    handshakes: Vec<Duration>,
    answers: Vec<Duration>,
    connects: Vec<Duration>,
    messages: Vec<Duration>,
    disconnects: Vec<Duration>,
}

/// One measurement: the path, the message sent before, the message sent, and the beginning of its answer.
type Case = [&'static str; 4];
const CASES: [Case; 2] = [
    ["/echo", "before", "hello", "hello"],
    [
        "/rooms/measure",
        r#"{"action":"login","nickname":"ada"}"#,
        r#"{"action":"post","text":"hi"}"#,
        r#"{"action":"post""#,
    ],
];

/// One client that connects, asks and leaves: no two of its invocations overlap.
async fn round(gateway: &LocalGateway, [path, before, text, answer]: Case, times: &mut Times) -> Result<()> {
    let (since, began) = (SystemTime::now(), Instant::now());
    let mut client = connect(gateway, path).await?;
    times.handshakes.push(began.elapsed());
    times.connects.push(last(gateway, "connect", since).await?);
    let since = SystemTime::now();
    ask(&mut client, before, if before.starts_with('{') { r#"{"action":"login""# } else { before }).await?;
    last(gateway, "message", since).await?;
    // The journal tells times to the millisecond.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let (since, began) = (SystemTime::now(), Instant::now());
    ask(&mut client, text, answer).await?;
    times.answers.push(began.elapsed());
    times.messages.push(last(gateway, "message", since).await?);
    let since = SystemTime::now();
    client.close(None).await?;
    while tokio::time::timeout(PATIENCE, client.next()).await?.is_some() {}
    times.disconnects.push(last(gateway, "disconnect", since).await?);
    Ok(())
}

/// A publication to members that are all at the gateway.
async fn fan_out(gateway: &LocalGateway) -> Result<()> {
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        let mut member = connect(gateway, "/fan").await?;
        ask(&mut member, r#"{"action":"subscribe","topic":"fan:measure"}"#, r#"{"action":"subscribe"}"#).await?;
        members.push(member);
    }
    let mut publisher = connect(gateway, "/fan").await?;
    let (mut arrivals, mut invocations) = (Vec::new(), Vec::new());
    for at in 0..WARM + ROUNDS {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let (since, began) = (SystemTime::now(), Instant::now());
        let publish = format!(r#"{{"action":"publish","topic":"fan:measure","data":"round {at}"}}"#);
        ask(&mut publisher, &publish, r#"{"action":"publish"}"#).await?;
        for member in &mut members {
            let event = tokio::time::timeout(PATIENCE, member.next()).await?.ok_or("the connection has ended")??;
            if event.to_text()? != format!("\"round {at}\"") {
                return Err(Error::other(format!("{event} in round {at}")).into());
            }
        }
        let arrived = began.elapsed();
        let took = last(gateway, "message", since).await?;
        if at >= WARM {
            arrivals.push(arrived);
            invocations.push(took);
        }
    }
    say(format_args!("a publication to {MEMBERS} members, {ROUNDS} rounds"));
    say(format_args!("  the last member's event: {}", percentiles(arrivals)));
    say(format_args!("  invocation: message: {}", percentiles(invocations)));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(store)) = (arguments.next(), arguments.next()) else {
        return Err(Error::other("say which program and which store: path/to/bootstrap redis://…").into());
    };
    let variables = vec![("CHAT_STORE".to_owned(), store), ("CHAT_LOAD_TESTS".to_owned(), "1".to_owned())];
    let program = Program { path: PathBuf::from(path), arguments: Vec::new(), variables };
    say(format_args!("{} bytes", std::fs::metadata(&program.path)?.len()));

    let gateway = LocalGateway::start(TcpListener::bind("127.0.0.1:0").await?, Options::default()).await?;
    let (mut took, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let (time, resident) = start(&program, &gateway.variables()).await?;
        took.push(time);
        memory.push(resident);
    }
    memory.sort_unstable();
    let memory = memory[STARTS / 2];
    say(format_args!("start to the first request for an event: {}; {memory} KiB resident then", percentiles(took)));

    gateway.run_processes(&program, INSTANCES, 1);
    for case in CASES {
        let mut times = Times::default();
        for at in 0..WARM + ROUNDS {
            if at == WARM {
                times = Times::default();
            }
            round(&gateway, case, &mut times).await?;
        }
        say(format_args!("{}, {ROUNDS} rounds, {INSTANCES} instances", case[0]));
        for (what, times) in [
            ("the client's handshake", times.handshakes),
            ("the client's answer", times.answers),
            ("invocation: connect", times.connects),
            ("invocation: message", times.messages),
            ("invocation: disconnect", times.disconnects),
        ] {
            say(format_args!("  {what}: {}", percentiles(times)));
        }
    }
    fan_out(&gateway).await?;
    let memory = gateway.processes().into_iter().map(resident).collect::<Result<Vec<_>>>()?;
    say(format_args!("an instance that has done all this: {} KiB resident", memory.into_iter().max().unwrap_or(0)));
    Ok(())
}
