use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use strait_core::Retention;

const PORT: u16 = 6379;

/// The servers with the data, and the settings of their use.
///
/// `Debug` shows no password.
#[derive(Clone)]
pub struct RedisConfig {
    pub(crate) servers: Vec<(String, u16)>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: u32,
    pub(crate) prefix: String,
    pub(crate) tls: bool,
    #[cfg(feature = "tls")]
    pub(crate) root_certificates: Option<Vec<u8>>,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) probe_interval: Duration,
    pub(crate) probe_timeout: Duration,
    pub(crate) topic_time: Duration,
    pub(crate) inbox: Retention,
}

/// The error of an invalid configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL begins with an unknown scheme.
    #[error("a Redis URL begins with redis:// or rediss://")]
    Scheme,
    /// `rediss://` without the crate's feature `tls`.
    #[error("rediss:// needs the feature tls of strait-store-redis")]
    NoTls,
    /// A server's address is invalid.
    #[error("a Redis URL names its servers as host, host:port or [IPv6]:port, separated by commas")]
    Address,
    /// The path of the URL is no database number.
    #[error("the path of a Redis URL is the number of the database, and nothing else")]
    Database,
    /// A part of the URL is not valid percent-encoding of UTF-8.
    #[error("the {0} is not UTF-8 in percent-encoding")]
    Encoding(&'static str),
    /// The query holds an unknown parameter.
    #[error("a Redis URL has no parameter {0}; there are prefix, connect_timeout and command_timeout")]
    Parameter(String),
    /// A time is not a positive whole number.
    #[error("{0} is a whole number of milliseconds, at least 1")]
    Time(&'static str),
    /// The prefix would change the slots of keys, or is too long.
    #[error("a key prefix has no braces and no control characters, and at most 64 bytes")]
    Prefix,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("servers", &self.servers)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("database", &self.database)
            .field("prefix", &self.prefix)
            .field("tls", &self.tls)
            .field("connect_timeout", &self.connect_timeout)
            .field("command_timeout", &self.command_timeout)
            .finish_non_exhaustive()
    }
}

impl RedisConfig {
    /// One server, or one server of a cluster, which tells the addresses of the others.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            servers: vec![(host.into(), port)],
            username: None,
            password: None,
            database: 0,
            prefix: "strait:".to_owned(),
            tls: false,
            #[cfg(feature = "tls")]
            root_certificates: None,
            connect_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_secs(2),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_secs(3),
            topic_time: Duration::from_secs(3600),
            inbox: Retention { count: 256, age: Duration::from_secs(600) },
        }
    }

    /// `redis://[user[:password]@]host[:port][,host[:port]…][/database][?name=value&…]`, `rediss://` for TLS. Several
    /// servers must belong to one cluster; one that answers is enough. The parameters are `prefix`, and
    /// `connect_timeout` and `command_timeout` in milliseconds. Names are percent-encoded.
    ///
    /// # Errors
    /// [`ConfigError`] names the wrong part, and repeats no secret.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let (scheme, rest) = url.split_once("://").ok_or(ConfigError::Scheme)?;
        let tls = match scheme {
            "redis" => false,
            "rediss" if cfg!(feature = "tls") => true,
            "rediss" => return Err(ConfigError::NoTls),
            _ => return Err(ConfigError::Scheme),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let mut config = Self { tls, servers: Vec::new(), ..Self::new("", PORT) };
        for host in hosts.split(',') {
            config.servers.push(address(host)?);
        }
        if let Some(credentials) = credentials {
            let (username, password) = match credentials.split_once(':') {
                Some((username, password)) => (username, Some(password)),
                None => (credentials, None),
            };
            config.username = Some(decoded(username, "user name")?).filter(|username| !username.is_empty());
            config.password = password.map(|password| decoded(password, "password")).transpose()?;
        }
        if !path.is_empty() {
            config.database = path.parse().map_err(|_| ConfigError::Database)?;
        }
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "prefix" => config = config.prefix(decoded(value, "prefix")?)?,
                "connect_timeout" => config.connect_timeout = milliseconds(value, "connect_timeout")?,
                "command_timeout" => config.command_timeout = milliseconds(value, "command_timeout")?,
                _ => return Err(ConfigError::Parameter(name.chars().take(32).collect())),
            }
        }
        Ok(config)
    }

    /// A further server of the same cluster, in case the first one does not answer.
    #[must_use]
    pub fn server(mut self, host: impl Into<String>, port: u16) -> Self {
        self.servers.push((host.into(), port));
        self
    }

    /// The ACL user and the password.
    #[must_use]
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self.password = Some(password.into());
        self
    }

    /// The password of the default user.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The database's number, 0 unless set; a cluster has no other. Deployments in different databases are separate
    /// from each other.
    #[must_use]
    pub fn database(mut self, number: u32) -> Self {
        self.database = number;
        self
    }

    /// The beginning of all keys and shard channels, `strait:` unless set. All nodes of a deployment must use the same.
    ///
    /// # Errors
    /// [`ConfigError::Prefix`] for braces, control characters, or more than 64 bytes.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Result<Self, ConfigError> {
        self.prefix = prefix.into();
        if self.prefix.len() > 64 || self.prefix.chars().any(|c| c == '{' || c == '}' || c.is_control()) {
            return Err(ConfigError::Prefix);
        }
        Ok(self)
    }

    /// TLS, with the system's root certificates, or with those of a PEM file.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, root_certificates: Option<Vec<u8>>) -> Self {
        self.tls = true;
        self.root_certificates = root_certificates;
        self
    }

    /// The time limit for connecting, 2 seconds unless set.
    #[must_use]
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// The time limit of a call with all its retries, 2 seconds unless set. It should be well below a third of the
    /// lease.
    #[must_use]
    pub fn command_timeout(mut self, time: Duration) -> Self {
        self.command_timeout = time;
        self
    }

    /// The interval of the bus' probes, a second unless set, and the time without one after which the bus reconnects, 3
    /// seconds unless set. If the node stands still, at most one and a half intervals of that time count. So the second
    /// time should be at least twice the first.
    #[must_use]
    pub fn probe(mut self, interval: Duration, timeout: Duration) -> Self {
        self.probe_interval = interval;
        self.probe_timeout = timeout;
        self
    }

    /// How long the counter of an unused topic is remembered, an hour unless set. Afterwards the topic's next event has
    /// another epoch.
    #[must_use]
    pub fn topic_time(mut self, time: Duration) -> Self {
        self.topic_time = time;
        self
    }

    /// The most direct sends that wait for one channel, and for how long: 256 and ten minutes unless set. A channel
    /// that missed some gets a gap notice.
    #[must_use]
    pub fn inbox(mut self, count: u32, age: Duration) -> Self {
        self.inbox = Retention { count, age };
        self
    }
}

fn address(text: &str) -> Result<(String, u16), ConfigError> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(ConfigError::Address)?)),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(ConfigError::Address);
    }
    let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| ConfigError::Address))?;
    Ok((host.to_owned(), port))
}

fn decoded(text: &str, what: &'static str) -> Result<String, ConfigError> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| ConfigError::Encoding(what))?;
    Ok(decoded.into_owned())
}

fn milliseconds(text: &str, what: &'static str) -> Result<Duration, ConfigError> {
    let time = text.parse().ok().filter(|time| *time > 0).ok_or(ConfigError::Time(what))?;
    Ok(Duration::from_millis(time))
}
