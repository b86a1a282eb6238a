//! Where the database is, and how it is used.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use strait_core::Retention;

/// The longest identifier that Postgres keeps whole, in bytes.
const MAX_IDENTIFIER: usize = 63;

/// Why a configuration cannot be used. No text shows the URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL is none of Postgres.
    #[error("the URL must begin with postgres://")]
    Scheme,
    /// The URL cannot be read.
    #[error("the URL must be postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETERS, with a sslmode of libpq's if any")]
    Url(#[source] sqlx::Error),
    /// A parameter that is not known.
    #[error("a parameter of the URL is not known, see PostgresConfig::from_url")]
    Parameter,
    /// A name that cannot be a schema's.
    #[error("the schema's name must have 1 to 63 letters, digits or _")]
    Schema,
    /// `connections` is no number.
    #[error("connections must be a number")]
    Connections,
    /// A time limit is no number.
    #[error("operation_timeout and lock_timeout must be numbers of milliseconds, 1 or more")]
    Limit,
    /// `pooler` is not `transaction`.
    #[error("pooler must be transaction, or not be there")]
    Pooler,
}

/// Well before a node could miss what the feed has dropped.
const LONGEST_POLL: Duration = Duration::from_secs(5);

/// Where the database is, and how it is used. [`Debug`] shows no password.
#[derive(Clone)]
#[must_use]
pub struct PostgresConfig {
    pub(crate) main: PgConnectOptions,
    pub(crate) listen: Option<PgConnectOptions>,
    pub(crate) found: Option<Vec<SocketAddr>>,
    pub(crate) schema: String,
    pub(crate) migrate: bool,
    pub(crate) connections: u32,
    pub(crate) pooler: bool,
    pub(crate) notify: bool,
    pub(crate) poll: Duration,
    pub(crate) debounce: Duration,
    pub(crate) probe: Duration,
    pub(crate) operation: Duration,
    pub(crate) lock: Duration,
    pub(crate) lifetime: Duration,
    pub(crate) inbox: Retention,
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |options: &PgConnectOptions| {
            format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or_default())
        };
        f.debug_struct("PostgresConfig")
            .field("main", &place(&self.main))
            .field("listen", &self.listen.as_ref().map(place))
            .field("schema", &self.schema)
            .field("connections", &self.connections)
            .field("pooler", &self.pooler)
            .field("notify", &self.notify)
            .field("poll", &self.poll)
            .finish_non_exhaustive()
    }
}

fn milliseconds(text: &str) -> Result<Duration, ConfigError> {
    match text.parse() {
        Ok(milliseconds @ 1..) => Ok(Duration::from_millis(milliseconds)),
        _ => Err(ConfigError::Limit),
    }
}

