//! The API of KES, from outside: what a client sees over HTTP/1.1 and HTTP/2.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "api/bodies.rs"]
mod bodies;
#[path = "api/certificates.rs"]
mod certificates;
#[path = "api/errors.rs"]
mod errors;
#[path = "api/keys.rs"]
mod keys;
#[path = "api/order.rs"]
mod order;
#[path = "api/transcript.rs"]
mod transcript;
