//! Servers outside of this run, given by URL.

use std::{
    env,
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::Context;

use super::{Attempt, Running, Service};

const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn attempt(services: &[Service]) -> Vec<Attempt> {
    services.iter().map(|service| (*service, find(*service))).collect()
}

fn find(service: Service) -> anyhow::Result<Running> {
    let variable = service.variable();
    let url = env::var(variable).ok().filter(|url| !url.is_empty());
    let url = url.with_context(|| format!("{variable} is not set"))?;
    let place = place(&url, service.default_port()).with_context(|| format!("{variable} is no URL with a host"))?;
    let answers = || -> anyhow::Result<()> {
        let address = place.to_socket_addrs()?.next().context("the name has no address")?;
        TcpStream::connect_timeout(&address, LIMIT)?;
        Ok(())
    };
    answers().with_context(|| format!("nothing answers at {place}, which {variable} names"))?;
    Ok(Running { service, url, origin: format!("given by {variable}, at {place}") })
}

/// Host and port of a URL. Not its user and password: this is printed.
fn place(url: &str, default_port: u16) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() {
        return None;
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port { host.to_owned() } else { format!("{host}:{default_port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_of_a_url_never_holds_its_password() {
        let check = |url, expected| assert_eq!(place(url, 5432).as_deref(), expected, "{url}");
        check("postgres://me:p@ss@db:5433/x?a=b", Some("db:5433"));
        check("redis://localhost", Some("localhost:5432"));
        check("redis://[::1]:6380/0", Some("[::1]:6380"));
        check("redis://[::1]/0", Some("[::1]:5432"));
        check("redis:///0", None);
        check("localhost:6379", None);
    }
}
