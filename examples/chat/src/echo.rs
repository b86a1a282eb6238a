//! `/echo`: each message comes back. For load tests.

use serde_json::value::RawValue;
use strait_core::{Endpoint, Json};

use crate::quick;

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::new("echo", "/echo").public().limits(quick()).on("echo", echo).on_message(text).on_binary(bytes)
}

async fn echo(input: Json<Box<RawValue>>) -> Json<Box<RawValue>> {
    input
}

async fn text(text: String) -> String {
    text
}

async fn bytes(bytes: bytes::Bytes) -> bytes::Bytes {
    bytes
}
