//! The local gateway: an emulator of an API Gateway WebSocket API in front of a Lambda function, for development and
//! tests. It holds WebSockets, serves `@connections`, and hands events to instances of the function through the Lambda
//! runtime API. The book lists its differences from the real services.

mod connections;
mod events;
mod faults;
mod http_server;
mod instances;
mod invocations;
mod journal;
mod management;
mod runtime_api;
mod signature;
mod socket;
mod time;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use faults::{BadFault, Fault, Faults};
pub use journal::Entry;

use crate::function::Function;
use crate::gateway::{ApiGateway, ConfigError, Settings, SignedClient};
use crate::self_invoke::SelfInvoke;
use connections::Connections;
use invocations::Invocations;
use journal::Journal;

const REGION: &str = "us-east-1";
const KEY: &str = "AKIDLOCALGATEWAY";
const FUNCTION: &str = "local";

/// The gateway's settings. The defaults are the quotas of the real one.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a connection may be quiet: 10 min.
    pub idle: Duration,
    /// How long a connection may last: 2 h.
    pub lifetime: Duration,
    /// The longest frame that is taken, in bytes: 32 KiB.
    pub frame: usize,
    /// The longest message that is taken and posted, in bytes: 128 KiB.
    pub message: usize,
    /// How long an answer is awaited: 29 s.
    pub integration: Duration,
    /// How long the function may run: 30 s.
    pub function: Duration,
    /// The time that each hop takes in addition: nothing by default.
    pub latency: Duration,
    /// How often the janitor is called; never by default.
    pub janitor: Option<Duration>,
    /// The secret key that signs requests. Set it if others than this gateway's function need it: nodes of a mixed
    /// fleet, AWS' command line. A random one by default.
    pub secret: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(10),
            lifetime: Duration::from_hours(2),
            frame: 32 * 1024,
            message: 128 * 1024,
            integration: Duration::from_secs(29),
            function: Duration::from_secs(30),
            latency: Duration::ZERO,
            janitor: None,
            secret: None,
        }
    }
}

impl Options {
    /// Divides the idle time and the lifetime, so that a test sees in seconds the effects of hours.
    ///
    /// # Panics
    /// `times` is not above 0, or so small that there is no such duration.
    #[must_use]
    pub fn faster(mut self, times: f64) -> Self {
        self.idle = self.idle.div_f64(times);
        self.lifetime = self.lifetime.div_f64(times);
        self
    }
}

/// The state that all parts share.
struct Shared {
    options: Options,
    faults: Faults,
    connections: Connections,
    invocations: Invocations,
    journal: Journal,
    /// The secret key that requests must be signed with.
    secret: String,
    /// Where WebSockets and `@connections` are.
    address: SocketAddr,
    /// How many processes were started.
    started: AtomicU64,
    /// The system's ids of the running processes.
    processes: Mutex<BTreeSet<u32>>,
    /// Whether any process has asked for an invocation.
    has_begun: AtomicBool,
    /// A process has ended before any process has asked for an invocation.
    broken: Notify,
}

/// A running gateway; it ends when this is dropped.
pub struct LocalGateway {
    shared: Arc<Shared>,
    runtime_api: SocketAddr,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for LocalGateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalGateway").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

impl Drop for LocalGateway {
    fn drop(&mut self) {
        self.tasks.lock().iter().for_each(JoinHandle::abort);
        self.shared.connections.drop_all();
    }
}

impl LocalGateway {
    /// Serves WebSockets and `@connections` on `listener`, and the runtime API on a port of its own. There are no
    /// instances of the function yet.
    ///
    /// # Errors
    /// There is no port for the runtime API.
    pub async fn start(listener: TcpListener, options: Options) -> std::io::Result<Self> {
        let runtime_listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let runtime_api = runtime_listener.local_addr()?;
        let shared = Arc::new(Shared {
            faults: Faults::default(),
            connections: Connections::default(),
            invocations: Invocations::new(options.function),
            journal: Journal::default(),
            secret: options.secret.clone().unwrap_or_else(socket::random_id),
            address: listener.local_addr()?,
            started: AtomicU64::new(0),
            processes: Mutex::default(),
            has_begun: AtomicBool::new(false),
            broken: Notify::new(),
            options,
        });
        let mut tasks = vec![
            tokio::spawn(http_server::serve(listener, Arc::clone(&shared), http_server::front)),
            tokio::spawn(http_server::serve(runtime_listener, Arc::clone(&shared), |shared, _, request| {
                runtime_api::answer(shared, None, request)
            })),
        ];
        if let Some(every) = shared.options.janitor {
            tasks.push(tokio::spawn(instances::call_janitor(Arc::clone(&shared), every)));
        }
        Ok(Self { shared, runtime_api, tasks: Mutex::new(tasks) })
    }

