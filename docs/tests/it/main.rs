//! What the book says of formats, names and links, compared with the code.

mod chapters;
mod client;
mod endpoint;
mod links;
mod metrics;
mod wire;
