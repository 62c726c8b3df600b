//! Thousands of bad clients and a good one. A test binary of its own: it measures time, so nothing may run beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "api/hostile.rs"]
mod hostile;
