//! `/rooms/{room}`: a chat room.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strait_core::{
    Channel, ChannelState, Endpoint, Error, EventHub, InvalidName, Json, Opening, Payload, Session, Topic, Valid,
    Validate,
};

use crate::KEPT;

/// The retained topics that hold a room's posts, one a room.
pub(crate) const LOG_PREFIX: &str = "log:";
/// How much of a room's history one answer holds, in bytes of JSON: API Gateway carries 128 KiB.
const PAGE_OF_HISTORY: usize = 96 * 1024;
/// How many present channels are asked for at once.
const PAGE: usize = 256;
const LONGEST_NICKNAME: usize = 32;
const LONGEST_TEXT: usize = 2_000;

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::new("room", "/rooms/{room}")
        .opening::<Room>()
        .public()
        .on_connect(join)
        .on("login", login)
        .on("post", post)
        .on("typing", typing)
        .on("who", who)
        .on("history", history)
        .on_binary(binary)
        .on_disconnect(leave)
}

/// The room of a channel: the path's parameter.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Named")]
struct Room {
    topic: Topic,
    log: Topic,
}

#[derive(Debug, Deserialize)]
struct Named {
    room: String,
}

/// The handshake refuses a name that makes no topic.
impl TryFrom<Named> for Room {
    type Error = InvalidName;

    fn try_from(Named { room }: Named) -> Result<Self, InvalidName> {
        Ok(Self { topic: Topic::new(format!("room:{room}"))?, log: Topic::new(format!("{LOG_PREFIX}{room}"))? })
    }
}

/// The identity of a guest in the chat; the session's user is the nickname.
#[derive(Debug, Serialize, Deserialize)]
struct Guest {}

/// The nickname under which the room knows a channel. A login that failed half-way is not announced until it is
/// repeated.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Told {
    nickname: Option<String>,
}

/// An event on the room's topic.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum RoomEvent<'a> {
    Joined { user: &'a str },
    Left { user: &'a str },
    Typing { user: &'a str },
    Posted { user: &'a str, text: &'a str, at: u64 },
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    user: &'a str,
    text: &'a str,
    at: u64,
}

/// A page of a room's history, the oldest message first.
#[derive(Debug, Serialize)]
struct Messages {
    /// Each message as it was stored.
    messages: Vec<Box<RawValue>>,
    /// Set if older messages are kept: `{"action":"history","before":…}` answers them.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct History {
    /// Answers messages before this offset, which a page gave.
    before: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Users {
    users: BTreeSet<String>,
}

#[derive(Debug, Serialize)]
struct Posted {
    at: u64,
}

#[derive(Debug, Deserialize)]
struct Login {
    nickname: String,
}

impl Validate for Login {
    fn validate(&self) -> Result<(), Error> {
        let nickname = self.nickname.trim();
        if nickname.is_empty() || nickname.chars().count() > LONGEST_NICKNAME {
            let message = format!("a nickname has 1 to {LONGEST_NICKNAME} characters");
            return Err(Error::invalid(message).with_details(&serde_json::json!({ "field": "nickname" })));
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Post {
    text: String,
}

impl Validate for Post {
    fn validate(&self) -> Result<(), Error> {
        if self.text.trim().is_empty() || self.text.chars().count() > LONGEST_TEXT {
            let message = format!("a message has 1 to {LONGEST_TEXT} characters");
            return Err(Error::invalid(message).with_details(&serde_json::json!({ "field": "text" })));
        }
        Ok(())
    }
}

async fn join(channel: Channel, room: Opening<Room>, hub: EventHub) -> Result<(), Error> {
    // Subscribe first: a message posted meanwhile comes twice rather than never.
    channel.subscribe(&room.topic).await?;
    channel.send_json(&messages(&room, &hub, None).await?).await
}

async fn login(
    channel: Channel,
    room: Opening<Room>,
    told: ChannelState<Told>,
    Valid(input): Valid<Login>,
) -> Result<(), Error> {
    let session = Session::new(input.nickname.trim(), Guest {})?;
    let topic = &room.topic;
    let user = session.user().as_str();
    // Announced only after success; the client can repeat a login that failed half-way.
    channel.login(session.clone()).await?;
    channel.subscribe_present::<()>(topic, None).await?;
    let before = told.get()?;
    if before.nickname.as_deref() == Some(user) {
        return Ok(());
    }
    if let Some(before) = &before.nickname {
        tell(&channel, topic, &RoomEvent::Left { user: before }).await?;
    }
    tell(&channel, topic, &RoomEvent::Joined { user }).await?;
    told.update(|told| told.nickname = Some(user.to_owned())).await
}

async fn post(
    channel: Channel,
    room: Opening<Room>,
    session: Session<Guest>,
    hub: EventHub,
    Valid(input): Valid<Post>,
) -> Result<Json<Posted>, Error> {
    let at = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let user = session.user().as_str();
    let message = Message { user, text: &input.text, at };
    hub.publish(strait_core::Publish::new(room.log.clone(), Payload::json(&message)?)).await?;
    tell(&channel, &room.topic, &RoomEvent::Posted { user, text: message.text, at }).await?;
    Ok(Json(Posted { at }))
}

async fn typing(channel: Channel, room: Opening<Room>, session: Session<Guest>) -> Result<(), Error> {
    tell(&channel, &room.topic, &RoomEvent::Typing { user: session.user().as_str() }).await
}

async fn who(room: Opening<Room>, hub: EventHub) -> Result<Json<Users>, Error> {
    let topic = &room.topic;
    let (mut users, mut cursor) = (BTreeSet::new(), None);
    loop {
        let page = hub.presence(topic, cursor.as_deref(), PAGE).await?;
        users.extend(page.items.into_iter().filter_map(|present| present.entry.user).map(String::from));
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(Json(Users { users })),
        }
    }
}

async fn history(
    room: Opening<Room>,
    hub: EventHub,
    Json(History { before }): Json<History>,
) -> Result<Json<Messages>, Error> {
    Ok(Json(messages(&room, &hub, before).await?))
}

async fn binary(bytes: bytes::Bytes) -> bytes::Bytes {
    bytes
}

async fn leave(channel: Channel, room: Opening<Room>, told: ChannelState<Told>) -> Result<(), Error> {
    match &told.get()?.nickname {
        Some(user) => tell(&channel, &room.topic, &RoomEvent::Left { user }).await,
        None => Ok(()),
    }
}

async fn tell(channel: &Channel, topic: &Topic, event: &RoomEvent<'_>) -> Result<(), Error> {
    channel.publish(topic, Payload::json(event)?).await?;
    Ok(())
}

/// The newest messages before the offset `before` that fit into a page.
async fn messages(room: &Room, hub: &EventHub, before: Option<u64>) -> Result<Messages, Error> {
    let kept = hub.history(&room.log, KEPT.count as usize).await?;
    let asked = kept.iter().rev().filter(|(position, _)| before.is_none_or(|before| position.offset < before));
    let (mut page, mut bytes) = (Messages { messages: Vec::new(), before: None }, 0);
    let mut oldest = None;
    for (position, event) in asked {
        bytes += event.payload.bytes().len() + 1;
        if bytes > PAGE_OF_HISTORY {
            page.before = oldest;
            break;
        }
        oldest = Some(position.offset);
        page.messages.push(serde_json::from_slice(event.payload.bytes())?);
    }
    page.messages.reverse();
    Ok(page)
}
