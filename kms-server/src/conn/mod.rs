//! The transport of one connection, and the limits on its peer.

#[cfg(test)]
mod counted;
pub mod frames;
pub mod guard;
pub mod heads;
pub mod here;
pub mod http2_executor;
pub mod io;
pub mod memory;
pub mod own_waker;
pub mod requests;
pub mod timer;
pub mod watch;
