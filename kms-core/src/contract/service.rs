//! The rules for a [`Kms`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fixture::{RACERS, assert_kind, caller, key, request};
use super::versions::{PATIENCE, a_rotated_key_reads_everything};
use crate::deletion::Purge;
use crate::error::{Error, ErrorKind};
use crate::kms::{ImportedKey, Kms};
use crate::listing::ListQuery;
use crate::name::KeyName;
use crate::primitives::{Cipher, SealingKey, SecretKey};

/// Checks a fresh, empty service against every rule of [`Kms`].
///
/// # Panics
///
/// If the service breaks a rule, or if there is no current tokio runtime.
pub async fn kms(kms: Arc<dyn Kms>) {
    keys_come_and_go(kms.as_ref()).await;
    of_many_creators_of_a_key_one_wins(&kms).await;
    data_keys_open_only_where_they_belong(kms.as_ref()).await;
    changed_ciphertexts_do_not_open(kms.as_ref()).await;
    every_size_of_plaintext_comes_back(kms.as_ref()).await;
    a_key_made_anew_is_another(kms.as_ref()).await;
    imports_seal_with_the_bytes_given(kms.as_ref()).await;
    hmac_is_stable_and_apart(kms.as_ref()).await;
    a_rotated_key_reads_everything(kms.as_ref()).await;
    keys_are_listed(kms.as_ref()).await;
    let status = kms.status().await;
    assert!(
        status.as_ref().is_ok_and(|status| status.reachable),
        "a working service is reachable: {status:?}"
    );
}

async fn keys_come_and_go(kms: &dyn Kms) {
    let name = key("contract-key");
    let context = b"context".as_slice();
    assert_kind(kms.describe(&request(), &name).await, ErrorKind::NotFound, "describing an absent key");
    assert_kind(kms.generate(&request(), &name, context).await, ErrorKind::NotFound, "generate, absent key");
    assert_kind(
        kms.encrypt(&request(), &name, b"", context).await,
        ErrorKind::NotFound,
        "encrypt, absent key",
    );
    assert_kind(
        kms.decrypt(&request(), &name, b"x", context).await,
        ErrorKind::NotFound,
        "decrypt, absent key",
    );
    assert_kind(kms.delete(&request(), &name).await, ErrorKind::NotFound, "deleting an absent key");
    is_absent_or_unsupported(kms.restore(&request(), &name, false).await, "restoring an absent key");
    is_absent_or_unsupported(kms.purge(&request(), &name, &Purge::default()).await, "purging an absent key");

    kms.create(&request(), &name).await.expect("create a key");
    assert_kind(kms.create(&request(), &name).await, ErrorKind::AlreadyExists, "creating a key twice");
    let info = kms.describe(&request(), &name).await.expect("describe a key");
    assert_eq!(info.name, name, "a description names the key");
    assert_eq!(info.created_by, caller().to_string(), "a key tells who created it");
    assert!(info.created_at.is_some(), "a key tells when it was created");

    let dek = kms.generate(&request(), &name, context).await.expect("generate a DEK");
    let deletion = kms.delete(&request(), &name).await.expect("delete a key");
    let keeps = kms.capabilities().keeps_deleted;
    assert_eq!(deletion.is_restorable, keeps, "a delete tells whether it can be undone");
    let gone = kind_of_deleted(kms);
    assert_kind(kms.describe(&request(), &name).await, gone, "describing a deleted key");
    assert_kind(kms.generate(&request(), &name, context).await, gone, "generate, deleted key");
    assert_kind(kms.encrypt(&request(), &name, b"", context).await, gone, "encrypt, deleted key");
    let opened = kms.decrypt(&request(), &name, &dek.ciphertext, context).await;
    assert_kind(opened, gone, "decrypt, deleted key");
    assert_kind(kms.hmac(&request(), &name, b"").await, gone, "hmac, deleted key");
    assert_kind(kms.delete(&request(), &name).await, gone, "deleting a key twice");
    let query = ListQuery::prefix(name.as_str());
    let page = kms.list(&request(), &query).await.expect("list keys");
    let is_listed = page.names.contains(&name);
    if keeps {
        match kms.deleted(&request(), &query).await {
            Ok(page) => {
                // A backend that keeps deleted keys in its own way need not list them.
                let found = page.keys.iter().any(|key| key.name == name && key.is_restorable);
                assert!(!found || !is_listed, "a key is listed as deleted, or with the others: {page:?}");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "listing deleted keys: {error:?}"),
        }
        let again = kms.create(&request(), &name).await;
        assert_kind(again, ErrorKind::AlreadyExists, "creating a deleted key that keeps its name");
        kms.restore(&request(), &name, false).await.expect("restore a deleted key");
        let opened = kms.decrypt(&request(), &name, &dek.ciphertext, context).await;
        let opened = opened.expect("open with a restored key what it sealed before");
        assert!(opened.expose() == dek.plaintext.expose(), "a restored key is the same");
        let page = kms.list(&request(), &query).await.expect("list keys");
        assert!(page.names.contains(&name), "a restored key is listed");
        let again = kms.restore(&request(), &name, false).await;
        assert_kind(again, ErrorKind::Conflict, "restoring a key that is not deleted");
        let purged = kms.purge(&request(), &name, &Purge { now: true, ..Purge::default() }).await;
        match purged {
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unsupported),
                "purging a key that is not deleted: {error:?}"
            ),
            Ok(purged) => panic!("a key that is not deleted was purged: {purged:?}"),
        }
        kms.delete(&request(), &name).await.expect("delete a restored key");
        a_purged_key_leaves_its_name(kms, &name).await;
    } else {
        assert!(!is_listed, "a deleted key is not listed");
        kms.create(&request(), &name).await.expect("create a key anew after it was deleted");
        kms.delete(&request(), &name).await.expect("delete the key made anew");
    }
}