impl PostgresConfig {
    /// From a URL: `postgres://user:password@host:5432/database?sslmode=verify-full&schema=strait`.
    ///
    /// Beside libpq's `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `host`, `port`, `user`, `password`, `dbname`,
    /// `application_name` and `options` it takes `schema`, `connections`, `pooler=transaction`, and in milliseconds
    /// `operation_timeout` and `lock_timeout`. Without a password `PGPASSWORD` or a password file is asked.
    ///
    /// # Errors
    /// A URL that cannot be read, or a parameter that is not known.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut own, mut theirs) = (Vec::new(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "schema" | "connections" | "pooler" | "operation_timeout" | "lock_timeout" => own.push((key, value)),
                "sslmode" | "sslrootcert" | "sslcert" | "sslkey" | "host" | "port" | "user" | "password" | "dbname"
                | "application_name" | "options" => theirs.push(pair),
                _ => return Err(ConfigError::Parameter),
            }
        }
        if !place.starts_with("postgres://") && !place.starts_with("postgresql://") {
            return Err(ConfigError::Scheme);
        }
        let rest = format!("{place}?{}", theirs.join("&"));
        let options = PgConnectOptions::from_str(&rest).map_err(ConfigError::Url)?;
        let mut config = Self::from_options(options);
        for (key, value) in own {
            config = match (key, value) {
                ("schema", schema) => config.schema(schema)?,
                ("pooler", "transaction") => config.transaction_pooler(),
                ("operation_timeout", limit) => config.operation_timeout(milliseconds(limit)?),
                ("lock_timeout", limit) => config.lock_timeout(milliseconds(limit)?),
                ("connections", number) => config.connections(number.parse().map_err(|_| ConfigError::Connections)?),
                _ => return Err(ConfigError::Pooler),
            };
        }
        Ok(config)
    }

    /// From sqlx's own options.
    pub fn from_options(options: PgConnectOptions) -> Self {
        let named = options.get_application_name().is_some();
        Self {
            main: if named { options } else { options.application_name("strait") },
            listen: None,
            found: None,
            schema: "strait".to_owned(),
            migrate: true,
            connections: 10,
            pooler: false,
            notify: true,
            poll: Duration::from_millis(100),
            debounce: Duration::from_millis(5),
            probe: Duration::from_secs(5),
            operation: Duration::from_secs(5),
            lock: Duration::from_secs(2),
            lifetime: Duration::from_secs(600),
            inbox: Retention { count: 256, age: Duration::from_secs(600) },
        }
    }

    /// The schema that everything is kept in, `strait` unless set: letters, digits and `_`, at most 63. Fleets in
    /// different schemas of one database know nothing of each other.
    ///
    /// # Errors
    /// [`ConfigError::Schema`] for any other name.
    pub fn schema(mut self, schema: &str) -> Result<Self, ConfigError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if schema.is_empty() || schema.len() > MAX_IDENTIFIER || !schema.chars().all(fits) {
            return Err(ConfigError::Schema);
        }
        schema.clone_into(&mut self.schema);
        Ok(self)
    }

    /// Another way to the same database for `LISTEN`: a pooler that hands out connections by transaction cannot
    /// listen. It is the way of everything else unless set, and there is none behind a pooler.
    pub fn listen(mut self, options: PgConnectOptions) -> Self {
        self.listen = Some(options);
        self
    }

    /// A pooler that hands out connections by transaction (`pgbouncer` with `pool_mode=transaction`) stands before the
    /// database: no prepared statements, no settings at start-up, every statement in a transaction of its own.
    pub fn transaction_pooler(mut self) -> Self {
        self.pooler = true;
        self
    }

    /// Whether the store brings the schema up to date, as it does unless set. Without,
    /// the role needs no right to create anything.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// How many connections are used at most for work, 10 unless set. Beside them are up to three for leases, polls and
    /// wake-ups, which do not wait behind work, and one for `LISTEN`.
    pub fn connections(mut self, most: u32) -> Self {
        self.connections = most.max(1);
        self
    }

    /// `sslmode`, of both ways to the database. `verify-full` is the one that is safe on a network that is not yours.
    /// Without the feature `tls` only `disable`, `allow` and `prefer` connect.
    pub fn ssl_mode(mut self, mode: PgSslMode) -> Self {
        self.main = self.main.ssl_mode(mode);
        self.listen = self.listen.map(|listen| listen.ssl_mode(mode));
        self
    }

    /// What the server calls the connections, `strait` unless set.
    pub fn application_name(mut self, name: &str) -> Self {
        self.main = self.main.application_name(name);
        self.listen = self.listen.map(|listen| listen.application_name(name));
        self
    }

    /// Whether nodes wake each other with `NOTIFY`, as they do unless set. Without, an event arrives with the next
    /// poll.
    pub fn notify(mut self, notify: bool) -> Self {
        self.notify = notify;
        self
    }

    /// How often a node looks for events without having been woken, 100 ms unless set, at most 5 s. What SQL publishes
    /// in a transaction is found this way.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every.clamp(Duration::from_millis(1), LONGEST_POLL);
        self
    }

    /// The least time between two wake-ups that a process sends, and between two polls of a node: 5 ms unless set.
    pub fn debounce(mut self, time: Duration) -> Self {
        self.debounce = time;
        self
    }

    /// How long `LISTEN` may be silent before it is probed, and how long a probe may take: 5 s unless set.
    pub fn probe(mut self, time: Duration) -> Self {
        self.probe = time;
        self
    }

    /// How long a call may take, waiting for a connection included: 5 s unless set. The server ends the statement after
    /// the same time.
    pub fn operation_timeout(mut self, time: Duration) -> Self {
        self.operation = time;
        self
    }

    /// How long a statement waits for a lock that somebody else holds, 2 s unless set.
    pub fn lock_timeout(mut self, time: Duration) -> Self {
        self.lock = time;
        self
    }

    /// How long a connection for work is used before another one takes its place, 10 minutes unless set. The new one
    /// follows the server's name to where it leads by then.
    pub fn max_lifetime(mut self, time: Duration) -> Self {
        self.lifetime = time;
        self
    }

    /// Addresses that a test has in the place of a name server's answer.
    #[doc(hidden)]
    pub fn found(mut self, addresses: Vec<SocketAddr>) -> Self {
        self.found = Some(addresses);
        self
    }

    /// How many direct sends wait for one channel, and for how long: 256 and ten minutes unless set. A channel that
    /// missed some is told of a gap.
    pub fn inbox(mut self, count: u32, age: Duration) -> Self {
        self.inbox = Retention { count, age };
        self
    }

    /// What every session, or behind a pooler every transaction, is set to. Tables that were empty when a statement
    /// was planned must not be scanned when they are not, hence no sequential scans; without them estimates are too
    /// high for `jit` to judge by. Names are looked for among Postgres' own only: a role that may create functions in
    /// `public` could otherwise have its own called in the place of a built-in one.
    pub(crate) fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("search_path", "pg_catalog".to_owned()),
            ("statement_timeout", format!("{}ms", self.operation.as_millis())),
            ("lock_timeout", format!("{}ms", self.lock.as_millis())),
            ("enable_seqscan", "off".to_owned()),
            ("jit", "off".to_owned()),
        ]
    }

    /// How to connect for work.
    pub(crate) fn options(&self) -> PgConnectOptions {
        let options = self.main.clone().disable_statement_logging();
        if self.pooler {
            options.statement_cache_capacity(0).extra_float_digits(None)
        } else {
            options.options(self.settings())
        }
    }

    /// How to connect for `LISTEN`, if there is a way.
    pub(crate) fn listen_options(&self) -> Option<PgConnectOptions> {
        let same = (!self.pooler).then_some(&self.main);
        let options = self.notify.then(|| self.listen.as_ref().or(same)).flatten()?;
        Some(options.clone().disable_statement_logging())
    }
}

