//! Thousands of bad clients and a good one.
//!
//! The tests measure time, so this is a test binary of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod hostile;
mod strangers;

/// The running test holds this lock, so that the tests run one after another.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
