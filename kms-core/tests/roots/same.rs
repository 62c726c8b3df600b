//! One root under two ids is one root, and protects nothing twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kms_core::primitives::{Cipher, SealingKey, SecretKey};
use kms_core::roots::{LocalRoot, Making, Root, RootState, Roots, WrappedOneByOne};
use kms_core::store::{KeyStore, Wrapper};
use kms_core::{Error, ErrorKind, Result};

use super::mocks::*;

fn local(name: &str, byte: u8) -> Root {
    let key = SealingKey::new(SecretKey::take(&mut [byte; 32]), Cipher::Aes256);
    Root::new(id(name), Arc::new(LocalRoot::new(key)) as Arc<dyn Wrapper>)
}

fn of(way: &Arc<Way>, all: &[Root]) -> Result<Roots> {
    let form = Arc::new(WrappedOneByOne::new(all));
    Roots::new(Arc::clone(way) as Arc<dyn KeyStore>, all.to_vec(), form)
}

#[tokio::test]
async fn two_roots_with_one_key_are_refused_under_whichever_ids() {
    let way = Way::to(&memory());
    let twice = of(&way, &[local("one", 1), local("two", 2), local("again", 1)]);
    refused(twice.map(drop), ErrorKind::InvalidInput, &["'one' and 'again'", "one root"]);
    assert!(of(&way, &[local("one", 1), local("two", 2)]).is_ok());
}

#[tokio::test]
async fn a_root_that_shows_to_be_another_one_when_it_can_be_read_counts_for_nothing() {
    // Its entry is that of the other root, or one of its own.
    for name in ["one", "again"] {
        let store = memory();
        let way = Way::to(&store);
        let opened = of(&way, &[local("one", 1)]).unwrap().open(Making::OnEmpty).await.unwrap();
        put(&*opened.store, "my-key").await;
        if name == "again" {
            // A build that did not compare keys added it.
            let only_by_id = [local("one", 1), masked(name, 1)];
            of(&way, &only_by_id).unwrap().add(&id(name)).await.unwrap();
        }
        let before = everything(&store).await;
        let is_there = Arc::new(AtomicBool::new(false));
        let later = {
            let is_there = Arc::clone(&is_there);
            Root::later(id("unread"), move || {
                let away = || Error::new(ErrorKind::Unreachable, "read the file");
                is_there.load(Ordering::SeqCst).then(|| local(name, 1)).ok_or_else(away)
            })
        };
        let roots = of(&way, &[later, local("one", 1)]).unwrap();
        let opened = roots.clone().open(Making::Explicit).await.unwrap();
        is_there.store(true, Ordering::SeqCst);
        assert_eq!(states(&roots).await, [RootState::Same, RootState::Opens]);
        let status = roots.status().await.unwrap();
        assert_eq!(status.open(), 1);
        assert!(status.roots[0].detail.contains("'one', so they are one root"), "{}", status.roots[0].detail);
        opened.store.try_again().await.unwrap();
        assert_eq!(opened.store.closed(), 1);
        let told = opened.store.status().await.unwrap().degraded.unwrap();
        assert!(told.contains("root 'unread' is 'one' once more"), "{told}");
        refused(roots.remove(&id("one")).await.map(drop), ErrorKind::Conflict, &["never removed"]);
        assert_eq!(everything(&store).await, before);
        holds(&opened.store, &["my-key"]).await;
    }
}

#[tokio::test]
async fn a_removed_root_whose_key_has_another_entry_is_told() {
    let store = memory();
    let way = Way::to(&store);
    let all = [local("one", 1), local("two", 2)];
    of(&way, &all).unwrap().open(Making::OnEmpty).await.unwrap();
    assert!(of(&way, &all).unwrap().other_ids_of(&id("one")).await.is_empty());
    of(&way, &[local("one", 1), masked("again", 1)]).unwrap().add(&id("again")).await.unwrap();
    let roots = of(&way, &all).unwrap();
    assert_eq!(roots.not_configured().await.unwrap(), [id("again")]);
    roots.remove(&id("one")).await.unwrap();
    assert_eq!(roots.other_ids_of(&id("one")).await, [id("again")]);
    roots.remove(&id("again")).await.unwrap();
    assert!(roots.other_ids_of(&id("one")).await.is_empty());
    assert!(roots.not_configured().await.unwrap().is_empty());
    *way.denies_list.lock().unwrap() = true;
    assert!(roots.status().await.unwrap().not_configured.is_err());
}

/// A mock of a root elsewhere, which tells nobody its key.
fn masked(name: &str, byte: u8) -> Root {
    root(name, &Elsewhere::new(byte))
}