async fn of_many_creators_of_a_key_one_wins(kms: &Arc<dyn Kms>) {
    let name = key("contract-key-race");
    let racers: Vec<_> = (0..RACERS)
        .map(|_| {
            let (kms, name) = (Arc::clone(kms), name.clone());
            tokio::spawn(async move {
                kms.create(&request(), &name).await?;
                kms.generate(&request(), &name, b"").await
            })
        })
        .collect();
    let mut winners = Vec::new();
    for racer in racers {
        match racer.await.expect("a create does not panic") {
            Ok(dek) => winners.push(dek),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "a lost race: {error:?}"),
        }
    }
    assert_eq!(winners.len(), 1, "of {RACERS} creators at once exactly one wins");
    let opened =
        kms.decrypt(&request(), &name, &winners[0].ciphertext, b"").await.expect("the winner's DEK opens");
    assert!(opened.expose() == winners[0].plaintext.expose(), "the winner's DEK opens to what it was");
    kms.delete(&request(), &name).await.expect("delete the key");
}

async fn data_keys_open_only_where_they_belong(kms: &dyn Kms) {
    let (name, other) = (key("contract-dek"), key("contract-dek-other"));
    kms.create(&request(), &name).await.expect("create a key");
    kms.create(&request(), &other).await.expect("create another key");
    let dek = kms.generate(&request(), &name, b"bucket/object").await.expect("generate a DEK");
    let again = kms.generate(&request(), &name, b"bucket/object").await.expect("generate another DEK");
    assert!(dek.plaintext != again.plaintext, "each DEK is a fresh one");
    assert!(dek.ciphertext != again.ciphertext, "each ciphertext is a fresh one");

    let open = async |name, context| kms.decrypt(&request(), name, &dek.ciphertext, context).await;
    let opened = open(&name, b"bucket/object").await.expect("open a DEK");
    assert!(opened.expose() == dek.plaintext.expose(), "a DEK opens to what it was");
    for context in [b"".as_slice(), b"bucket/objec", b"bucket/object ", b"bucket/other"] {
        assert_kind(open(&name, context).await, ErrorKind::NotAuthentic, "opening a DEK in another context");
    }
    assert_kind(
        open(&other, b"bucket/object").await,
        ErrorKind::NotAuthentic,
        "opening a DEK with another key",
    );
    for name in [&name, &other] {
        kms.delete(&request(), name).await.expect("delete the key");
    }
}

