//! Serves Strait channels from long-lived nodes, on fastwebsockets and hyper.

#[cfg_attr(
    not(test),
    expect(dead_code, unused_imports, reason = "the connection task that reads through it comes next")
)]
mod frame;
