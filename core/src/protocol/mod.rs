//! Wire formats: how messages of a channel are read and written.

mod json;
pub(crate) mod plain;
