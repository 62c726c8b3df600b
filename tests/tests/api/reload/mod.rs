//! Reloads of the configuration while clients are connected.

mod access;
mod certificates;
mod server;
mod waits;
mod whole;
