use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::{Server, on_every_deployment};

async fn an_echo_comes_back_as_it_went(server: Server) {
    let mut client = server.client("/echo").await;
    for text in [
        r#"{"action":"echo"}"#,
        r#"{"action":"echo","n":12345678901234567890.50,"x":[1, 2]}"#,
        r#"{"action":"echo", "spaced" : true }"#,
        "any text",
    ] {
        client.send(text).await;
        client.expect(text).await;
    }
}

async fn a_fan_carries_what_is_published_as_it_was(server: Server) {
    let (mut one, mut two) = (server.client("/fan").await, server.client("/fan?guest=true").await);
    for client in [&mut one, &mut two] {
        client.send(r#"{"action":"subscribe","topic":"fan:a"}"#).await;
        client.expect(r#"{"action":"subscribe"}"#).await;
    }
    one.send(r#"{"action":"publish","topic":"fan:a","data":{"n":1.50, "s":"x"}}"#).await;
    one.expect(r#"{"action":"publish"}"#).await;
    one.expect(r#"{"n":1.50, "s":"x"}"#).await;
    two.expect(r#"{"n":1.50, "s":"x"}"#).await;
    for topic in ["room:lobby", "$user:ada", "fan", "log:lobby"] {
        let answer = one.ask(&json!({ "action": "subscribe", "topic": topic }).to_string()).await;
        assert_eq!(answer["error"]["code"], "forbidden", "{topic}");
    }
    let answer = one.ask(&json!({ "action": "subscribe", "topic": "" }).to_string()).await;
    assert_eq!(answer["error"]["code"], "invalid");
}

on_every_deployment! { ["--runtime", "shared"], an_echo_comes_back_as_it_went }
on_every_deployment! { ["--runtime", "2"], a_fan_carries_what_is_published_as_it_was }

async fn get(server: &Server, path: &str) -> String {
    ask(server, "GET", path, "Connection: close\r\n").await
}

async fn ask(server: &Server, method: &str, path: &str, headers: &str) -> String {
    let mut socket = TcpStream::connect(&server.address).await.expect("it listens");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", server.address);
    socket.write_all(request.as_bytes()).await.expect("it is sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("it is answered");
    answer
}

#[tokio::test]
async fn the_page_and_all_that_it_loads_are_served() {
    let server = Server::start(&[]);
    let page = get(&server, "/").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("content-security-policy: default-src 'self'"), "{page}");
    let mut waiting: Vec<String> = vec!["/app.js".to_owned(), "/style.css".to_owned()];
    let mut seen = waiting.clone();
    while let Some(path) = waiting.pop() {
        let file = get(&server, &path).await;
        assert!(file.starts_with("HTTP/1.1 200"), "{path}: {file}");
        for import in file.split("from \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            if !seen.iter().any(|path| path == import) {
                seen.push(import.to_owned());
                waiting.push(import.to_owned());
            }
        }
    }
    assert!(seen.len() > 2, "the page's modules were followed: {seen:?}");
    let room = get(&server, "/rooms/tea%20room").await;
    assert!(room.starts_with("HTTP/1.1 303") && room.contains("location: /#tea%20room"), "{room}");
    assert!(get(&server, "/nothing").await.starts_with("HTTP/1.1 404"));
    assert!(get(&server, "/rooms/a/b").await.starts_with("HTTP/1.1 404"));
    assert!(get(&server, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&server, "/metrics").await.contains("strait_connections"));
}

/// Their limits let one client take all of a node.
#[tokio::test]
async fn the_endpoints_of_load_tests_are_there_only_where_they_are_asked_for() {
    let server = Server::start_plain();
    for path in ["/echo", "/fan"] {
        assert!(get(&server, path).await.starts_with("HTTP/1.1 404"), "{path}");
    }
    assert!(get(&server, "/rooms/a").await.starts_with("HTTP/1.1 303"));
}

#[tokio::test]
async fn what_is_no_handshake_or_no_room_is_told_so() {
    let server = Server::start(&[]);
    for path in ["/echo", "/fan"] {
        assert!(get(&server, path).await.starts_with("HTTP/1.1 426"), "{path}");
    }
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: ";
    let without_upgrade = ask(&server, "GET", "/rooms/lobby", &format!("{key}close\r\n")).await;
    assert!(without_upgrade.starts_with("HTTP/1.1 426"), "{without_upgrade}");
    let posted = ask(&server, "POST", "/rooms/lobby", "Connection: close\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 426"), "{posted}");
    for room in ["x".repeat(260), "%00".to_owned()] {
        let headers = format!("{key}Upgrade, close\r\nUpgrade: websocket\r\n");
        let refused = ask(&server, "GET", &format!("/rooms/{room}"), &headers).await;
        assert!(refused.starts_with("HTTP/1.1 422"), "{room}: {refused}");
    }
}
