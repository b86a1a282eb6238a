//! The embedded store of Strait.
