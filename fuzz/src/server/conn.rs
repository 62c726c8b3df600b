//! The places in the streams of a connection.

#[path = "../../../kms-server/src/conn/frames.rs"]
pub mod frames;
#[path = "../../../kms-server/src/conn/requests.rs"]
pub mod requests;
