//! A host name with several addresses, of which some do not answer: sqlx tries one after the other and waits for each, so
//! that the time is over before the second one's turn. Here they share the time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sqlx::postgres::{PgConnectOptions, PgPool, PgSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// The longest time that an address is waited for before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses are looked for at most this often, unless the server has turned out to be the wrong one.
const PAUSE: Duration = Duration::from_secs(1);
/// Asks whether the server speaks TLS; it answers with one byte.
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The server speaks TLS.
const TLS: u8 = b'S';

/// Where pools open their connections.
#[derive(Debug)]
pub(crate) struct Addresses {
    options: PgConnectOptions,
    found: Option<Vec<SocketAddr>>,
    limit: Duration,
    is_wrong: AtomicBool,
    /// When an address was chosen last. Held while one is.
    chosen: Mutex<Option<Instant>>,
}

impl Addresses {
    /// `found`: in the place of a name server's answer. `limit`: the time of a whole operation.
    pub(crate) fn new(options: PgConnectOptions, found: Option<Vec<SocketAddr>>, limit: Duration) -> Self {
        Self { options, found, limit, is_wrong: AtomicBool::new(false), chosen: Mutex::default() }
    }

    /// The server that connections lead to refuses to be used.
    pub(crate) fn doubt(&self) {
        self.is_wrong.store(true, Ordering::Relaxed);
    }

    /// Chooses an address for connections that pools will open, if one of them is about to. Calls that come meanwhile
    /// wait for the choice.
    pub(crate) async fn choose(&self, wanting: &PgPool, pools: [&PgPool; 2]) {
        let opens = wanting.num_idle() == 0 && wanting.size() < wanting.options().get_max_connections();
        if !has_choice(&self.options) || !(opens || self.is_wrong.load(Ordering::Relaxed)) {
            return;
        }
        let mut chosen = self.chosen.lock().await;
        let is_wrong = self.is_wrong.swap(false, Ordering::Relaxed);
        if !is_wrong && chosen.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        let options = reachable(&self.options, self.found.as_deref(), self.limit).await;
        for pool in pools {
            pool.set_connect_options(options.clone());
        }
        *chosen = Some(Instant::now());
    }
}

/// How to connect to the first address that answers, within half of an operation's time. If it is the only one, or none
/// answers, that is by the host's name.
pub(crate) async fn reachable(
    options: &PgConnectOptions,
    found: Option<&[SocketAddr]>,
    limit: Duration,
) -> PgConnectOptions {
    if !has_choice(options) {
        return options.clone();
    }
    let choosing = async {
        let addresses = match found {
            Some(found) => found.to_vec(),
            None => lookup_host((options.get_host(), options.get_port())).await?.collect(),
        };
        if addresses.len() < 2 {
            return Ok(None);
        }
        race(&addresses, HEAD_START.min(limit / 4 / u32::try_from(addresses.len()).unwrap_or(u32::MAX))).await.map(Some)
    };
    match timeout(limit / 2, choosing).await {
        Ok(Ok(Some((place, address, answer)))) if is_pinned(options, place, answer) => {
            tracing::debug!(%address, "an address of the database was chosen");
            options.clone().host(&address.ip().to_string()).port(address.port())
        }
        Ok(Ok(_)) => options.clone(),
        // What fails here fails again when a connection is opened, and is told then.
        Ok(Err(error)) => {
            tracing::debug!(%error, "no address of the database answers");
            options.clone()
        }
        Err(_) => {
            tracing::debug!("no address of the database answers in time");
            options.clone()
        }
    }
}

/// Whether the host is a name, and the server's certificate need not be the name's.
fn has_choice(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let is_name = !host.starts_with('/') && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err();
    is_name && options.get_socket().is_none() && !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull)
}

/// TLS tells the server the name that is connected to, and some route by it: the name is kept while its first address
/// answers.
fn is_pinned(options: &PgConnectOptions, place: usize, answer: u8) -> bool {
    let speaks_tls = answer == TLS && !matches!(options.get_ssl_mode(), PgSslMode::Disable | PgSslMode::Allow);
    place > 0 || !speaks_tls
}

/// The first address that answers, its place and its answer. Each one is tried when the one before has failed, or has
/// been silent for as long as its head start, and none is given up for that.
async fn race(addresses: &[SocketAddr], head_start: Duration) -> io::Result<(usize, SocketAddr, u8)> {
    let mut waiting = addresses.iter().copied().enumerate();
    let mut tried = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        let next = waiting.next();
        let is_last = next.is_none();
        if let Some((place, address)) = next {
            tried.push(async move { (place, address, ask(address).await) });
        }
        tokio::select! {
            Some((place, address, answer)) = tried.next() => match answer {
                Ok(answer) => return Ok((place, address, answer)),
                Err(error) => last = error,
            },
            () = sleep(head_start), if !is_last => {}
            else => return Err(last),
        }
    }
}

