//! Calls the handler of a step, `on_connect` or a message's, and sends its reply.

use std::cell::Cell;
use std::mem;

use super::Conversation;
use super::run::{Handling, Route, Work, call};
use crate::channel::unauthenticated;
use crate::error::Error;
use crate::frame::FrameKind;
use crate::handler::{ConnectContext, MessageContext, Reply};
use crate::in_full::in_full;
use crate::inbound::{Inbound, Received};
use crate::protocol::plain::{self, Request};
use crate::spare;
use crate::store::Patch;

impl Conversation {
    pub(super) fn connect(&self) -> Option<Work> {
        let handler = self.channel.inner.endpoint.connect.clone();
        let resumable = self.channel.inner.endpoint.grace.is_some() && !self.channel.is_at_gateway();
        if handler.is_none() && self.channel.session_value().is_none() && !resumable {
            return None;
        }
        let channel = self.channel.clone();
        Some(Work::Connect(Box::pin(async move {
            channel.index_user().await?;
            if let Some(handler) = handler {
                handler(ConnectContext { channel: channel.clone() }).await?;
            }
            if resumable {
                // When its node dies, only an open channel becomes detached.
                channel.write(Patch { opened: true, ..Patch::default() }).await?;
            }
            Ok(())
        })))
    }

    /// Finds the handler of a message and calls it.
    pub(super) fn message(&self, message: Inbound) -> Result<(Handling, Route), (Error, Route)> {
        let endpoint = &self.channel.inner.endpoint;
        let Inbound { mut payload, limited } = message;
        let (found, payload) = match &mut payload {
            Received::Binary(_) => match endpoint.binary {
                _ if limited => return Err((too_many(), Route::None)),
                None => return Err((Error::invalid("this endpoint takes no binary messages"), Route::None)),
                Some(found) => (found, payload),
            },
            Received::Text(text) => {
                let find = |key: &str| endpoint.keys.get(key).copied();
                let unknown = |key: Option<String>| key.map_or(Route::None, Route::Unknown);
                match plain::decode(mem::take(text), &endpoint.routing_key, find) {
                    Request::Routed { route, .. } if limited => return Err((too_many(), Route::Known(route))),
                    Request::Routed { route, payload } => (route, Received::Text(payload)),
                    Request::Twice { route } => {
                        let error = Error::invalid("a key stands twice in the message");
                        return Err((error, route.map_or(Route::None, Route::Known)));
                    }
                    Request::Whole { key, .. } if limited => return Err((too_many(), unknown(key))),
                    Request::Whole { payload, key } => match endpoint.message {
                        Some(found) => (found, Received::Text(payload)),
                        None => return Err((unknown_route(&endpoint.routing_key, key.as_deref()), unknown(key))),
                    },
                }
            }
        };
        let route = endpoint.route(found);
        if !route.public && !endpoint.public && self.channel.session_value().is_none() {
            return Err((unauthenticated(), Route::Known(found)));
        }
        let context = MessageContext { channel: self.channel.clone(), route: found, payload };
        match call(|| (route.handler)(context)) {
            Ok(future) => Ok((future, Route::Known(found))),
            Err(error) => Err((error, Route::Known(found))),
        }
    }

    pub(super) fn reply(&self, result: Result<Reply, Error>, route: &Route) {
        let endpoint = &self.channel.inner.endpoint;
        let outlet = &self.channel.inner.outlet;
        let refused = Cell::new(None);
        let send = |kind: FrameKind, parts: &[&[u8]]| {
            let bytes = parts.iter().map(|part| part.len()).sum();
            if self.may_reply(kind, bytes) {
                outlet.reply(kind, parts);
            } else {
                refused.set(Some((kind, bytes)));
            }
        };
        let text = |parts: &[&[u8]]| send(FrameKind::Text, parts);
        let unknown;
        let prefix = match route {
            Route::None => None,
            Route::Known(route) => endpoint.route(*route).key.as_ref().map(|(_, prefix)| &**prefix),
            Route::Unknown(key) => {
                unknown = plain::reply_prefix(&endpoint.routing_key, key);
                Some(&*unknown)
            }
        };
        match (result, prefix) {
            (Ok(Reply::None), _) | (Ok(Reply::Acknowledged), None) => {}
            (Ok(Reply::Acknowledged), Some(prefix)) => text(&[prefix, b"}"]),
            (Ok(Reply::Json(json)), prefix) => {
                match prefix {
                    Some(prefix) => plain::reply(prefix, &endpoint.routing_key, &json, text),
                    None => text(&[&json]),
                }
                spare::give(json);
            }
            (Ok(Reply::Text(reply)), Some(prefix)) => {
                let json = serde_json::Value::String(reply).to_string();
                plain::reply(prefix, &endpoint.routing_key, json.as_bytes(), text);
            }
            (Ok(Reply::Text(reply)), None) => text(&[reply.as_bytes()]),
            (Ok(Reply::Bytes(bytes)), _) => send(FrameKind::Binary, &[&bytes]),
            (Err(error), prefix) => {
                self.log(&error);
                plain::error(prefix, &error, text);
            }
        }
        if let Some((kind, bytes)) = refused.get() {
            let error = too_large(kind, bytes);
            self.log(&error);
            plain::error(prefix, &error, |parts| outlet.reply(FrameKind::Text, parts));
        }
    }

    /// Whether the endpoint's limit and the transport allow a reply of this size.
    fn may_reply(&self, kind: FrameKind, bytes: usize) -> bool {
        let limit = self.channel.inner.endpoint.limits.reply;
        limit.is_none_or(|limit| bytes <= limit) && self.channel.inner.outlet.carries(kind, bytes)
    }

    pub(super) fn log(&self, error: &Error) {
        let endpoint = &self.channel.inner.endpoint;
        endpoint.counters.failed.increment(1);
        if error.code() == "internal" {
            // One endpoint's handlers may all fail while a store or a service is away.
            if let Some(count) = endpoint.counters.failure_lines.count() {
                let source = error.source().map(|source| tracing::field::display(in_full(source)));
                tracing::error!(
                    count,
                    channel = %self.channel.id(),
                    endpoint = %endpoint.name,
                    source,
                    "a handler failed"
                );
            }
        } else {
            let source = error.source().map(|source| tracing::field::display(in_full(source)));
            tracing::debug!(channel = %self.channel.id(), code = error.code(), source, "a handler answered with an error");
        }
    }
}

fn too_many() -> Error {
    Error::rate_limited("too many messages, slow down")
}

fn too_large(kind: FrameKind, bytes: usize) -> Error {
    let kind = match kind {
        FrameKind::Text => "text",
        FrameKind::Binary => "bytes",
    };
    Error::too_large(format!("the reply, {bytes} bytes as {kind}, is more than this endpoint or its gateway carries"))
}

fn unknown_route(routing_key: &str, key: Option<&str>) -> Error {
    match key {
        Some(_) => Error::unknown_route("there is no such route"),
        None => Error::unknown_route(format!(
            "the message names no route: send a JSON object whose {routing_key:?} is the route's name"
        )),
    }
}
