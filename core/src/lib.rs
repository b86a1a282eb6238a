//! Channels, handlers, the event hub and the store traits of Strait.