async fn changed_ciphertexts_do_not_open(kms: &dyn Kms) {
    let name = key("contract-tamper");
    kms.create(&request(), &name).await.expect("create a key");
    let dek = kms.generate(&request(), &name, b"c").await.expect("generate a DEK");
    let open = async |ciphertext: &[u8]| kms.decrypt(&request(), &name, ciphertext, b"c").await;
    // Only a few places: a service may limit how often it looks for the reason why a ciphertext does not open.
    let len = dek.ciphertext.len();
    for place in [0, 1, len / 2, len - 29, len - 13, len - 1] {
        let mut changed = dek.ciphertext.clone();
        changed[place] ^= 0x01;
        assert_kind(
            open(&changed).await,
            ErrorKind::NotAuthentic,
            "opening a ciphertext with a changed byte",
        );
    }
    for length in [0, 1, 27, 28, 44, len - 1] {
        assert_kind(
            open(&dek.ciphertext[..length]).await,
            ErrorKind::NotAuthentic,
            "opening a cut ciphertext",
        );
    }
    let longer = [dek.ciphertext.as_slice(), b"x"].concat();
    assert_kind(open(&longer).await, ErrorKind::NotAuthentic, "opening a ciphertext with a byte more");
    kms.delete(&request(), &name).await.expect("delete the key");
}

async fn every_size_of_plaintext_comes_back(kms: &dyn Kms) {
    let name = key("contract-sizes");
    kms.create(&request(), &name).await.expect("create a key");
    for size in [0, 1, 15, 16, 17, 32, 4096, 4097, 700_000] {
        let plaintext: Vec<u8> = (0_u8..=250).cycle().take(size).collect();
        let sealed = kms.encrypt(&request(), &name, &plaintext, b"c").await.expect("encrypt");
        let opened = kms.decrypt(&request(), &name, &sealed, b"c").await.expect("decrypt");
        assert!(opened.expose() == plaintext, "a plaintext of {size} bytes comes back");
    }
    kms.delete(&request(), &name).await.expect("delete the key");
}

async fn a_key_made_anew_is_another(kms: &dyn Kms) {
    if kms.capabilities().keeps_deleted {
        // Such a service makes no new key of the name as long as ciphertexts of the old one could open.
        return;
    }
    let name = key("contract-anew");
    kms.create(&request(), &name).await.expect("create a key");
    let dek = kms.generate(&request(), &name, b"").await.expect("generate a DEK");
    kms.delete(&request(), &name).await.expect("delete the key");
    kms.create(&request(), &name).await.expect("create the key anew");
    let opened = kms.decrypt(&request(), &name, &dek.ciphertext, b"").await;
    assert_kind(opened, ErrorKind::NotAuthentic, "opening a DEK of a deleted key with its successor");
    kms.delete(&request(), &name).await.expect("delete the key");
}

async fn imports_seal_with_the_bytes_given(kms: &dyn Kms) {
    let bytes = [7; 32];
    for cipher in [Cipher::Aes256, Cipher::ChaCha20] {
        let name = key(&format!("contract-import-{cipher:?}"));
        let imported = || ImportedKey { key: SecretKey::take(&mut bytes.clone()), cipher };
        let outcome = kms.import(&request(), &name, imported()).await;
        if !kms.capabilities().import {
            assert_kind(outcome, ErrorKind::Unsupported, "importing where that cannot be done");
            continue;
        }
        outcome.expect("import a key");
        let again = kms.import(&request(), &name, imported()).await;
        assert_kind(again, ErrorKind::AlreadyExists, "importing over a key");
        let sealed = SealingKey::new(imported().key, cipher).seal(b"elsewhere", b"c").expect("seal");
        let opened =
            kms.decrypt(&request(), &name, &sealed, b"c").await.expect("open what was sealed elsewhere");
        assert!(opened.expose() == b"elsewhere", "an imported key opens what its bytes sealed elsewhere");
        let info = kms.describe(&request(), &name).await.expect("describe an imported key");
        assert_eq!(info.cipher, cipher, "an imported key has the cipher given");
        kms.delete(&request(), &name).await.expect("delete the key");
    }
}

