//! The function on the Lambda runtime.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lambda_runtime::tower::service_fn;
use lambda_runtime::{Diagnostic, LambdaEvent, LambdaInvocation, Runtime};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use strait_core::{AppBuilder, BuildError};
use tower_layer::Layer;
use tower_service::Service;

use crate::function::{After, Function};
use crate::gateway::{ApiGateway, ConfigError, variable};
use crate::self_invoke::SelfInvoke;

/// Why a function cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The environment lacks a setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The application is not well formed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The process does not run on Lambda.
    #[error("AWS_LAMBDA_RUNTIME_API is not set: this is a Lambda function, run it there or with the local gateway")]
    NotLambda,
    /// The runtime API failed.
    #[error("the Lambda runtime API failed")]
    Runtime(#[source] lambda_runtime::Error),
}

/// Serves an application from a Lambda function, until the process is ended. If the application has no gateway
/// ([`ApiGateway::from_env`]) or no continuation ([`SelfInvoke::from_env`]), it gets one from the environment.
///
/// # Errors
/// [`RunError`] names the missing setting or the failure.
pub async fn run(mut app: AppBuilder) -> Result<(), RunError> {
    if variable("AWS_LAMBDA_RUNTIME_API").is_none() {
        return Err(RunError::NotLambda);
    }
    let region = variable("AWS_REGION").ok_or(ConfigError::NoRegion)?;
    if !app.has_gateway() {
        app = app.gateway(ApiGateway::from_env()?);
    }
    if !app.has_continuation()
        && let Some(invoke) = SelfInvoke::from_env()?
    {
        app = app.continuation(invoke);
    }
    let endpoint = variable("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI");
    let function = Function::new(app.build()?, &region, endpoint.as_deref());
    let waiting = Waiting::default();
    let service = service_fn({
        let (function, waiting) = (function.clone(), waiting.clone());
        move |event: LambdaEvent<Box<RawValue>>| handle(function.clone(), waiting.clone(), event)
    });
    let runtime = Runtime::new(service).layer(AfterLayer { function, waiting });
    runtime.run_concurrent().await.map_err(RunError::Runtime)
}

/// Work that waits until its invocation's answer is handed over, by request id.
type Waiting = Arc<Mutex<HashMap<String, After>>>;

async fn handle(
    function: Function,
    waiting: Waiting,
    event: LambdaEvent<Box<RawValue>>,
) -> Result<Box<RawValue>, Diagnostic> {
    let handled = function.handle(event.payload.get(), event.context.deadline()).await;
    let handled = handled.map_err(|failure| Diagnostic {
        error_type: "strait::Failure".to_owned(),
        error_message: failure.to_string(),
    })?;
    if let Some(after) = handled.after {
        waiting.lock().insert(event.context.request_id, after);
    }
    Ok(handled.answer)
}

/// Does the work left once an invocation's answer was handed over, before the next invocation is asked for.
struct AfterLayer {
    function: Function,
    waiting: Waiting,
}

impl<S> Layer<S> for AfterLayer {
    type Service = AfterService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AfterService { inner, function: self.function.clone(), waiting: Arc::clone(&self.waiting) }
    }
}

#[derive(Clone)]
struct AfterService<S> {
    inner: S,
    function: Function,
    waiting: Waiting,
}

impl<S> Service<LambdaInvocation> for AfterService<S>
where
    S: Service<LambdaInvocation, Response = ()>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = ();
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, invocation: LambdaInvocation) -> Self::Future {
        let request = invocation.context.request_id.clone();
        let answered = self.inner.call(invocation);
        let (function, waiting) = (self.function.clone(), Arc::clone(&self.waiting));
        Box::pin(async move {
            let result = answered.await;
            let after = waiting.lock().remove(&request);
            result?;
            if let Some(after) = after {
                function.after(after).await;
            }
            Ok(())
        })
    }
}
