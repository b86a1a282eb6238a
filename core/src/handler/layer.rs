use std::error::Error as StdError;
use std::fmt;
use std::task::{Context as TaskContext, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::reply::{IntoReply, Reply};
use super::{BoxFuture, Call, MessageContext};
use crate::error::Error;

/// A message handler as a [`Service`], for layers to wrap.
#[derive(Clone)]
pub struct MessageService(pub(crate) Call<MessageContext, Reply>);

impl fmt::Debug for MessageService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageService(…)")
    }
}

impl Service<MessageContext> for MessageService {
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, context: MessageContext) -> Self::Future {
        (self.0)(context)
    }
}

/// A layer around a message handler. It is a [`Layer`] with a service that takes a [`MessageContext`] and answers a
/// value that can be a reply.
///
/// As with tower's own layers, its error must convert into a boxed error. An [`Error`] reaches the client unchanged,
/// even through layers that box unknown errors. Every other error is `internal`.
pub trait HandlerLayer: Send + Sync + 'static {
    /// Wraps the handler.
    fn wrap(&self, inner: MessageService) -> MessageService;
}

impl<L> HandlerLayer for L
where
    L: Layer<MessageService> + Send + Sync + 'static,
    L::Service: Service<MessageContext> + Clone + Send + Sync + 'static,
    <L::Service as Service<MessageContext>>::Response: IntoReply,
    <L::Service as Service<MessageContext>>::Error: Into<Box<dyn StdError + Send + Sync>>,
    <L::Service as Service<MessageContext>>::Future: Send,
{
    fn wrap(&self, inner: MessageService) -> MessageService {
        let service = self.layer(inner);
        MessageService(std::sync::Arc::new(move |context| {
            let mut service = service.clone();
            Box::pin(async move {
                let failed = |error: <L::Service as Service<MessageContext>>::Error| Error::unboxed(error.into());
                std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(failed)?;
                service.call(context).await.map_err(failed)?.into_reply()
            })
        }))
    }
}
