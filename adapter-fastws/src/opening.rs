//! A channel between its handshake and its socket: stored, counted, and removed again if its client does not come.

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

/// A stored channel that waits for its socket. If its client goes away before the answer, the drop of this value
/// removes the stored channel.
///
/// The connection later stays in this same allocation.
pub(crate) struct Opened(Option<Box<Connection>>);

impl Opened {
    /// Stores the channel of an admitted client.
    pub(crate) fn store(admitted: Admitted, place: Place) -> impl Future<Output = Result<Self, Refusal>> {
        let storing = AssertUnwindSafe(store(admitted, place)).catch_unwind();
        Storing(Some(Box::pin(storing.map(|ended| ended.unwrap_or_else(|panic| Err(Refusal::after_panic(&*panic)))))))
    }

    /// The client has its answer: the channel becomes a connection.
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

/// Stores a channel, and is never cancelled half-way. If the client goes away, the storing goes on in the background. A
/// store may complete a call that it has begun, even if no task waits for the answer.
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

/// Cleans up in the background for a client that has gone. Without a runtime the node ends, and so does its lease.
fn behind(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}
