//! Real clients against the real binary: the official Go SDK, and MinIO with its objects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "interop/minio.rs"]
mod minio;
#[path = "interop/sdk.rs"]
mod sdk;
#[path = "interop/setup.rs"]
mod setup;
