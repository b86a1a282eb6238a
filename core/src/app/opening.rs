use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How long [`Stored`] is as JSON, beside path and fields, if there are less than ten parameters.
const STORED: usize = r#"{"path":"","fields":"","params":0}"#.len();

/// What the client asked for when it connected: path and query. It is kept with the channel, so secrets do not belong
/// into a query.
pub struct OpeningData {
    /// The path and, behind a question mark, path parameters and then the rest of the query, form-encoded: so there is no question
    /// mark among these.
    text: Box<str>,
    /// How many of the fields are path parameters.
    params: u8,
    pub(super) typed: Option<Arc<dyn Any + Send + Sync>>,
}

/// As the store keeps it.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    path: Cow<'a, str>,
    fields: Cow<'a, str>,
    params: u8,
}

impl fmt::Debug for OpeningData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningData").finish_non_exhaustive()
    }
}

impl OpeningData {
    pub(super) fn new(path: &str, params: &[(&str, String)], query: &str) -> Self {
        let mut fields = serde_urlencoded::to_string(params).unwrap_or_default();
        if !query.is_empty() {
            // A query cannot say otherwise than the path.
            let given: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap_or_default();
            let others = given.iter().filter(|(name, _)| params.iter().all(|(param, _)| param != name));
            let query = serde_urlencoded::to_string(others.collect::<Vec<_>>()).unwrap_or_default();
            if !fields.is_empty() && !query.is_empty() {
                fields.push('&');
            }
            fields.push_str(&query);
        }
        let params = u8::try_from(params.len()).unwrap_or(u8::MAX);
        Self::of(path, &fields, params)
    }

    fn of(path: &str, fields: &str, params: u8) -> Self {
        Self { text: [path, fields].join("?").into(), params, typed: None }
    }

    fn parts(&self) -> (&str, &str) {
        self.text.rsplit_once('?').unwrap_or((&self.text, ""))
    }

    /// The path, decoded no further than it came.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts().0
    }

    fn fields(&self) -> &str {
        self.parts().1
    }

    /// A path parameter, decoded.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<String> {
        let fields: Vec<(String, String)> = serde_urlencoded::from_str(self.fields()).ok()?;
        fields.into_iter().take(self.params.into()).find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Path parameters and query as a `T`.
    pub(crate) fn decode<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, Error> {
        let fields = serde_urlencoded::Deserializer::new(form_urlencoded::parse(self.fields().as_bytes()));
        serde_path_to_error::deserialize(fields).map(Arc::new).map_err(|error| {
            // The body of a 422 is the message alone.
            match error.path().iter().next() {
                Some(_) => Error::invalid(format!("parameter {}: {}", error.path(), error.inner())),
                None => Error::invalid(error.inner().to_string()),
            }
        })
    }

    /// As [`decode`](Self::decode), from memory where the handshake has read it already.
    pub(crate) fn read<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, Error> {
        match self.typed.clone().map(Arc::downcast::<T>) {
            Some(Ok(value)) => Ok(value),
            _ => self.decode(),
        }
    }

    pub(crate) fn to_stored(&self) -> Bytes {
        let (path, fields) = self.parts();
        let stored = Stored { path: path.into(), fields: fields.into(), params: self.params };
        // Most are escaped nowhere: then this is all, and no more than is needed.
        let mut json = Vec::with_capacity(STORED + path.len() + fields.len());
        serde_json::to_writer(&mut json, &stored).map(|()| json.into()).unwrap_or_default()
    }

    pub(crate) fn from_stored(stored: &[u8]) -> Result<Self, serde_json::Error> {
        let Stored { path, fields, params } = serde_json::from_slice(stored)?;
        Ok(Self::of(&path, &fields, params))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_fields_are_kept_apart_and_come_back() {
        // Behind API Gateway a path comes decoded, so that there may be a question mark in it.
        for path in ["/rooms/a", "/a?b", "/", ""] {
            for query in ["", "q=1", "q=%3F&r=a?b"] {
                let opening = OpeningData::new(path, &[("room", "is it?".to_owned())], query);
                let again = OpeningData::from_stored(&opening.to_stored()).expect("its own JSON");
                for opening in [opening, again] {
                    assert_eq!((opening.path(), opening.param("room").as_deref()), (path, Some("is it?")));
                    let fields = opening.decode::<Vec<(String, String)>>().expect("pairs");
                    assert_eq!(fields.iter().any(|(name, value)| name == "r" && value == "a?b"), query.contains("r="));
                }
            }
        }
    }

    #[test]
    fn as_json_it_takes_the_room_of_its_text() {
        let opening = OpeningData::new("/rooms/a", &[("room", "a".to_owned())], "q=1");
        assert_eq!(opening.to_stored().len(), STORED + "/rooms/a".len() + "room=a&q=1".len());
    }
}
