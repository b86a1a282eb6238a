//! `/fan`: anybody may subscribe to and publish on topics under `fan:`, with `?guest=true` as a user of its own. For
//! load tests.

use serde::Deserialize;
use serde_json::value::RawValue;
use strait_core::{Channel, ChannelId, Endpoint, Error, Json, Opening, Payload, Session, Topic};

use crate::quick;

const PREFIX: &str = "fan:";
/// The prefix of fan topics that are kept for a while.
pub(crate) const KEPT_PREFIX: &str = "fan:kept:";

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::new("fan", "/fan")
        .public()
        .limits(quick())
        .opening::<Query>()
        .authenticate(authenticate)
        .on("subscribe", subscribe)
        .on("publish", publish)
}

#[derive(Deserialize)]
struct Query {
    #[serde(default)]
    guest: bool,
}

async fn authenticate(query: Opening<Query>) -> Result<Option<Session<()>>, Error> {
    let guest = query.guest.then(|| Session::new(ChannelId::unique(), ()));
    Ok(guest.transpose()?)
}

#[derive(Deserialize)]
struct Subscribe {
    topic: Topic,
}

#[derive(Deserialize)]
struct Publish {
    topic: Topic,
    data: Box<RawValue>,
}

async fn subscribe(channel: Channel, Json(input): Json<Subscribe>) -> Result<(), Error> {
    channel.subscribe(open_to_all(&input.topic)?).await
}

async fn publish(channel: Channel, Json(input): Json<Publish>) -> Result<(), Error> {
    channel.publish(open_to_all(&input.topic)?, Payload::json(&input.data)?).await?;
    Ok(())
}

fn open_to_all(topic: &Topic) -> Result<&Topic, Error> {
    if topic.as_str().starts_with(PREFIX) {
        Ok(topic)
    } else {
        Err(Error::forbidden("only topics under `fan:` are open"))
    }
}
