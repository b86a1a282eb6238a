//! Closing from this side: after the reply, with code and reason, and for good.

use std::time::Duration;

use strait_core::{Channel, Close, Endpoint, EventHub, Json, Limits};
use tokio::time::Instant;

use crate::kit::{CLOSING, Got, Notes, becomes, close, echo, frame, limits, ping, pong, serve, text, until};
