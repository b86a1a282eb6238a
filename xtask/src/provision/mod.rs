//! The servers that tests need. Each is taken from the first way that works: a URL that was given,
//! a container, the machine's own program.

mod container;
mod local;
mod url;

use std::{env, process::Command};

use anyhow::bail;

use crate::{interrupt::Interrupted, process::Process, run_folder::RunFolder, say::say};

/// A server that tests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Redis,
    Postgres,
}

impl Service {
    const ALL: [Service; 2] = [Service::Redis, Service::Postgres];

    fn name(self) -> &'static str {
        match self {
            Service::Redis => "redis",
            Service::Postgres => "postgres",
        }
    }

    /// The variable in which tests find its URL.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Service::Redis => "STRAIT_TEST_REDIS_URL",
            Service::Postgres => "STRAIT_TEST_POSTGRES_URL",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Service::Redis => 6379,
            Service::Postgres => 5432,
        }
    }
}

/// The ways to get a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Url,
    Docker,
    Local,
}

impl Way {
    const VARIABLE: &str = "STRAIT_TEST_SERVICES";

    fn name(self) -> &'static str {
        match self {
            Way::Url => "url",
            Way::Docker => "docker",
            Way::Local => "local",
        }
    }

    /// All three in order, or the one that `STRAIT_TEST_SERVICES` asks for.
    fn wanted() -> anyhow::Result<Vec<Way>> {
        let all = vec![Way::Url, Way::Docker, Way::Local];
        let asked = env::var(Way::VARIABLE).unwrap_or_default();
        if matches!(asked.as_str(), "" | "auto") {
            return Ok(all);
        }
        match all.into_iter().find(|way| way.name() == asked) {
            Some(way) => Ok(vec![way]),
            None => bail!("{} is {asked:?}: set it to auto, url, docker or local", Way::VARIABLE),
        }
    }
}

/// A server that answers.
struct Running {
    service: Service,
    url: String,
    /// In a few words, for the user.
    origin: String,
}

/// The result of a way: per service a server, or the reason why there is none.
type Attempt = (Service, anyhow::Result<Running>);

/// The servers, as long as tests need them: those that were started stop when this is dropped.
pub(crate) struct Services {
    running: Vec<Running>,
    _processes: Vec<Process>,
}

impl Services {
    /// Finds or starts every server, and says how. If a server cannot be had in any way, the error names the packages
    /// to install.
    pub(crate) fn start(run: &RunFolder) -> anyhow::Result<Services> {
        let mut processes = Vec::new();
        let mut running: Vec<Running> = Vec::new();
        let ways = Way::wanted()?;
        for way in &ways {
            let missing: Vec<_> = Service::ALL
                .into_iter()
                .filter(|service| running.iter().all(|found| found.service != *service))
                .collect();
            if missing.is_empty() {
                break;
            }
            let attempts = match way {
                Way::Url => url::attempt(&missing),
                Way::Docker => container::attempt(&missing, run, &mut processes),
                Way::Local => local::attempt(&missing, run, &mut processes),
            };
            for (service, outcome) in attempts {
                match outcome {
                    Ok(found) => {
                        say(format_args!("services: {}: {}", service.name(), found.origin));
                        running.push(found);
                    }
                    Err(error) if error.is::<Interrupted>() => return Err(error),
                    Err(error) => {
                        say(format_args!("services: {}: not by {}: {error:#}", service.name(), way.name()));
                    }
                }
            }
        }
        for service in Service::ALL {
            if running.iter().all(|found| found.service != service) {
                let tried: Vec<_> = ways.iter().map(|way| way.name()).collect();
                bail!(
                    "no {} for the tests (tried: {}; why not, see above); set {}, or start a Docker \
                     engine and run `cargo xtask image`, or install the programs, on Debian with \
                     `apt-get install redis-server postgresql`",
                    service.name(),
                    tried.join(", "),
                    service.variable(),
                );
            }
        }
        Ok(Services { running, _processes: processes })
    }

    /// Sets the servers' URLs in a command's environment.
    pub(crate) fn tell(&self, command: &mut Command) {
        for found in &self.running {
            command.env(found.service.variable(), &found.url);
        }
    }

    /// The same, for a person: lines of `VARIABLE=url`.
    pub(crate) fn variables(&self) -> impl Iterator<Item = String> {
        self.running.iter().map(|found| format!("{}={}", found.service.variable(), found.url))
    }
}
