//! The local gateway as a program: starts instances of a Lambda function and serves WebSockets in front of them.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
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
    #[arg(long, default_value_t = 4, value_name = "N")]
    instances: usize,

    /// How many invocations each of them handles at once (AWS_LAMBDA_MAX_CONCURRENCY)
    #[arg(long, default_value_t = 1, value_name = "N")]
    together: usize,

    /// What every hop takes longer than on this machine, in milliseconds
    #[arg(long, default_value_t = 0, value_name = "MS")]
    latency: u64,

    /// What goes wrong, and how often: post=429:0.1, post=500, post=hang:0.01, disconnect=lost, disconnect=twice,
    /// connect=twice, message=error
    #[arg(long, value_name = "FAULT")]
    fault: Vec<Fault>,

    /// How many times quicker the idle time of 10 min and the lifetime of 2 h pass
    #[arg(long, default_value_t = 1.0, value_name = "TIMES")]
    time_scale: f64,

    /// Call the janitor every so many seconds; 0 never does
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    janitor: u64,

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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut program = arguments.program.into_iter();
    let path = PathBuf::from(program.next().unwrap_or_default());
    let program = Program { path, arguments: program.collect(), variables: arguments.env };
    let mut options = Options::default().faster(arguments.time_scale);
    options.latency = Duration::from_millis(arguments.latency);
    options.janitor = (arguments.janitor > 0).then(|| Duration::from_secs(arguments.janitor));
    let gateway = LocalGateway::start(TcpListener::bind(arguments.listen).await?, options).await?;
    arguments.fault.into_iter().for_each(|fault| gateway.faults().add(fault));
    gateway.run_processes(&program, arguments.instances, arguments.together);
    let address = gateway.address();
    // A closed stdout leaves nobody to tell.
    let _ = writeln!(std::io::stdout(), "listening on ws://{address}/?path=… (invocations: http://{address}/_local)");
    end().await;
    Ok(())
}

/// Waits for SIGINT or SIGTERM; the instances end with this process's end.
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
