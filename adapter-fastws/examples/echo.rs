//! Gives text and bytes back, over plain TCP and over TLS with a certificate made at the start:
//! `cargo run -p strait-adapter-fastws --example echo --features tls`. `cargo xtask conformance` tests this server.
#![expect(clippy::print_stdout, reason = "whoever started it reads where it listens")]

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use strait_adapter_fastws::Server;
use strait_core::{App, Endpoint, Limits};
use strait_store_memory::MemoryStore;
use tokio::net::TcpListener;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// As long a message as any of the suite's.
const MESSAGE: usize = 16 * 1024 * 1024;

fn server() -> Result<Server, Box<dyn Error>> {
    let echo = Endpoint::new("echo", "/echo")
        .public()
        .limits(Limits { message: MESSAGE, rate: None, ..Limits::default() })
        .on_message(|text: String| async move { text })
        .on_binary(|bytes: Bytes| async move { bytes });
    Ok(Server::new(App::new().endpoint(echo).store(MemoryStore::new()).build()?))
}

/// For clients that do not ask whose it is.
fn certificate() -> Result<ServerConfig, Box<dyn Error>> {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der())?;
    Ok(ServerConfig::builder().with_no_client_auth().with_single_cert(vec![signed.cert.der().clone()], key)?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (plain, tls) = (server()?, server()?.tls(Arc::new(certificate()?)));
    plain.handle().on_signals()?;
    tls.handle().on_signals()?;
    let (plain_at, tls_at) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    println!("ws://{}/echo", plain_at.local_addr()?);
    println!("wss://{}/echo", tls_at.local_addr()?);
    tokio::try_join!(plain.serve(plain_at), tls.serve(tls_at))?;
    Ok(())
}
