//! Serves the chat from a long-lived node.

mod arguments;
mod metrics;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use arguments::{Arguments, Order};
use strait_adapter_fastws::Server;
use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> anyhow::Result<ExitCode> {
    match arguments::read(lexopt::Parser::from_env()) {
        Ok(Order::Serve(arguments)) => serve(*arguments)?,
        // With a closed stdout or stderr there is no reader to inform.
        Ok(Order::Tell(text)) => drop(write!(std::io::stdout(), "{text}")),
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error}\n\nFor more information, try '--help'."));
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => {
            filter.parse().context("RUST_LOG must be a level, or targets with levels: info,strait_core=debug")?
        }
        Err(_) => Targets::new().with_default(Level::INFO),
    };
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    let metrics = metrics::recorder()?;
    let app = if arguments.load_tests { chat::with_load_tests(chat::app()) } else { chat::app() };
    let app = arguments.store.give(app);
    #[cfg(feature = "lambda")]
    let app = if arguments.gateway { app.gateway(strait_adapter_lambda::ApiGateway::from_env()?) } else { app };
    let app = app.lease(arguments.lease).build()?;
    let server = Server::new(app);
    // Clients of a mixed fleet have one form of URL for nodes and functions.
    #[cfg(feature = "lambda")]
    let server = if arguments.gateway { server.path_in_query() } else { server };
    server
        .limits(arguments.limits)
        .fallback(chat::page())
        .metrics(move || metrics.render())
        .run(arguments.listen, arguments.runtime, listening)
        .with_context(|| format!("{} could not be served", arguments.listen))
}

fn listening(address: SocketAddr) {
    let _ = writeln!(std::io::stdout(), "listening on http://{address}");
}
