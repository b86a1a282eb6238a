//! Channels and pages in one axum server: `cargo run -p strait-adapter-fastws --example axum`, then open
//! <http://127.0.0.1:8080>.

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use strait_adapter_fastws::Channels;
use strait_core::{App, Endpoint};
use strait_store_memory::MemoryStore;
use tokio::net::TcpListener;

const PAGE: &str = r#"<!doctype html>
<input placeholder="say something"><ul></ul>
<script>
  const input = document.querySelector("input"), list = document.querySelector("ul");
  const socket = new WebSocket(`ws://${location.host}/shout`);
  socket.onmessage = ({ data }) => list.appendChild(document.createElement("li")).append(data);
  input.onchange = () => { socket.send(input.value); input.value = ""; };
</script>"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shout = Endpoint::new("shout", "/shout").public().on_message(|text: String| async move { text.to_uppercase() });
    let app = App::new().endpoint(shout).store(MemoryStore::new()).build()?;

    // `Server` does this by itself; in a server of one's own the node starts before the first client comes.
    app.start().await?;
    let router =
        Router::new().route("/", get(|| async { Html(PAGE) })).route_service("/shout", Channels::new(app, 10_000));
    axum::serve(TcpListener::bind("127.0.0.1:8080").await?, router).await?;
    Ok(())
}
