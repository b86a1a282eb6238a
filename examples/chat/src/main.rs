//! Serves the chat from a long-lived node.

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::Context;
use chat::Store;
use clap::Parser;
use strait_adapter_fastws::{Runtimes, Server, ServerLimits};
use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A chat on Strait: rooms at /rooms/{room}, an echo at /echo, a fan-out for load tests at /fan, and a page for people.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The address and port to serve on
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT", value_parser = address)]
    listen: SocketAddr,

    /// Where channels and topics are kept: memory, or redis://HOST:PORT or postgres://USER@HOST/DATABASE for all chats
    /// with the same one
    #[arg(long, default_value = "memory", value_name = "STORE")]
    store: Store,

    /// Which threads serve: per-core, shared, or a number of single-threaded runtimes
    #[arg(long, default_value = "per-core", value_name = "RUNTIME", value_parser = runtimes)]
    runtime: Runtimes,

    /// How long the other chats of the same store wait for this one before they take over what it leaves
    #[arg(long, default_value_t = 15_000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    lease: u64,

    /// How many connections may be open at once
    #[arg(long, default_value_t = ServerLimits::default().connections, value_name = "NUMBER")]
    connections: usize,

    /// How many sockets are accepted in a second; the others wait
    #[arg(long, default_value_t = ServerLimits::default().accepts_per_second, value_name = "NUMBER")]
    accepts: u32,

    /// Post to channels at API Gateway too, with region and credentials of the environment: for a fleet of nodes and
    /// functions on one store
    #[cfg(feature = "lambda")]
    #[arg(long)]
    gateway: bool,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    let found = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or("give an address and a port, such as 127.0.0.1:8080")
}

fn runtimes(text: &str) -> Result<Runtimes, &'static str> {
    match text {
        "per-core" => Ok(Runtimes::PerCore),
        "shared" => Ok(Runtimes::Shared),
        number => number
            .parse::<NonZeroUsize>()
            .map(Runtimes::Threads)
            .map_err(|_| "a runtime is per-core, shared, or a number of threads"),
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => {
            filter.parse().context("RUST_LOG must be a level, or targets with levels: info,strait_core=debug")?
        }
        Err(_) => Targets::new().with_default(Level::INFO),
    };
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new()
        .install_recorder()
        .context("the metrics recorder could not be installed")?;
    let app = arguments.store.give(chat::app());
    #[cfg(feature = "lambda")]
    let app = if arguments.gateway { app.gateway(strait_adapter_lambda::ApiGateway::from_env()?) } else { app };
    let app = app.lease(Duration::from_millis(arguments.lease)).build()?;
    let Arguments { connections, accepts: accepts_per_second, .. } = arguments;
    Server::new(app)
        .limits(ServerLimits { connections, accepts_per_second, ..ServerLimits::default() })
        .fallback(chat::page())
        .metrics(move || metrics.render())
        .run(arguments.listen, arguments.runtime, listening)
        .with_context(|| format!("{} could not be served", arguments.listen))
}

fn listening(address: SocketAddr) {
    // A closed stdout leaves nobody to tell.
    let _ = writeln!(std::io::stdout(), "listening on http://{address}");
}
