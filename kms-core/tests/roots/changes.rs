//! Adding roots.

use kms_core::ErrorKind;
use kms_core::roots::{Added, RootState};
use kms_core::store::KeyStore;

use super::mocks::*;

#[tokio::test]
async fn only_an_addition_writes_the_entry_of_a_root_that_has_none() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    put(&*open(&way, &all[..1]).await.unwrap().store, "my-key").await;
    for _ in 0..3 {
        let opened = open(&way, &all).await.unwrap();
        assert_eq!(opened.store.closed(), 1);
    }
    assert_eq!(states(&roots(&way, &all)).await, [RootState::Opens, RootState::NoEntry]);
    assert_eq!(roots(&way, &all).add(&id("two")).await.unwrap(), Added::New);
    assert_eq!(roots(&way, &all).add(&id("two")).await.unwrap(), Added::Already);
    holds(&open(&way, &all[1..]).await.unwrap().store, &["my-key"]).await;
}

#[tokio::test]
async fn what_cannot_be_added_is_told_and_changes_nothing() {
    let (store, one, two, wrong) = (memory(), Elsewhere::new(1), Elsewhere::new(2), Elsewhere::new(9));
    let way = Way::to(&store);
    refused(roots(&way, &[("two", &two)]).add(&id("two")).await, ErrorKind::Conflict, &["kms root init"]);
    let all = [("one", &one), ("two", &two)];
    open(&way, &all).await.unwrap();
    let before = everything(&store).await;
    let with_wrong = [("one", &one), ("two", &wrong)];
    refused(roots(&way, &with_wrong).add(&id("two")).await, ErrorKind::Conflict, &["another root", "'id'"]);
    refused(roots(&way, &all).add(&id("three")).await, ErrorKind::InvalidInput, &["one, two"]);
    refused(roots(&way, &[("new", &wrong)]).add(&id("new")).await, ErrorKind::Conflict, &["no root opens"]);
    let with_new = [("one", &one), ("new", &wrong)];
    wrong.fail(ErrorKind::Unreachable);
    refused(roots(&way, &with_new).add(&id("new")).await, ErrorKind::Unreachable, &[]);
    assert_eq!(everything(&store).await, before);
}

#[tokio::test]
async fn the_store_key_in_a_leftover_entry_is_replaced_by_an_addition() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    // Its server was refused: the store had another key by then.
    let other = memory();
    open(&Way::to(&other), &[("two", &two)]).await.unwrap();
    let way = Way::to(&store);
    open(&way, &[("one", &one)]).await.unwrap();
    let leftover = other.get(&id("two").entry()).await.unwrap();
    store.create(&id("two").entry(), &leftover).await.unwrap();
    refused(open(&way, &[("two", &two)]).await, ErrorKind::Corrupt, &["holds another store key"]);
    let all = roots(&way, &[("one", &one), ("two", &two)]);
    assert_eq!(all.add(&id("two")).await.unwrap(), Added::New);
    assert_eq!(states(&all).await, [RootState::Opens; 2]);
}
