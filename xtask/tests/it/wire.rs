//! Just enough of the Redis and Postgres protocols to see that a real server answers.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(10);

/// The address of a URL's server.
pub(crate) fn address(url: &str) -> SocketAddr {
    use std::net::ToSocketAddrs;
    let authority = url.split('/').nth(2).expect("scheme://authority/database");
    let place = authority.rsplit('@').next().expect("a host");
    place.to_socket_addrs().expect("a host and a port").next().expect("an address")
}

fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address(url), LIMIT).expect("the server listens");
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// The Redis serialization protocol: inline commands out, replies in.
pub(crate) fn assert_redis_answers(url: &str) {
    let mut stream = BufReader::new(connect(url));
    let mut ask = |command: &str, lines: usize| {
        stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut reply = String::new();
        for _ in 0..lines {
            stream.read_line(&mut reply).unwrap();
        }
        reply.trim_end().replace("\r\n", " ")
    };
    let key = format!("xtask:{}", std::process::id());
    assert_eq!(ask("PING", 1), "+PONG");
    assert_eq!(ask(&format!("SET {key} 42 EX 10"), 1), "+OK");
    assert_eq!(ask(&format!("GET {key}"), 2), "$2 42");
    assert_eq!(ask(&format!("DEL {key}"), 1), ":1");
}

/// Protocol 3.0: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.
pub(crate) fn assert_postgres_answers(url: &str) {
    let credentials = url.split('/').nth(2).and_then(|authority| authority.rsplit_once('@'));
    let (user, password) = credentials.and_then(|(both, _)| both.split_once(':')).expect("user:password");
    let mut stream = connect(url);
    let parameters = format!("user\0{user}\0database\0postgres\0\0");
    send(&mut stream, None, &[&196_608_u32.to_be_bytes(), parameters.as_bytes()].concat());
    let mut rows = Vec::new();
    let mut asked = false;
    loop {
        let (kind, body) = receive(&mut stream);
        match kind {
            // AuthenticationCleartextPassword, then AuthenticationOk.
            b'R' if body == 3_u32.to_be_bytes() => {
                send(&mut stream, Some(b'p'), format!("{password}\0").as_bytes());
            }
            b'R' => assert_eq!(body, 0_u32.to_be_bytes(), "an authentication that is not expected"),
            b'E' => panic!("postgres: {}", String::from_utf8_lossy(&body)),
            // One column: its count, its length, its text.
            b'D' => rows.push(String::from_utf8_lossy(&body[6..]).into_owned()),
            b'Z' if asked => break,
            b'Z' => {
                asked = true;
                send(
                    &mut stream,
                    Some(b'Q'),
                    b"create temp table t (n int); insert into t values (6); select n * 7 from t\0",
                );
            }
            _ => {}
        }
    }
    assert_eq!(rows, ["42"]);
    send(&mut stream, Some(b'X'), b"");
}

fn send(stream: &mut TcpStream, kind: Option<u8>, body: &[u8]) {
    let length = u32::try_from(body.len() + 4).unwrap();
    let message = [kind.as_slice(), &length.to_be_bytes(), body].concat();
    stream.write_all(&message).unwrap();
}

fn receive(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let [kind, length @ ..] = head;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body).unwrap();
    (kind, body)
}