impl FromStr for PostgresConfig {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, ConfigError> {
        Self::from_url(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_everything() {
        let url = "postgres://ada:s%40cret@db.example:5433/app?sslmode=verify-full&schema=chat_1&connections=3&application_name=x&pooler=transaction\
                   &operation_timeout=700&lock_timeout=300";
        let config = PostgresConfig::from_url(url).unwrap();
        assert_eq!((config.main.get_host(), config.main.get_port()), ("db.example", 5433));
        assert_eq!((config.main.get_username(), config.main.get_database()), ("ada", Some("app")));
        assert!(matches!(config.main.get_ssl_mode(), PgSslMode::VerifyFull));
        assert_eq!(config.main.get_application_name(), Some("x"));
        assert_eq!((config.schema.as_str(), config.connections, config.pooler), ("chat_1", 3, true));
        assert_eq!((config.operation.as_millis(), config.lock.as_millis()), (700, 300));
    }

    #[test]
    fn what_a_url_cannot_say_is_refused() {
        for url in [
            "redis://x",
            "postgres://h/d?scheme=x",
            "postgres://h/d?schema=a.b",
            "postgres://h/d?schema=",
            "postgres://h/d?connections=x",
            "postgres://h/d?operation_timeout=0",
            "postgres://h/d?lock_timeout=1s",
            "postgres://h/d?pooler=session",
            "postgres://h/d?sslmode=perhaps",
            "postgres://h:port/d",
        ] {
            assert!(PostgresConfig::from_url(url).is_err(), "{url}");
        }
        let long = "x".repeat(64);
        assert!(PostgresConfig::from_url(&format!("postgres://h/d?schema={long}")).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = PostgresConfig::from_url("postgres://ada:hunter2@h/d").unwrap();
        let listening = config.clone().listen(config.main.clone());
        assert!(!format!("{config:?} {listening:?}").contains("hunter2"));
        for url in ["postgres://ada:hunter2@h:hunter2/d", "postgres://ada:hunter2@h/d?hunter2=hunter2"] {
            let error = PostgresConfig::from_url(url).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string);
            assert!(!format!("{error} {error:?} {source:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn without_a_way_of_its_own_nobody_listens_behind_a_pooler() {
        let config = PostgresConfig::from_url("postgres://h/d").unwrap();
        assert!(config.listen_options().is_some());
        assert!(config.clone().notify(false).listen_options().is_none());
        let pooled = config.clone().transaction_pooler();
        assert!(pooled.listen_options().is_none());
        assert!(pooled.listen(config.main).listen_options().is_some());
    }
}
