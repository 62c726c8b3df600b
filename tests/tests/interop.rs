//! Real clients against the real binary: the official Go SDK, and MinIO with its objects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "interop/aws.rs"]
mod aws;
#[path = "vault/bao.rs"]
#[allow(dead_code, reason = "most of it is for the tests of the Vault backend")]
mod bao;
#[path = "interop/certificates.rs"]
mod certificates;
#[path = "aws/emulator.rs"]
#[allow(dead_code, reason = "most of it is for the tests of the AWS backend")]
mod emulator;
#[path = "interop/minio.rs"]
mod minio;
#[path = "interop/outer.rs"]
mod outer;
#[path = "interop/sdk.rs"]
mod sdk;
#[path = "interop/setup.rs"]
mod setup;
