//! A process that dies at each of its writes, which may or may not arrive.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_core::roots::RootState;

use super::mocks::*;

/// Has `act` die after 0, 1, 2… writes until it gets through, and checks each store that it leaves.
async fn cut_everywhere<A, C>(
    prepare: impl AsyncFn() -> Arc<kms_core::store::MemoryStore>,
    act: A,
    check: C,
) -> usize
where
    A: AsyncFn(&Arc<Way>) -> bool,
    C: AsyncFn(&Arc<kms_core::store::MemoryStore>),
{
    for after in 0.. {
        let mut is_through = false;
        for arrives in [false, true] {
            let store = prepare().await;
            let way = Way::to(&store);
            *way.dies_after.lock().unwrap() = Some((after, arrives));
            let succeeded = act(&way).await;
            is_through = way.writes.load(Ordering::SeqCst) <= after;
            assert!(succeeded || !is_through, "it fails without a cut");
            check(&store).await;
        }
        if is_through {
            return after;
        }
    }
    unreachable!()
}

#[tokio::test]
async fn a_first_start_that_dies_anywhere_is_completed_by_the_next() {
    let mocks = [1, 2].map(Elsewhere::new);
    let all = [("one", &mocks[0]), ("two", &mocks[1])];
    let cuts = cut_everywhere(
        async || memory(),
        async |way| open(way, &all).await.is_ok_and(|opened| opened.store.is_open()),
        async |store| {
            let way = Way::to(store);
            let before = anchor(store).await;
            let opened = open(&way, &all).await.unwrap();
            put(&*opened.store, "my-key").await;
            assert!(before.is_none() || before == anchor(store).await);
            assert_eq!(states(&roots(&way, &all)).await, [RootState::Opens; 2]);
            holds(&open(&way, &all[1..]).await.unwrap().store, &["my-key"]).await;
        },
    );
    assert_eq!(cuts.await, 3, "two entries and the anchor");
}

#[tokio::test]
async fn an_adoption_that_dies_anywhere_is_completed_by_the_next() {
    let mocks = [1, 2].map(Elsewhere::new);
    let all = [("one", &mocks[0]), ("two", &mocks[1])];
    let cuts = cut_everywhere(
        async || {
            let store = memory();
            earlier(&store, &mocks[0], &["old"]).await;
            store
        },
        async |way| roots(way, &all).adopt().await.is_ok(),
        async |store| {
            let way = Way::to(store);
            if anchor(store).await.is_none() {
                // The server of before is served as it was, and so is the store meanwhile.
                let opened = open(&way, &all[..1]).await.unwrap();
                holds(&opened.store, &["old"]).await;
                roots(&way, &all).adopt().await.unwrap();
            }
            let opened = open(&way, &all).await.unwrap();
            put(&*opened.store, "new").await;
            holds(&opened.store, &["old", "new"]).await;
            holds(&open(&way, &all[1..]).await.unwrap().store, &["new"]).await;
        },
    );
    assert_eq!(cuts.await, 3);
}

#[tokio::test]
async fn an_addition_that_dies_is_completed_by_the_next() {
    let mocks = [1, 2].map(Elsewhere::new);
    let all = [("one", &mocks[0]), ("two", &mocks[1])];
    let cuts = cut_everywhere(
        async || {
            let store = memory();
            put(&*open(&Way::to(&store), &all[..1]).await.unwrap().store, "my-key").await;
            store
        },
        async |way| roots(way, &all).add(&id("two")).await.is_ok(),
        async |store| {
            let way = Way::to(store);
            holds(&open(&way, &all).await.unwrap().store, &["my-key"]).await;
            roots(&way, &all).add(&id("two")).await.unwrap();
            holds(&open(&way, &all[1..]).await.unwrap().store, &["my-key"]).await;
        },
    );
    assert_eq!(cuts.await, 1);
}
