//! Real clients against the real binary: the official Go SDK, and MinIO with its objects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod aws;
mod certificates;
mod minio;
mod outer;
mod sdk;
mod setup;
