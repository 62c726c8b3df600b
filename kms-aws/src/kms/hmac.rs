//! HMACs of keys: AWS KMS makes them with a CMK of their own.

use std::sync::Arc;
use std::time::Instant;

use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeyMetadata, MacAlgorithmSpec};
use kms_core::cache::policy::CALL_TIMEOUT;
use kms_core::{ErrorKind, KeyName, Result};

use super::backend::Backend;
use super::lifecycle::{Purpose, describe, make, not_seen};
use crate::client::look_again;
use crate::error::Failure;

/// Has AWS make an HMAC with the CMK `arn`, which may be new.
pub async fn compute(
    backend: &Backend,
    name: &KeyName,
    arn: &str,
    digest: Blob,
    deadline: Instant,
) -> Result<[u8; 32]> {
    let what = || format!("compute an HMAC with key '{name}'");
    let mac = loop {
        let call = backend.upstream.client().generate_mac().key_id(arn);
        let call = call.mac_algorithm(MacAlgorithmSpec::HmacSha256).message(digest.clone());
        match backend.upstream.call(deadline, call.send()).await {
            Ok(answer) => break answer.mac.map(Blob::into_inner).unwrap_or_default(),
            Err(failure) if failure.kind == ErrorKind::NotFound && look_again(deadline).await => {}
            Err(failure) => return Err(not_seen(failure).into_error(what())),
        }
    };
    mac.try_into().map_err(|_| {
        Failure::of(ErrorKind::Unreachable, "AWS KMS answered with an HMAC of another size")
            .into_error(what())
    })
}

/// Finds the CMK that makes a key's HMACs, and makes it at the first use. Returns its ARN.
pub async fn find_or_make(backend: Arc<Backend>, name: KeyName, creator: String) -> Result<String> {
    let deadline = Instant::now() + CALL_TIMEOUT;
    let (upstream, alias) = (&backend.upstream, backend.aliases.hmac(&name));
    let arn = |metadata: KeyMetadata| metadata.arn.unwrap_or(metadata.key_id);
    let failed = |failure: Failure| failure.into_error(format!("find the HMAC key of key '{name}'"));
    match describe(upstream, deadline, &alias).await {
        Ok(metadata) => return Ok(arn(metadata)),
        Err(failure) if failure.kind == ErrorKind::NotFound => {}
        Err(failure) => return Err(failed(failure)),
    }
    match make(upstream, &name, &creator, &alias, Purpose::Hmac).await {
        Ok(metadata) => Ok(arn(metadata)),
        Err(failure) if failure.kind == ErrorKind::AlreadyExists => loop {
            // Another server was first. Its alias may take a moment to be seen.
            match describe(upstream, deadline, &alias).await {
                Ok(metadata) => return Ok(arn(metadata)),
                Err(failure) if failure.kind == ErrorKind::NotFound && look_again(deadline).await => {}
                Err(failure) => return Err(failed(not_seen(failure))),
            }
        },
        Err(failure) => Err(failed(failure)),
    }
}
