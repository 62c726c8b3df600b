//! The transport of one connection, and the bounds on what a peer may do there.

pub mod frames;
pub mod heads;
pub mod io;
pub mod memory;
pub mod requests;
pub mod streams;
pub mod watch;
