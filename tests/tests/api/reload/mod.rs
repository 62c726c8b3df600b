//! Another configuration while clients are at work.

mod access;
mod certificates;
mod server;
mod waits;
mod whole;
