//! Serves Strait's channels from AWS Lambda behind an API Gateway WebSocket API, and posts to them from nodes.
//!
//! [`run`] is the whole of a function: one binary for all routes. A node of a fleet that has channels at API Gateway
//! too is given an [`ApiGateway`] (`AppBuilder::gateway`), and does not need the feature `runtime`.

mod event;
mod function;
mod gateway;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "runtime")]
mod runtime;
mod self_invoke;
mod texts;

pub use function::{After, Failure, Function, Handled};
pub use gateway::{ApiGateway, ConfigError, CredentialsError, Settings};
#[cfg(feature = "runtime")]
pub use runtime::{RunError, run};
pub use self_invoke::SelfInvoke;
