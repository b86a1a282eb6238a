//! Serves Strait channels from long-lived nodes, on fastwebsockets and hyper.
