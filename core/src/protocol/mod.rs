//! Wire formats: how messages of a channel are read and written.

pub(crate) mod plain;