    /// Where WebSockets are served: `ws://{address}/?path=/rooms/a`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The injected faults; they can change while the gateway runs.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The last invocations so far.
    #[must_use]
    pub fn journal(&self) -> Vec<Entry> {
        self.shared.journal.entries()
    }

    /// A gateway client that signs with this gateway's key.
    ///
    /// # Errors
    /// The machine's root certificates cannot be read.
    pub fn client(&self, settings: Settings) -> Result<ApiGateway, ConfigError> {
        let client = SignedClient::with_keys("execute-api", REGION, KEY, &self.shared.secret)?;
        Ok(ApiGateway::new(settings, client))
    }

    /// A continuation that invokes this gateway's function.
    ///
    /// # Errors
    /// The machine's root certificates cannot be read.
    pub fn self_invoke(&self) -> Result<SelfInvoke, ConfigError> {
        let client = SignedClient::with_keys("lambda", REGION, KEY, &self.shared.secret)?;
        Ok(SelfInvoke::new(client, &format!("http://{}", self.shared.address), FUNCTION, None))
    }

    /// A function of an application, at this gateway's connections.
    #[must_use]
    pub fn function(&self, app: strait_core::App) -> Function {
        Function::new(app, REGION, Some(&format!("http://{}", self.shared.address)))
    }

    /// Adds instances of a function that run in this process.
    pub fn run_here(&self, function: &Function, count: usize) {
        let instance = || tokio::spawn(instances::run_here(Arc::clone(&self.shared), function.clone()));
        self.tasks.lock().extend(std::iter::repeat_with(instance).take(count));
    }

    /// Adds instances of a function that are processes; each is started again when it ends. With `together`, each
    /// handles this many invocations at once.
    pub fn run_processes(&self, program: &Program, count: usize, together: usize) {
        let mut variables = self.variables();
        if together > 1 {
            variables.push(("AWS_LAMBDA_MAX_CONCURRENCY", together.to_string()));
        }
        let instance = |number| {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(instances::run_process(shared, program.clone(), variables.clone(), number))
        };
        self.tasks.lock().extend((1..=count).map(instance));
    }

    /// The variables of Lambda's environment that the runtime and the AWS clients read.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let front = format!("http://{}", self.shared.address);
        vec![
            ("AWS_LAMBDA_RUNTIME_API", self.runtime_api.to_string()),
            ("AWS_LAMBDA_FUNCTION_NAME", FUNCTION.to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/local".to_owned()),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "local".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", self.shared.secret.clone()),
            ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", front.clone()),
            ("AWS_ENDPOINT_URL_LAMBDA", front),
        ]
    }

    /// Invokes the function with the janitor's scheduled event, and waits for its end; `false` if the invocation
    /// failed.
    pub async fn sweep(&self) -> bool {
        instances::sweep(&self.shared).await
    }

    /// The system's ids of the instances that are processes.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.shared.processes.lock().iter().copied().collect()
    }

    /// Waits until a process has ended before any has asked for an invocation: the function cannot begin at all.
    pub async fn broken(&self) {
        self.shared.broken.notified().await;
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.len()
    }

    /// Whether no invocation runs or waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.shared.invocations.is_idle()
    }
}

/// A program that is a Lambda function: `bootstrap`.
#[derive(Debug, Clone)]
pub struct Program {
    /// The path of the program.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Environment variables in addition to those that Lambda sets.
    pub variables: Vec<(String, String)>,
}
