//! TLS to a server that takes nothing else, with a certificate for 127.0.0.1 that a test's own authority signed.

use std::fs;
use std::path::Path;

use strait_store_postgres::sqlx::query_scalar;
use strait_store_postgres::{PostgresConfig, PostgresStore};

use crate::kit::server::{Server, program};
use crate::kit::skip;
use crate::kit::{Schema, publication, publish};

fn make_certificate(server: &Server, openssl: &Path) {
    fs::write(server.folder.0.join("names"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=server -keyout data/server.key -out server.csr",
        "x509 -req -in server.csr -days 2 -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -out data/server.crt",
    ] {
        let made = server.folder.command(openssl).args(arguments.split(' ')).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

#[tokio::test]
async fn tls_is_as_strict_as_sslmode_says() {
    let Some(openssl) = program("openssl") else { return skip("there is no openssl") };
    let Some(mut server) = Server::start().await else { return };
    let mut connection = Schema::at(server.url()).connection().await;
    let library: String = query_scalar("SHOW ssl_library").fetch_one(&mut connection).await.unwrap();
    if library.is_empty() {
        return skip("this postgres is built without TLS");
    }
    make_certificate(&server, &openssl);
    server.stop("-INT");
    fs::write(server.folder.0.join("data/pg_hba.conf"), "hostssl all all all trust\n").unwrap();
    server.settings.push("ssl=on".to_owned());
    server.begin().await;

    let root = format!("&sslrootcert={}", server.folder.0.join("ca.crt").display());
    for (host, mode, root, works) in [
        ("127.0.0.1", "disable", "", false),
        ("127.0.0.1", "prefer", "", true),
        ("127.0.0.1", "require", "", true),
        ("127.0.0.1", "verify-ca", "", false),
        ("127.0.0.1", "verify-ca", &*root, true),
        ("localhost", "verify-ca", &*root, true),
        ("127.0.0.1", "verify-full", "", false),
        ("127.0.0.1", "verify-full", &*root, true),
        ("localhost", "verify-full", &*root, false),
    ] {
        let url = format!("{}?sslmode={mode}{root}", server.url().replace("127.0.0.1", host));
        let store = PostgresStore::new(PostgresConfig::from_url(&url).unwrap());
        let connected = store.connect().await;
        assert_eq!(connected.is_ok(), works, "{url}: {connected:?}");
        store.close().await;
    }
    // All connections use TLS in the same way, LISTEN's too.
    let schema = Schema::at(format!("{}?sslmode=verify-full{root}", server.url()));
    let store = schema.store().await;
    let (ears, _bus) = crate::kit::hearing(&store, &["a"]).await;
    publish(&store, publication("a", "1")).await;
    ears.hear(&crate::kit::topic("a"), 1).await;
    schema.drop().await;
}
