use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use strait_core::{Channel, Endpoint, Error, Json, Payload, Route, Topic};

#[derive(Deserialize)]
struct Pair {
    a: i64,
    b: i64,
}

#[derive(Deserialize)]
struct Shout {
    word: String,
}

async fn shout(channel: Channel, Json(shout): Json<Shout>) -> Result<(), Error> {
    let topic = Topic::new("shouts")?;
    channel.subscribe(&topic).await?;
    channel.publish(&topic, Payload::json(&json!({ "shouted": shout.word }))?).await?;
    Ok(())
}

async fn fail() -> Result<(), Error> {
    Err(Error::new("too_late", "tea is over").with_details(&json!({ "hour": 5 })))
}

async fn broken() -> Result<Json<Value>, Error> {
    Ok(Json(serde_json::from_str("not JSON")?))
}

#[derive(serde::Serialize)]
struct Profile {
    name: &'static str,
    age: u8,
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::new("wire", "/wire")
        .route("add", Route::new(|Json(Pair { a, b }): Json<Pair>| async move { Json(a + b) }).public())
        .route("echo", Route::new(|any: Json<Box<RawValue>>| async { any }).public())
        .route("profile", Route::new(|| async { Json(Profile { name: "ada", age: 36 }) }).public())
        .route("list", Route::new(|| async { Json([1, 2, 3]) }).public())
        .route("nothing", Route::new(|| async { Json(Value::Null) }).public())
        .route("done", Route::new(|| async {}).public())
        .route("text", Route::new(|| async { "some text" }).public())
        .route("reserved", Route::new(|| async { Json(json!({ "gap": 1 })) }).public())
        .route("fail", Route::new(fail).public())
        .route("broken", Route::new(broken).public())
        .route("shout", Route::new(shout).public())
        .on("private", || async {})
}
