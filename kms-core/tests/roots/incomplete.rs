//! Stores whose anchor is missing while a root is away.

use std::sync::Arc;

use kms_core::ErrorKind;
use kms_core::roots::{Anchor, Making, Roots, WrappedOneByOne};
use kms_core::store::{KeyStore, Wrapped};

use super::mocks::*;

#[tokio::test]
async fn roots_that_answer_get_their_entries_though_another_is_away() {
    let mocks = [1, 2, 3].map(Elsewhere::new);
    let all = [("one", &mocks[0]), ("two", &mocks[1]), ("three", &mocks[2])];
    let store = memory();
    let cut = Way::to(&store);
    *cut.dies_after.lock().unwrap() = Some((1, false));
    drop(open(&cut, &all).await);
    mocks[2].fail(ErrorKind::Unreachable);
    let way = Way::to(&store);
    let opened = open(&way, &all).await.unwrap();
    put(&*opened.store, "my-key").await;
    // "A store key is made only when all configured roots answer": either it waits, or the second root protects it, too.
    holds(&open(&way, &all[1..2]).await.unwrap().store, &["my-key"]).await;
}

#[tokio::test]
async fn without_an_anchor_a_root_that_is_away_and_may_have_the_key_ends_no_start() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    put(&*open(&way, &all).await.unwrap().store, "my-key").await;
    store.delete(&Anchor::entry()).await.unwrap();
    let other = memory();
    open(&Way::to(&other), &all[..1]).await.unwrap();
    store.overwrite(&id("one").entry(), other.get(&id("one").entry()).await.unwrap().expose());
    two.fail(ErrorKind::Unreachable);
    let opened = open(&way, &all).await.unwrap();
    two.fail(None);
    opened.store.try_again().await.unwrap();
    holds(&opened.store, &["my-key"]).await;
}

#[tokio::test]
async fn salvage_opens_a_store_whose_anchor_is_lost() {
    let (store, one) = (memory(), Elsewhere::new(1));
    let way = Way::to(&store);
    put(&*open(&way, &[("one", &one)]).await.unwrap().store, "my-key").await;
    store.delete(&Anchor::entry()).await.unwrap();
    let wrapper = roots(&way, &[("one", &one)]).peek().await.unwrap();
    assert_same(Wrapped::new(store.clone(), wrapper).get(&entry("my-key")).await, "my-key");
}

#[tokio::test]
async fn an_empty_store_with_a_header_waits_for_all_of_its_roots() {
    use kms_core::primitives::SecretKey;
    use kms_core::roots::StoreKey;
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let key = StoreKey::new(SecretKey::random().unwrap(), [3; 16]);
    let set = vec![root("one", &one).holding(key), root("two", &two)];
    let form = Arc::new(WrappedOneByOne::new(&set));
    let roots = Roots::new(Arc::clone(&way) as Arc<dyn KeyStore>, set, form).unwrap();
    two.fail(ErrorKind::Unreachable);
    let opened = roots.open(Making::OnEmpty).await.unwrap();
    assert!(opened.store.closed() > 0, "nothing tells that a root is away: {:?}", opened.warnings);
    two.fail(None);
    opened.store.keep_trying();
    until(|| opened.store.has_key()).await;
}
