//! The machine's own `redis-server` and `postgres`, started on free ports in the run's folder.

use std::{
    env,
    fs::{self, File},
    io::Read,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::Signal;

use super::{Attempt, Running, Service};
use crate::{
    log::{last_lines, write_to},
    process,
    process::Process,
    run_folder::RunFolder,
    wait::wait_until,
};

const START_LIMIT: Duration = Duration::from_secs(30);
/// Another program may take a free port before the server does.
const TRIES: usize = 3;

pub(super) fn attempt(services: &[Service], run: &RunFolder, processes: &mut Vec<Process>) -> Vec<Attempt> {
    let mut one = |service| {
        let (found, process) = match service {
            Service::Redis => redis(run),
            Service::Postgres => postgres(run),
        }?;
        processes.push(process);
        Ok(found)
    };
    services.iter().map(|service| (*service, one(*service))).collect()
}

fn redis(run: &RunFolder) -> anyhow::Result<(Running, Process)> {
    let program = on_path(&["redis-server"]).context("there is no redis-server on PATH")?;
    let folder = run.make("redis")?;
    let (process, port) = start_on_free_port(Service::Redis, &folder.join("log"), run, |port| {
        let mut command = Command::new(&program);
        command.current_dir(&folder).args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command
    })?;
    let url = format!("redis://127.0.0.1:{port}/0");
    let origin = format!("{} on port {port}", program.display());
    Ok((Running { service: Service::Redis, url, origin }, process))
}

fn postgres(run: &RunFolder) -> anyhow::Result<(Running, Process)> {
    let programs =
        postgres_programs().context("there is no postgres with its initdb on PATH or in /usr/lib/postgresql")?;
    let user = unprivileged_user()?;
    let folder = run.make("postgres")?;
    let password = random_password()?;
    let password_file = folder.join("password");
    fs::write(&password_file, &password).context("cannot write the password file")?;
    if let Some(user) = &user {
        for path in [&folder, &password_file] {
            chown(path, Some(user.id), Some(user.group)).context("cannot hand over the folder")?;
        }
    }
    let data = folder.join("data");
    let as_user = |program: &str| {
        let mut command = Command::new(programs.join(program));
        // English messages: the start waits for one of them.
        command.current_dir(&folder).env("LC_ALL", "C").arg("-D").arg(&data);
        if let Some(user) = &user {
            command.uid(user.id).gid(user.group).env("HOME", &folder);
        }
        command
    };

    let log = run.path().join("postgres-log");
    let mut initdb = as_user("initdb");
    initdb.args(["--username=postgres", "--auth=password", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    initdb.arg(format!("--pwfile={}", password_file.display()));
    write_to(&mut initdb, &log)?;
    if !process::run(initdb, "initdb", Some(START_LIMIT), run)?.success() {
        bail!("initdb failed: {}", last_lines(&log));
    }
    let (process, port) = start_on_free_port(Service::Postgres, &log, run, |port| {
        let mut command = as_user("postgres");
        let port = format!("port={port}");
        let listen = "listen_addresses=127.0.0.1";
        let settings = ["fsync=off", "full_page_writes=off", "max_connections=200"];
        for setting in [&port, listen, "unix_socket_directories="].into_iter().chain(settings) {
            command.arg("-c").arg(setting);
        }
        command
    })?;
    let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
    let account = user.map(|user| format!(" as user {}", user.name)).unwrap_or_default();
    let origin = format!("{}{account} on port {port}", programs.join("postgres").display());
    Ok((Running { service: Service::Postgres, url, origin }, process))
}

/// Starts a server and waits for it to say that it is ready.
fn start_on_free_port(
    service: Service,
    log: &Path,
    run: &RunFolder,
    command: impl Fn(u16) -> Command,
) -> anyhow::Result<(Process, u16)> {
    // Postgres takes SIGTERM for "when the clients have gone", SIGINT for "now".
    let (ready, stop_with) = match service {
        Service::Redis => ("Ready to accept connections", Signal::TERM),
        Service::Postgres => ("database system is ready to accept connections", Signal::INT),
    };
    let name = service.name();
    for _ in 0..TRIES {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let port = port.context("there is no free port")?.port();
        let mut command = command(port);
        write_to(&mut command, log)?;
        let mut process = Process::start(command, name, stop_with, run)?;
        let came = wait_until(START_LIMIT, || {
            let started = fs::read_to_string(log).is_ok_and(|text| text.contains(ready));
            Ok(if started { Some(true) } else { process.poll()?.map(|_| false) })
        })?;
        match came {
            Some(true) => return Ok((process, port)),
            Some(false) if last_lines(log).contains("Address already in use") => {}
            Some(false) => bail!("{name} ended at once: {}", last_lines(log)),
            None => bail!("{name} was not ready within {} s: {}", START_LIMIT.as_secs(), last_lines(log)),
        }
    }
    bail!("{name} found its port taken {TRIES} times")
}

/// The first folder of `PATH` with all the programs, as the path of the first of them.
fn on_path(programs: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let folder =
        env::split_paths(&path).find(|folder| programs.iter().all(|program| folder.join(program).is_file()))?;
    Some(folder.join(programs.first()?))
}

/// The folder of `postgres` and `initdb`. Debian keeps one per version, outside of `PATH`.
fn postgres_programs() -> Option<PathBuf> {
    if let Some(program) = on_path(&["postgres", "initdb"]) {
        return program.parent().map(Path::to_owned);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
    let newest = versions
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("postgres").is_file() && bin.join("initdb").is_file());
    newest.max_by_key(|bin| {
        let version = bin.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().parse());
        version.and_then(Result::<u32, _>::ok).unwrap_or(0)
    })
}

struct User {
    name: String,
    id: u32,
    group: u32,
}

/// Postgres refuses to run as root: then another user runs it. `None`: we are not root.
fn unprivileged_user() -> anyhow::Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let user = ["postgres", "nobody"].into_iter().find_map(|name| find_user(&accounts, name));
    Ok(Some(user.context("postgres refuses to run as root, and there is no user postgres or nobody")?))
}

/// passwd(5): name, password, user id, group id, …
fn find_user(accounts: &str, name: &str) -> Option<User> {
    let mut fields = accounts
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    let id = fields.nth(1)?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(User { name: name.to_owned(), id, group })
}

/// Without a password, each user of the machine could run commands through this server.
pub(super) fn random_password() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let accounts = "root:x:0:0::/:/bin/sh\npostgres2:x:5:6::/:\npostgres:x:101:104:,,,:/var:/bin/sh\n";
        let user = find_user(accounts, "postgres").expect("it is there");
        assert_eq!((user.id, user.group), (101, 104));
        assert!(find_user(accounts, "nobody").is_none());
    }
}
