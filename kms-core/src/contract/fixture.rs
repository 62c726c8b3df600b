//! The fixtures and assertions of the contract suite.

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::identity::{Identity, Request};
use crate::name::KeyName;

/// The number of callers that race for one name.
pub const RACERS: usize = 16;
/// The timeout of one operation of a backend under test.
const PATIENCE: Duration = Duration::from_secs(15);

#[track_caller]
pub fn assert_kind<T>(outcome: Result<T, Error>, kind: ErrorKind, what: &str) {
    match outcome {
        Ok(_) => panic!("{what} succeeded, but has to fail as {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{what}: {error:?}"),
    }
}

pub fn key(name: &str) -> KeyName {
    KeyName::new(name).expect("a valid name")
}

pub fn caller() -> Identity {
    Identity::of_program("the contract suite")
}

pub fn request() -> Request {
    Request::new(caller(), PATIENCE)
}
