//! A channel between its handshake and its socket: stored, counted, and removed again if nobody comes.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use strait_core::{Admitted, Outlet, Refusal};
use tokio::runtime::Handle;

use crate::connection::{Connection, Wire};
use crate::peer::Peer;
use crate::registry::Place;

/// A channel that is stored and waits for its socket. A client that goes away before it has its answer leaves nothing behind: when
/// this is dropped, what was stored is removed.
///
/// It has the place in memory that the connection stays in.
pub(crate) struct Opened(Option<Box<Connection>>);

impl Opened {
    /// Stores the channel of who was let in.
    pub(crate) fn store(admitted: Admitted, place: Place) -> impl Future<Output = Result<Self, Refusal>> {
        let storing = AssertUnwindSafe(store(admitted, place)).catch_unwind();
        Storing(Some(Box::pin(storing.map(|ended| ended.unwrap_or_else(|panic| Err(Refusal::after_panic(&*panic)))))))
    }

    /// The client has its answer: from here on it is a connection.
    pub(crate) fn connect(mut self, wire: Wire, early: &[u8]) -> Box<Connection> {
        let mut connection = self.0.take().expect("it is connected once");
        connection.connect(wire, early);
        connection
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            behind(connection.abandon());
        }
    }
}

async fn store(admitted: Admitted, place: Place) -> Result<Opened, Refusal> {
    let limits = admitted.limits();
    let max_message = limits.message;
    let peer = Arc::new(Peer::new(limits, admitted.gaps()));
    let conversation = admitted.open(Arc::clone(&peer) as Arc<dyn Outlet>).await?;
    let registered = place.register(&peer);
    Ok(Opened(Some(Box::new(Connection::new(peer, conversation, max_message, registered)))))
}

/// The storing of a channel, which is not given up half-way: when the client goes away it comes to its end behind it, as what
/// a store has begun to take it may take whoever waits for the answer.
struct Storing(Option<Pin<Box<dyn Future<Output = Result<Opened, Refusal>> + Send>>>);

impl Future for Storing {
    type Output = Result<Opened, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let storing = self.0.as_mut().expect("it has not ended before");
        let result = ready!(storing.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(result)
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        if let Some(storing) = self.0.take() {
            behind(storing.map(drop));
        }
    }
}

/// Runs what is left to do for a client that has gone. Without a runtime the node ends, and its lease with it.
fn behind(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}
