//! Small helpers of several tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::primitives::{Fingerprint, SecretBytes};
use kms_core::store::{EntryName, KeyStore};
use kms_core::{ErrorKind, KeyName};
use kms_postgres::PostgresConfig;

pub fn open(config: PostgresConfig) -> Arc<dyn KeyStore> {
    kms_postgres::open(config).unwrap()
}

pub fn key(name: &str) -> KeyName {
    KeyName::new(name).unwrap()
}

pub fn entry(name: &str) -> EntryName {
    EntryName::from(&key(name))
}

pub fn fingerprint() -> Fingerprint {
    Fingerprint::from_bytes([7; 16])
}

pub fn record() -> SecretBytes {
    bytes("record")
}

pub fn bytes(text: &str) -> SecretBytes {
    SecretBytes::from(text.as_bytes())
}

pub fn kind<T>(outcome: kms_core::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

/// Returns the kind of a failure and its whole text.
pub fn told<T>(outcome: kms_core::Result<T>) -> (ErrorKind, String) {
    let error = outcome.err().expect("it has to fail");
    (error.kind(), error.chain().to_string())
}

/// Repeats a call until it succeeds, and returns how long that took.
pub async fn until_it_works<T>(
    within: Duration,
    call: impl AsyncFn() -> kms_core::Result<T>,
) -> (T, Duration) {
    let began = Instant::now();
    loop {
        match call().await {
            Ok(value) => return (value, began.elapsed()),
            Err(error) if began.elapsed() > within => panic!("still after {within:?}: {error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
