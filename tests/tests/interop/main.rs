//! Real clients against the real binary: the official Go SDK, MinIO and curl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod aws;
mod certificates;
mod deletion;
mod failover;
mod least_policy;
mod migrate;
mod minio;
mod outer;
mod postgres;
mod rotation;
mod sdk;
mod setup;
