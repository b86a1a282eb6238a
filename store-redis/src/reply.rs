//! Parses the answers of scripts.

use bytes::Bytes;
use redis::Value;
use strait_core::Position;

use crate::event::{Foreign, parse_position};

pub(crate) fn integer(value: &Value) -> Result<i64, Foreign> {
    match value {
        Value::Int(number) => Ok(*number),
        _ => text(value)?.parse().map_err(|_| Foreign),
    }
}

pub(crate) fn text(value: &Value) -> Result<&str, Foreign> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| Foreign),
        Value::SimpleString(text) => Ok(text),
        _ => Err(Foreign),
    }
}

pub(crate) fn bytes(value: Value) -> Result<Bytes, Foreign> {
    match value {
        Value::BulkString(bytes) => Ok(Bytes::from(bytes)),
        _ => Err(Foreign),
    }
}

pub(crate) fn list(value: Value) -> Result<Vec<Value>, Foreign> {
    match value {
        Value::Array(list) => Ok(list),
        _ => Err(Foreign),
    }
}

pub(crate) fn position(value: &Value) -> Result<Position, Foreign> {
    parse_position(text(value)?).ok_or(Foreign)
}
