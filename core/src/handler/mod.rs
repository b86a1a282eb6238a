//! Handlers: async functions with arguments that are extracted from their context.

mod context;
mod extract;
mod layer;
mod reply;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use context::{
    ConnectContext, Context, DisconnectContext, DisconnectReason, HasChannel, Headers, MessageContext, OpenContext,
    Peer,
};
pub use extract::{Extract, Json, Opening, Requirement, State, Valid, Validate};
pub use layer::{HandlerLayer, MessageService};
pub use reply::{Admit, Connected, IntoReply, NoReply, Reply, Respond};

use crate::error::Error;

/// The boxed future of a handler.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A handler without its type.
pub(crate) type Call<C, O> = Arc<dyn Fn(C) -> BoxFuture<Result<O, Error>> + Send + Sync>;

/// An async function: each argument is an [`Extract`] from the context `C`, and the result can become an `O`.
///
/// Implemented for functions of up to eight arguments; there is no need to implement it by hand.
#[diagnostic::on_unimplemented(
    message = "this function cannot handle `{C}`",
    note = "a handler is an async function, Clone + Send + Sync, of up to eight arguments that implement \
            `Extract<{C}>`, and its result must implement `Respond<{O}>`"
)]
pub trait Handler<Args, C, O>: Clone + Send + Sync + 'static {
    /// Extracts the arguments and runs the function.
    fn call(&self, context: C) -> BoxFuture<Result<O, Error>>;

    /// The states that the arguments need from the application.
    fn requirements() -> Vec<Requirement>;
}

macro_rules! handler {
    ($($argument:ident),*) => {
        impl<F, Fut, R, C, O, $($argument,)*> Handler<($($argument,)*), C, O> for F
        where
            F: Fn($($argument),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = R> + Send + 'static,
            R: Respond<O>,
            C: Send + 'static,
            O: Send + 'static,
            $($argument: Extract<C> + Send + 'static,)*
        {
            #[allow(non_snake_case, unused_mut, unused_variables)]
            fn call(&self, mut context: C) -> BoxFuture<Result<O, Error>> {
                $(let $argument = match $argument::extract(&mut context) {
                    Ok(argument) => argument,
                    Err(error) => return Box::pin(std::future::ready(Err(error))),
                };)*
                let future = self($($argument),*);
                Box::pin(async move { future.await.respond() })
            }

            fn requirements() -> Vec<Requirement> {
                let requirements: Vec<Option<Requirement>> = vec![$($argument::requirement()),*];
                requirements.into_iter().flatten().collect()
            }
        }
    };
}

handler!();
handler!(A1);
handler!(A1, A2);
handler!(A1, A2, A3);
handler!(A1, A2, A3, A4);
handler!(A1, A2, A3, A4, A5);
handler!(A1, A2, A3, A4, A5, A6);
handler!(A1, A2, A3, A4, A5, A6, A7);
handler!(A1, A2, A3, A4, A5, A6, A7, A8);

/// Erases a handler's type.
pub(crate) fn erase<H, Args, C, O>(handler: H) -> Call<C, O>
where
    H: Handler<Args, C, O>,
    C: 'static,
    O: 'static,
    Args: 'static,
{
    Arc::new(move |context| handler.call(context))
}
