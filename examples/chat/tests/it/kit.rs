//! The chat as a process of its own, and clients of it.

#[allow(clippy::unwrap_used, reason = "of the Postgres store's own tests")]
#[path = "../../../../store-postgres/tests/it/kit/skip.rs"]
mod skip;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

pub(crate) use skip::skip;

/// The longest time for anything.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn chat(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat"));
    command.args(arguments);
    command
}

/// A chat that is killed when it goes out of scope: a node, or functions behind the local gateway.
pub(crate) struct Server {
    runs: Runs,
    pub(crate) address: String,
}

enum Runs {
    Node(Child),
    #[cfg(feature = "lambda")]
    Functions(strait_adapter_lambda::local::LocalGateway),
}

impl Server {
    /// A node with the endpoints of load tests.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// A node as people run it.
    pub(crate) fn start_plain() -> Self {
        Self::run(chat(&["--listen", "127.0.0.1:0"]))
    }

    /// A node with these environment variables, too.
    pub(crate) fn start_with(arguments: &[&str], variables: &[(&str, String)]) -> Self {
        let mut command = chat(&["--listen", "127.0.0.1:0", "--load-tests"]);
        command.args(arguments).envs(variables.iter().cloned());
        Self::run(command)
    }

    /// A node that says where it listens, as the chat does.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let said = |line: String| Some(line.split_once("listening on http://")?.1.to_owned());
        let address = lines.map_while(Result::ok).find_map(said).expect("it prints its URL");
        Self { runs: Runs::Node(process), address }
    }

    /// So many processes of the chat's Lambda function, or one that handles so many invocations at once.
    #[cfg(feature = "lambda")]
    pub(crate) async fn lambda(store: &str, processes: usize, together: usize) -> Self {
        let variables = [("CHAT_STORE", store), ("CHAT_LOAD_TESTS", "1")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self::functions(env!("CARGO_BIN_EXE_bootstrap").as_ref(), &[], variables, processes, together).await
    }

    /// As [`lambda`](Self::lambda), of any program.
    #[cfg(feature = "lambda")]
    pub(crate) async fn functions(
        program: &std::path::Path,
        arguments: &[&str],
        variables: Vec<(String, String)>,
        processes: usize,
        together: usize,
    ) -> Self {
        use strait_adapter_lambda::local::{LocalGateway, Options, Program};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let gateway = LocalGateway::start(listener, Options::default()).await.expect("it listens");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let program = Program { path: program.into(), arguments, variables };
        gateway.run_processes(&program, processes, together);
        let address = gateway.address().to_string();
        Self { runs: Runs::Functions(gateway), address }
    }

    /// The variables that a node needs to post to connections of these functions' gateway.
    #[cfg(feature = "lambda")]
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        match &self.runs {
            Runs::Node(_) => Vec::new(),
            Runs::Functions(gateway) => gateway.variables(),
        }
    }

    /// The gateway in front of the functions.
    #[cfg(feature = "lambda")]
    pub(crate) fn gateway(&self) -> &strait_adapter_lambda::local::LocalGateway {
        let Runs::Functions(gateway) = &self.runs else { panic!("this is a node") };
        gateway
    }

    fn node(&self) -> &Child {
        match &self.runs {
            Runs::Node(process) => process,
            #[cfg(feature = "lambda")]
            Runs::Functions(_) => panic!("this is no node"),
        }
    }

    pub(crate) async fn client(&self, path: &str) -> Client {
        let stream = TcpStream::connect(&self.address).await.expect("it listens");
        let path = match &self.runs {
            // Behind API Gateway the query holds the path and the path's own query; it is encoded, as it is decoded
            // once more on its way.
            #[cfg(feature = "lambda")]
            Runs::Functions(_) if !path.starts_with("/?") => {
                format!("/?path={}", path.replace('%', "%25").replace('?', "&"))
            }
            _ => path.to_owned(),
        };
        Client::open(stream, &format!("ws://{}{path}", self.address)).await
    }

    /// The node's process.
    pub(crate) fn process(&self) -> u32 {
        self.node().id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Asks for a page, and gives the status line and the headers.
    pub(crate) async fn head(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.address);
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let (mut head, mut byte) = (Vec::new(), [0]);
        let read = async {
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.is_ok_and(|read| read > 0) {
                head.push(byte[0]);
            }
        };
        timeout(LIMIT, read).await.expect("it answers in time");
        String::from_utf8(head).expect("ASCII")
    }

    pub(crate) async fn exit(mut self) -> ExitStatus {
        #[allow(irrefutable_let_patterns, reason = "without functions all are nodes")]
        let Runs::Node(process) = &mut self.runs else { panic!("this is no node") };
        let wait = async {
            loop {
                if let Some(status) = process.try_wait().expect("it is our process") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, wait).await.expect("it ends in time")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &mut self.runs {
            Runs::Node(process) => {
                let _ = process.kill();
                let _ = process.wait();
            }
            // The gateway's processes end with it.
            #[cfg(feature = "lambda")]
            Runs::Functions(_) => {}
        }
    }
}

pub(crate) struct Client(WebSocketStream<TcpStream>);

impl Client {
    pub(crate) async fn open(stream: TcpStream, url: &str) -> Self {
        Self(client_async(url, stream).await.expect("it is let in").0)
    }

    pub(crate) async fn send(&mut self, message: impl Into<Message>) {
        self.0.send(message.into()).await.expect("it is sent");
    }

    /// The next message that is no ping.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            let next = timeout(LIMIT, self.0.next()).await.expect("it comes in time");
            match next.expect("the connection is there").expect("it can be read") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// A client of a node, if that is there and lets it in.
    pub(crate) async fn connect(address: &str, path: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        let (socket, _) = client_async(format!("ws://{address}{path}"), stream).await.ok()?;
        Some(Self(socket))
    }

    /// Whether it could be sent.
    pub(crate) async fn try_send(&mut self, message: impl Into<Message>) -> bool {
        self.0.send(message.into()).await.is_ok()
    }

    /// The next message that is no ping, however late it comes; `None` if the connection ends without a close.
    pub(crate) async fn try_next(&mut self) -> Option<Message> {
        loop {
            match self.0.next().await?.ok()? {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return Some(message),
            }
        }
    }

    /// As [`next`](Self::next), if it comes before the time is over.
    pub(crate) async fn within(&mut self, time: Duration) -> Option<Message> {
        timeout(time, self.next()).await.ok()
    }

    /// Expects exactly this text.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let got = self.next().await;
            assert_eq!(got.to_text().expect("text"), text, "at {caller}");
        }
    }

    pub(crate) async fn json(&mut self) -> Value {
        serde_json::from_str(self.next().await.to_text().expect("text")).expect("JSON")
    }

    /// Sends text and gives the answer.
    pub(crate) async fn ask(&mut self, text: &str) -> Value {
        self.send(text).await;
        self.json().await
    }

    pub(crate) async fn leave(mut self) {
        self.0.close(None).await.expect("it closes");
    }
}

/// The same tests on a node with these arguments, and on Lambda functions behind the local gateway.
macro_rules! on_every_deployment {
    ($arguments:tt, $($name:ident)*) => {
        $(
            mod $name {
                #[tokio::test]
                async fn on_a_node() {
                    super::$name(crate::kit::Server::start(&$arguments)).await;
                }

                #[cfg(feature = "lambda")]
                #[tokio::test]
                async fn on_lambda() {
                    super::$name(crate::kit::Server::lambda("memory", 1, 4).await).await;
                }
            }
        )*
    };
}
pub(crate) use on_every_deployment;
