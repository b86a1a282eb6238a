//! Maps of an event as they come: emulators write null, numbers or lists where API Gateway writes text.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The readable values of a map, with their names. The others are passed over, and no map is an empty one.
#[derive(Debug)]
pub(crate) struct Members<T>(pub(crate) HashMap<String, T>);

/// The texts of a list. Its other items are passed over.
#[derive(Debug)]
pub(crate) struct Texts(pub(crate) Vec<String>);

/// A value that may be of another type.
struct Maybe<T>(Option<T>);

/// The value that [`Maybe`] looks for.
trait Expected: Sized {
    fn of_text(_: &str) -> Option<Self> {
        None
    }

    fn of_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn of_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl Expected for String {
    fn of_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Expected for Texts {
    fn of_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut texts = Vec::new();
        while let Some(Maybe(text)) = list.next_element()? {
            texts.extend(text);
        }
        Ok(Some(Self(texts)))
    }
}

impl<T: Expected> Expected for Members<T> {
    fn of_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        let mut members = HashMap::new();
        while let Some((name, Maybe(value))) = map.next_entry()? {
            members.extend(value.map(|value| (name, value)));
        }
        Ok(Some(Self(members)))
    }
}

impl<'de, T: Expected> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue(PhantomData)).map(Self)
    }
}

impl<'de, T: Expected> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_any(AnyValue(PhantomData))?;
        Ok(read.unwrap_or_default())
    }
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

struct AnyValue<T>(PhantomData<T>);

impl<'de, T: Expected> Visitor<'de> for AnyValue<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(T::of_text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::of_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::of_map(map)
    }
}
