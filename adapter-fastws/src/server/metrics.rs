//! A listener for the metrics alone, at an address that strangers cannot reach.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use strait_core::Refusal;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::route::{self, Render};
use super::{ServerLimits, accept, heads};
use crate::lines::Lines;
use crate::service::refuse;

/// The most sockets that are served at once. Scrapers are few.
const SOCKETS: usize = 32;

static FAILED: Lines = Lines::new(1);

/// Answers `/metrics` until it is dropped.
pub(super) async fn serve(listener: std::net::TcpListener, render: Render, limits: ServerLimits) {
    let listener = match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the listener of the metrics cannot be used"),
    };
    let (http, seats) = (accept::http(), Arc::new(Semaphore::new(SOCKETS)));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                if let Some(left_out) = FAILED.next() {
                    tracing::warn!(%error, left_out, "a request for the metrics cannot be accepted");
                }
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let render = Arc::clone(&render);
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = match request.uri().path() {
                "/metrics" => route::metrics(&render, request.method()),
                _ => refuse(&Refusal::new(StatusCode::NOT_FOUND, "the metrics are at /metrics")),
            };
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let (stream, http) = heads::timed(socket, &http, &limits);
        tokio::spawn(async move {
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection for the metrics failed");
            }
            drop(seat);
        });
    }
}