async fn hmac_is_stable_and_apart(kms: &dyn Kms) {
    let (name, other) = (key("contract-hmac"), key("contract-hmac-other"));
    kms.create(&request(), &name).await.expect("create a key");
    kms.create(&request(), &other).await.expect("create another key");
    let mac = async |name, message: &'static [u8]| {
        kms.hmac(&request(), name, message).await.expect("compute an HMAC")
    };
    assert_eq!(mac(&name, b"message").await, mac(&name, b"message").await, "an HMAC is stable");
    assert_ne!(mac(&name, b"message").await, mac(&name, b"").await, "an HMAC depends on the message");
    assert_ne!(mac(&name, b"message").await, mac(&other, b"message").await, "an HMAC depends on the key");
    for name in [&name, &other] {
        kms.delete(&request(), name).await.expect("delete the key");
    }
}

async fn keys_are_listed(kms: &dyn Kms) {
    let list = async |prefix: &'static str, limit| {
        let query = ListQuery { prefix, after: None, limit };
        let page = kms.list(&request(), &query).await.expect("list keys");
        (page.names.iter().map(ToString::to_string).collect::<Vec<_>>(), page.more)
    };
    let (mut all, _) = list("", ListQuery::MAX_LIMIT).await;
    assert!(all.is_empty() || kms.capabilities().keeps_deleted, "deleted keys are not listed: {all:?}");
    let names = ["contract-list-a", "contract-list-b", "other"];
    for name in names {
        kms.create(&request(), &key(name)).await.expect("create a key");
    }
    all.extend(names.map(str::to_owned));
    all.sort_unstable();
    assert_eq!(list("", ListQuery::MAX_LIMIT).await, (all, false), "all keys are listed");
    assert_eq!(
        list("contract-list-", 10).await,
        (names[..2].iter().map(ToString::to_string).collect(), false),
        "by prefix"
    );
    assert_eq!(
        list("contract-list-", 1).await,
        (vec![names[0].to_owned()], true),
        "a page tells that there is more"
    );
    for name in names {
        kms.delete(&request(), &key(name)).await.expect("delete a key");
    }
}

/// Purges a deleted key, if the service does that and other servers use the key no longer than the suite waits.
async fn a_purged_key_leaves_its_name(kms: &dyn Kms, name: &KeyName) {
    let began = Instant::now();
    loop {
        match kms.purge(&request(), name, &Purge { now: true, ..Purge::default() }).await {
            Ok(purged) => {
                assert_eq!(purged.versions, 1, "a purge tells how many versions there were");
                break;
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => return,
            Err(error) if error.kind() == ErrorKind::Conflict && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) if error.kind() == ErrorKind::Conflict => return,
            Err(error) => panic!("purging a deleted key: {error:?}"),
        }
    }
    assert_kind(kms.describe(&request(), name).await, ErrorKind::NotFound, "describing a purged key");
    assert_kind(kms.restore(&request(), name, false).await, ErrorKind::NotFound, "restoring a purged key");
    kms.create(&request(), name).await.expect("create a key anew after it was purged");
    kms.delete(&request(), name).await.expect("delete the key made anew");
}

/// Asserts that an operation fails because of an absent key, or because there is no such operation.
#[track_caller]
fn is_absent_or_unsupported<T>(outcome: Result<T, Error>, what: &str) {
    match outcome {
        Ok(_) => panic!("{what} succeeded, but has to fail"),
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported),
            "{what} has to fail as absent or unsupported: {error:?}"
        ),
    }
}

/// Returns the kind with which uses of a deleted key fail.
fn kind_of_deleted(kms: &dyn Kms) -> ErrorKind {
    if kms.capabilities().keeps_deleted { ErrorKind::Deleted } else { ErrorKind::NotFound }
}
