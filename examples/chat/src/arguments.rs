//! The command line, read with little code: a parser that derives all of this would take a tenth of the chat's build
//! time.

use std::fmt::Display;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use chat::Store;
use lexopt::Arg::{Long, Short, Value};
use lexopt::{Error, Parser};
use strait_adapter_fastws::{Runtimes, ServerLimits};

const LEASES: std::ops::RangeInclusive<u64> = 100..=3_600_000;

/// The order that the chat was given.
#[derive(Debug)]
pub(crate) enum Order {
    Serve(Box<Arguments>),
    /// Print this, and nothing else.
    Tell(String),
}

/// How the chat is served.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) listen: SocketAddr,
    pub(crate) store: Store,
    pub(crate) runtime: Runtimes,
    pub(crate) lease: Duration,
    pub(crate) limits: ServerLimits,
    /// Serve `/echo` and `/fan` too.
    pub(crate) load_tests: bool,
    /// Post to channels at API Gateway too.
    #[cfg(feature = "lambda")]
    pub(crate) gateway: bool,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            store: Store::Memory,
            runtime: Runtimes::PerCore,
            lease: Duration::from_secs(15),
            limits: ServerLimits::default(),
            load_tests: false,
            #[cfg(feature = "lambda")]
            gateway: false,
        }
    }
}

/// Reads the arguments behind the program's name.
pub(crate) fn read(mut parser: Parser) -> Result<Order, Error> {
    let mut arguments = Arguments::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => arguments.listen = value(&mut parser, "--listen", address)?,
            Long("store") => arguments.store = value(&mut parser, "--store", Store::from_str)?,
            Long("runtime") => arguments.runtime = value(&mut parser, "--runtime", runtimes)?,
            Long("lease") => arguments.lease = value(&mut parser, "--lease", milliseconds)?,
            Long("connections") => arguments.limits.connections = value(&mut parser, "--connections", usize::from_str)?,
            Long("accepts") => arguments.limits.accepts_per_second = value(&mut parser, "--accepts", u32::from_str)?,
            Long("load-tests") => arguments.load_tests = true,
            #[cfg(feature = "lambda")]
            Long("gateway") => arguments.gateway = true,
            Long("help") | Short('h') => return Ok(Order::Tell(help())),
            Long("version") | Short('V') => return Ok(Order::Tell(format!("chat {}\n", env!("CARGO_PKG_VERSION")))),
            Value(_) | Long(_) | Short(_) => return Err(argument.unexpected()),
        }
    }
    Ok(Order::Serve(Box::new(arguments)))
}

/// The error does not repeat the argument: a store's URL may hold a password.
fn value<T, E: Display>(
    parser: &mut Parser,
    option: &str,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Error> {
    let text = parser.value()?.into_string().map_err(|_| format!("{option}: this is no UTF-8"))?;
    read(&text).map_err(|error| format!("{option}: {error}").into())
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

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|number| LEASES.contains(number));
    number
        .map(Duration::from_millis)
        .ok_or_else(|| format!("a lease is a number of milliseconds from {} to {}", LEASES.start(), LEASES.end()))
}

fn help() -> String {
    let default = Arguments::default();
    let gateway = if cfg!(feature = "lambda") { GATEWAY } else { "" };
    format!(
        "A chat on Strait: rooms at /rooms/{{room}}, and a page for people

Usage: chat [OPTIONS]

Options:
      --listen <ADDRESS:PORT>  The address and port to serve on [default: {}]
      --store <STORE>          Where channels and topics are kept: memory, or redis://HOST:PORT or
                               postgres://USER@HOST/DATABASE for all chats with the same one [default: memory]
      --runtime <RUNTIME>      Which threads serve: per-core, shared, or a number of single-threaded runtimes
                               [default: per-core]
      --lease <MILLISECONDS>   How long the other chats of the same store wait for this one before they take over what
                               it leaves [default: {}]
      --connections <NUMBER>   How many connections may be open at once [default: {}]
      --accepts <NUMBER>       How many sockets are accepted in a second; the others wait [default: {}]
      --load-tests             Serve an echo at /echo and a fan-out at /fan too, whose limits let one client take all of
                               this node: for benchmarks
{gateway}  -h, --help                   Print help
  -V, --version                Print version
",
        default.listen,
        default.lease.as_millis(),
        default.limits.connections,
        default.limits.accepts_per_second
    )
}

const GATEWAY: &str =
    "      --gateway                Post to channels at API Gateway too, with region and credentials of the environment:
                               for a fleet of nodes and functions on one store
";
