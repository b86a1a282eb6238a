use std::net::TcpListener;

use tokio_tungstenite::tungstenite::Message;

use crate::kit::{Server, chat};

#[test]
fn bad_arguments_exit_2_and_say_what_to_do() {
    for (arguments, said) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--listen", "nowhere"], "--listen: give an address"),
        (&["--listen"], "missing argument"),
        (&["--connections", "many"], "--connections: invalid digit"),
        (&["extra"], "extra"),
        (&["--store", "redis://localhost/x"], "number of the database"),
        (&["--store", "postgres://localhost/x?sslmode=perhaps"], "sslmode"),
        (&["--store", "mysql://x"], "memory"),
        (&["--store", "memory://x"], "memory"),
        (&["--lease", "1"], "100"),
        (&["--lease", "18446744073709551615"], "3600000"),
        (&["--runtime", "0"], "per-core"),
    ] {
        let output = chat(arguments).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}

#[test]
fn an_error_about_a_store_repeats_no_password() {
    for store in
        ["redis://:hidden@localhost/x", "postgres://me:hidden@localhost/x?sslmode=perhaps", "mysql://me:hidden@x"]
    {
        let output = chat(&["--store", store]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("hidden"), "{output:?}");
    }
}

/// The package has two programs: `cargo run -p chat` must know the right one.
#[test]
fn cargo_runs_the_chat() {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"]);
    let output = cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).output().expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "chat").expect("this one");
    assert_eq!(package["default_run"], "chat");
}

#[test]
fn help_names_every_option() {
    let output = chat(&["--help"]).output().expect("it runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    let options = ["--listen", "--store", "--runtime", "--lease", "--connections", "--accepts", "--version"];
    assert!(options.iter().all(|option| stdout.contains(option)), "{stdout}");
}

#[test]
fn a_port_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let output = chat(&["--listen", &address]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&address));
}

#[tokio::test]
async fn signals_drain_and_exit_0() {
    for signal in ["-INT", "-TERM"] {
        let server = Server::start(&[]);
        let mut client = server.client("/rooms/lobby").await;
        client.json().await;
        server.signal(signal);
        match client.next().await {
            Message::Close(Some(close)) => assert_eq!(u16::from(close.code), 1012),
            other => panic!("{other:?} instead of a close"),
        }
        drop(client);
        assert!(server.exit().await.success(), "{signal}");
    }
}