/// What the server at an address answers. One that takes the connection may be silent all the same.
async fn ask(address: SocketAddr) -> io::Result<u8> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&SSL_REQUEST).await?;
    stream.read_u8().await
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// Takes connections and says nothing; the listener's queue takes them.
    async fn silent() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn answering(answer: u8) -> SocketAddr {
        let (listener, address) = silent().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 8];
                if stream.read_exact(&mut request).await.is_ok() && request == SSL_REQUEST {
                    let _ = stream.write_all(&[answer]).await;
                }
            }
        });
        address
    }

    async fn failing() -> SocketAddr {
        let (listener, address) = silent().await;
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        address
    }

    fn options(mode: PgSslMode) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().host("db.example").port(5433).ssl_mode(mode)
    }

    #[tokio::test]
    async fn who_takes_connections_and_is_silent_loses() {
        let ((_held, hole), server) = (silent().await, answering(b'N').await);
        let (place, address, answer) = race(&[hole, server], Duration::from_millis(1)).await.unwrap();
        assert_eq!((place, address, answer), (1, server, b'N'));
    }

    #[tokio::test]
    async fn after_a_failure_the_next_one_is_tried_at_once() {
        let addresses = [failing().await, answering(b'S').await];
        let won = timeout(LONG / 60, race(&addresses, LONG)).await.unwrap().unwrap();
        assert_eq!(won, (1, addresses[1], b'S'));
    }

    #[tokio::test]
    async fn a_slow_one_is_not_given_up_for_those_that_fail() {
        let (slow, broken) = (silent().await, failing().await);
        let (listener, address) = slow;
        let racing = tokio::spawn(async move { race(&[address, broken], Duration::from_millis(1)).await });
        let (mut stream, _) = listener.accept().await.unwrap();
        // The other one has begun by now, if not failed.
        sleep(Duration::from_millis(20)).await;
        stream.write_all(b"N").await.unwrap();
        assert_eq!(racing.await.unwrap().unwrap(), (0, address, b'N'));
    }

    #[tokio::test]
    async fn without_an_answer_there_is_an_error() {
        let addresses = [failing().await, failing().await];
        race(&addresses, Duration::from_millis(1)).await.unwrap_err();
        race(&[], LONG).await.unwrap_err();
        let kept = reachable(&options(PgSslMode::Prefer), Some(&addresses), LONG).await;
        assert_eq!((kept.get_host(), kept.get_port()), ("db.example", 5433));
    }

    #[tokio::test]
    async fn of_several_the_one_that_answers_is_connected_to() {
        let ((_held, hole), server) = (silent().await, answering(b'N').await);
        let limit = Duration::from_secs(60);
        let found = reachable(&options(PgSslMode::Prefer), Some(&[hole, server]), limit).await;
        assert_eq!((found.get_host(), found.get_port()), ("127.0.0.1", server.port()));
        for (mode, addresses) in [(PgSslMode::Prefer, &[server][..]), (PgSslMode::VerifyFull, &[hole, server])] {
            let kept = reachable(&options(mode), Some(addresses), limit).await;
            assert_eq!((kept.get_host(), kept.get_port()), ("db.example", 5433));
        }
    }

    #[test]
    fn tls_keeps_the_name_while_its_first_address_answers() {
        for (mode, place, answer, pinned) in [
            (PgSslMode::Require, 0, b'S', false),
            (PgSslMode::Require, 1, b'S', true),
            (PgSslMode::Prefer, 0, b'N', true),
            (PgSslMode::Disable, 0, b'S', true),
        ] {
            assert_eq!(is_pinned(&options(mode), place, answer), pinned, "{mode:?} {place}");
        }
    }

    #[test]
    fn only_a_name_can_have_several() {
        let named = options(PgSslMode::Prefer);
        assert!(has_choice(&named));
        for host in ["10.0.0.1", "::1", "[::1]", "/run/postgresql"] {
            assert!(!has_choice(&named.clone().host(host)), "{host}");
        }
        assert!(!has_choice(&named.clone().socket("/run/postgresql")));
        assert!(!has_choice(&named.ssl_mode(PgSslMode::VerifyFull)));
    }
}
