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

/// What a layer around a message handler must be.
pub trait HandlerLayer: Send + Sync + 'static {
    /// Wraps the handler.
    fn wrap(&self, inner: MessageService) -> MessageService;
}

impl<L> HandlerLayer for L
where
    L: Layer<MessageService> + Send + Sync + 'static,
    L::Service: Service<MessageContext> + Clone + Send + Sync + 'static,
    <L::Service as Service<MessageContext>>::Response: IntoReply,
    <L::Service as Service<MessageContext>>::Error: Into<Error>,
    <L::Service as Service<MessageContext>>::Future: Send,
{
    fn wrap(&self, inner: MessageService) -> MessageService {
        let service = self.layer(inner);
        MessageService(std::sync::Arc::new(move |context| {
            let mut service = service.clone();
            Box::pin(async move {
                std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
                service.call(context).await.map_err(Into::into)?.into_reply()
            })
        }))
    }
}
