//! The rules for the versions of a key.

use std::time::Duration;

use super::fixture::{assert_kind, key, request};
use crate::error::ErrorKind;
use crate::kms::Kms;

/// The longest delay that the suite waits for.
pub const PATIENCE: Duration = Duration::from_secs(2);

pub async fn a_rotated_key_reads_everything(kms: &dyn Kms) {
    let name = key("contract-rotate");
    let absent = kms.rotate(&request(), &name, None).await;
    if !kms.capabilities().versions {
        kms.create(&request(), &name).await.expect("create a key");
        let dek = kms.generate(&request(), &name, b"c").await.expect("generate a DEK");
        let mac = kms.hmac(&request(), &name, b"message").await.expect("compute an HMAC");
        match kms.rotate(&request(), &name, None).await {
            Ok(made) => assert_eq!(made.version, None, "a version without a number"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "rotating: {error:?}"),
        }
        let later = kms.generate(&request(), &name, b"c").await.expect("generate a DEK after the rotation");
        for dek in [&dek, &later] {
            let opened = kms.decrypt(&request(), &name, &dek.ciphertext, b"c").await.expect("open a DEK");
            assert!(opened.expose() == dek.plaintext.expose(), "a DEK from before or after opens");
        }
        let after = kms.hmac(&request(), &name, b"message").await.expect("compute an HMAC");
        assert_eq!(after, mac, "a rotation changes no HMAC");
        assert_kind(
            kms.retire(&request(), &name, 1).await,
            ErrorKind::Unsupported,
            "retiring without versions",
        );
        let outcome = kms.versions(&request(), &name).await;
        assert_kind(outcome, ErrorKind::Unsupported, "listing versions where keys have none");
        kms.delete(&request(), &name).await.expect("delete the key");
        return;
    }
    assert_kind(absent, ErrorKind::NotFound, "rotating an absent key");
    kms.create(&request(), &name).await.expect("create a key");
    let mac = kms.hmac(&request(), &name, b"message").await.expect("compute an HMAC");
    let mut sealed = Vec::new();
    for version in 1..=3 {
        let dek = kms.generate(&request(), &name, b"c").await.expect("generate a DEK");
        sealed.push(dek);
        let versions = kms.versions(&request(), &name).await.expect("list the versions");
        let numbers: Vec<_> = versions.iter().map(|info| info.version).collect();
        assert_eq!(numbers, (1..=version).collect::<Vec<_>>(), "the versions of a key are contiguous");
        let made = kms.rotate(&request(), &name, Some(version)).await.expect("rotate a key");
        assert_eq!(made.version, Some(version + 1), "a rotation makes the next version");
        let again = kms.rotate(&request(), &name, Some(version)).await;
        assert_kind(again, ErrorKind::AlreadyExists, "rotating a version that is not the newest");
        if made.seals_after <= PATIENCE {
            tokio::time::sleep(made.seals_after).await;
        }
    }
    for dek in &sealed {
        let opened = kms.decrypt(&request(), &name, &dek.ciphertext, b"c").await.expect("open a DEK");
        assert!(opened.expose() == dek.plaintext.expose(), "a DEK of each version opens");
        let other = kms.decrypt(&request(), &name, &dek.ciphertext, b"d").await;
        assert_kind(other, ErrorKind::NotAuthentic, "opening a DEK of any version in another context");
        let rewrapped = kms.rewrap(&request(), &name, &dek.ciphertext, b"c").await.expect("rewrap a DEK");
        let opened = kms.decrypt(&request(), &name, &rewrapped, b"c").await.expect("open the rewrapped DEK");
        assert!(opened.expose() == dek.plaintext.expose(), "a rewrapped DEK opens to what it was");
    }
    let after = kms.hmac(&request(), &name, b"message").await.expect("compute an HMAC");
    assert_eq!(after, mac, "a rotation changes no HMAC");
    let info = kms.describe(&request(), &name).await.expect("describe a rotated key");
    let first = kms.versions(&request(), &name).await.expect("list the versions").swap_remove(0);
    assert_eq!(info.fingerprint, first.fingerprint, "a description is that of the first version");

    kms.delete(&request(), &name).await.expect("delete a rotated key");
    if kms.capabilities().keeps_deleted {
        return;
    }
    kms.create(&request(), &name).await.expect("create the key anew");
    let versions = kms.versions(&request(), &name).await.expect("list the versions");
    assert_eq!(versions.len(), 1, "a key made anew has one version");
    for dek in &sealed {
        let opened = kms.decrypt(&request(), &name, &dek.ciphertext, b"c").await;
        assert_kind(opened, ErrorKind::NotAuthentic, "opening a DEK of a deleted key with its successor");
    }
    kms.delete(&request(), &name).await.expect("delete the key");
}
