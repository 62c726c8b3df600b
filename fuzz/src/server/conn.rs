//! The places in the streams of a connection.

#[path = "../../../kms-server/src/conn/frames.rs"]
pub mod frames;
#[path = "../../../kms-server/src/conn/requests.rs"]
pub mod requests;

pub mod watch {
    /// As in the server's `conn/watch.rs`.
    pub const MAX_HEAD: usize = 16 * 1024;
}
