//! The local gateway as a program: starts instances of a Lambda function and serves WebSockets in front of them.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use strait_adapter_lambda::local::{Fault, LocalGateway, Options, Program};
use tokio::net::TcpListener;

/// An API Gateway WebSocket API and the Lambda runtime, on this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The address and port to serve WebSockets and @connections on
    #[arg(long, default_value = "127.0.0.1:9001", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// How many processes of the function run
    #[arg(long, default_value = "4", value_name = "N")]
    instances: NonZeroUsize,

    /// How many invocations each of them handles at once (AWS_LAMBDA_MAX_CONCURRENCY)
    #[arg(long, default_value = "1", value_name = "N")]
    together: NonZeroUsize,

    /// The time that each hop takes in addition, in milliseconds
    #[arg(long, default_value_t = 0, value_name = "MS")]
    latency: u64,

    /// Faults, with their probability: post=429:0.1, post=500, post=hang:0.01, disconnect=lost, disconnect=twice,
    /// connect=twice, message=error
    #[arg(long, value_name = "FAULT")]
    fault: Vec<Fault>,

    /// How many times quicker the idle time of 10 min and the lifetime of 2 h pass
    #[arg(long, default_value_t = 1.0, value_name = "TIMES", value_parser = times)]
    time_scale: f64,

    /// Call the janitor every so many seconds; 0 never does
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    janitor: u64,

    /// The secret key that signs requests, for nodes or AWS' command line that make some too; a random one unless it is
    /// given
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,

    /// A variable of the function's environment, NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,

    /// The function's program, and its arguments
    #[arg(last = true, required = true, value_name = "BOOTSTRAP")]
    program: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn times(text: &str) -> Result<f64, &'static str> {
    let times = text.parse().ok().filter(|times: &f64| times.is_finite() && *times >= 0.001);
    times.ok_or("write a number, 0.001 or more")
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With a closed stderr there is no reader to inform.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(ansi).with_target(false).init();
    let mut program = arguments.program.into_iter();
    let path = PathBuf::from(program.next().unwrap_or_default());
    let program = Program { path, arguments: program.collect(), variables: arguments.env };
    let mut options = Options::default().faster(arguments.time_scale);
    options.latency = Duration::from_millis(arguments.latency);
    options.janitor = (arguments.janitor > 0).then(|| Duration::from_secs(arguments.janitor));
    options.secret = arguments.secret;
    let cannot = |error| format!("{} cannot be listened on: {error}", arguments.listen);
    let listener = TcpListener::bind(arguments.listen).await.map_err(cannot)?;
    let gateway = LocalGateway::start(listener, options).await.map_err(|error| format!("no runtime API: {error}"))?;
    arguments.fault.into_iter().for_each(|fault| gateway.faults().add(fault));
    gateway.run_processes(&program, arguments.instances.get(), arguments.together.get());
    let address = gateway.address();
    // With a closed stdout there is no reader to inform.
    let _ = writeln!(std::io::stdout(), "listening on ws://{address}/?path=… (invocations: http://{address}/_local)");
    tokio::select! {
        () = end() => Ok(()),
        () = gateway.broken() => {
            Err("the function has ended before it asked for an event, it says why above".to_owned())
        }
    }
}

/// Waits for SIGINT or SIGTERM; the instances end with this process.
async fn end() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
    }
}
