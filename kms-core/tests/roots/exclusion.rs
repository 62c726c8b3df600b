//! Changes of roots from several places at once, each slow or cut off.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_core::ErrorKind;
use kms_core::roots::{Anchor, Making, RootState};
use kms_core::store::KeyStore as _;

use super::hooked::*;
use super::mocks::*;

#[tokio::test]
async fn an_addition_that_cannot_be_proved_takes_back_no_entry_that_is_needed() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    put(&*open(&way, &all[..1]).await.unwrap().store, "my-key").await;
    let (elsewhere, cut) = (roots(&way, &all), Arc::clone(&two));
    let adding = over(
        Hooked::with(&way, When::AfterCreate, id("two").entry(), async move {
            elsewhere.remove(&id("one")).await.unwrap();
            cut.fail(ErrorKind::Unreachable);
        }),
        &all,
    );
    assert!(adding.add(&id("two")).await.is_err());
    two.fail(None);
    holds(&open(&way, &all).await.unwrap().store, &["my-key"]).await;
}

#[tokio::test]
async fn a_slow_first_start_writes_no_entry_of_a_root_that_was_removed_meanwhile() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    let done = {
        let (way, all) = (Arc::clone(&way), [("one", Arc::clone(&one)), ("two", Arc::clone(&two))]);
        async move {
            let all = [("one", &all[0].1), ("two", &all[1].1)];
            put(&*open(&way, &all).await.unwrap().store, "my-key").await;
            roots(&way, &all).remove(&id("one")).await.unwrap();
        }
    };
    // A first start that is slow: others gave the store its key meanwhile, and removed a root.
    let slow = Hooked::with(&way, When::BeforeGet, Anchor::entry(), done);
    slow.passes.store(1, Ordering::SeqCst);
    over(slow, &all).open(Making::OnEmpty).await.unwrap();
    assert_eq!(
        states(&roots(&way, &all)).await,
        [RootState::NoEntry, RootState::Opens],
        "the removed root opens the store"
    );
}

#[tokio::test]
async fn a_start_that_dies_while_it_writes_an_entry_anew_loses_no_store_key() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let all = [("one", &one), ("two", &two)];
    let way = Way::to(&store);
    put(&*open(&way, &all[..1]).await.unwrap().store, "my-key").await;
    let other = memory();
    open(&Way::to(&other), &all[1..]).await.unwrap();
    let leftover = id("two").entry();
    store.create(&leftover, &other.get(&leftover).await.unwrap()).await.unwrap();
    let done = {
        let (way, one, two) = (Arc::clone(&way), Arc::clone(&one), Arc::clone(&two));
        async move {
            let all = [("one", &one), ("two", &two)];
            // Another server would write the entry anew, and an operator would remove the other root.
            open(&way, &all).await.unwrap();
            let waits = ["'two'", "kms root add two"];
            refused(roots(&way, &all).remove(&id("one")).await, ErrorKind::Conflict, &waits);
        }
    };
    let cut = Way::to(&store);
    // The mark, the deletion; then the network is gone.
    *cut.dies_after.lock().unwrap() = Some((2, false));
    drop(over(Hooked::with(&cut, When::BeforeDelete, leftover, done), &all).open(Making::OnEmpty).await);
    assert_eq!(store.segments(".r/").await.unwrap(), ["one", "removing", "store"]);
    let opened = open(&way, &all).await.unwrap();
    holds(&opened.store, &["my-key"]).await;
    assert!(opened.warnings.iter().any(|told| told.contains("kms root add two")), "{:?}", opened.warnings);
    roots(&way, &all).add(&id("two")).await.unwrap();
    roots(&way, &all).remove(&id("one")).await.unwrap();
    holds(&open(&way, &all[1..]).await.unwrap().store, &["my-key"]).await;
}

#[tokio::test]
async fn a_mark_of_a_removal_that_cannot_be_read_ends_no_start() {
    let mut ended = Vec::new();
    // 'vault kv delete' of the mark; a mark of garbage; a policy that denies it.
    for kind in [ErrorKind::Deleted, ErrorKind::Corrupt] {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let way = Way::to(&store);
        let all = [("one", &one), ("two", &two)];
        put(&*open(&way, &all).await.unwrap().store, "my-key").await;
        *way.denies.lock().unwrap() = Some((".r/removing".into(), kind));
        if open(&way, &all).await.is_err() {
            ended.push(kind);
        }
    }
    assert!(ended.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn a_removal_that_another_took_over_deletes_nothing_that_was_added_since() {
    // It is slow since before its last look at the mark, and then at the entry.
    for (entry, passes) in [(".r/removing", 3), (".r/one", 4)] {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let all = [("one", &one), ("two", &two)];
        let way = Way::to(&store);
        put(&*open(&way, &all).await.unwrap().store, "my-key").await;
        let done = {
            let (way, one, two) = (Arc::clone(&way), Arc::clone(&one), Arc::clone(&two));
            async move {
                let all = [("one", &one), ("two", &two)];
                roots(&way, &all).remove(&id("one")).await.unwrap();
                roots(&way, &all).add(&id("one")).await.unwrap();
                roots(&way, &all).remove(&id("two")).await.unwrap();
            }
        };
        let cut = Way::to(&store);
        // The mark, the deletion; then the network is gone.
        *cut.dies_after.lock().unwrap() = Some((2, false));
        let slow = Hooked::with(&cut, When::BeforeGet, entry, done);
        slow.passes.store(passes, Ordering::SeqCst);
        refused(over(slow, &all).remove(&id("one")).await, ErrorKind::Conflict, &["meanwhile"]);
        assert_eq!(store.segments(".r/").await.unwrap(), ["one", "store"]);
        holds(&open(&way, &all).await.unwrap().store, &["my-key"]).await;
    }
}

#[tokio::test]
async fn of_several_removals_of_one_root_at_once_none_ends_the_mark_of_another() {
    for seed in 1..=200 {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let all = [("one", &one), ("two", &two)];
        let way = Way::to(&store);
        put(&*open(&way, &all).await.unwrap().store, "my-key").await;
        let removals = ["one", "one", "two"].into_iter().enumerate().map(|(n, name)| {
            let roots = roots(&Way::to(&store).with_dice(seed * 7_919 + n as u64 * 104_729), &all);
            tokio::spawn(async move { roots.remove(&id(name)).await.is_ok() })
        });
        for removal in removals.collect::<Vec<_>>() {
            removal.await.unwrap();
        }
        assert!(roots(&way, &all).status().await.unwrap().open() > 0, "round {seed}");
        holds(&open(&way, &all).await.unwrap().store, &["my-key"]).await;
    }
}

#[tokio::test]
async fn an_entry_that_was_destroyed_in_the_backend_is_told_with_its_path() {
    for (destroyed, is_anchored) in [(".r/store", false), (".r/two", true), (".r/removing", true)] {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let all = [("one", &one), ("two", &two)];
        let way = Way::to(&store);
        if is_anchored {
            let configured = if destroyed == ".r/two" { &all[..1] } else { &all };
            open(&way, configured).await.unwrap();
        }
        let roots = over(Hooked { destroyed: Some(destroyed), ..Hooked::new(&way) }, &all);
        let told = match destroyed {
            ".r/store" => roots.open(Making::OnEmpty).await.map(drop),
            ".r/two" => roots.add(&id("two")).await.map(drop),
            _ => roots.remove(&id("two")).await.map(drop),
        };
        // The command is that of the backend.
        let command = format!("'free {destroyed}' frees it");
        refused(told, ErrorKind::Conflict, &[destroyed, &command]);
    }
}
