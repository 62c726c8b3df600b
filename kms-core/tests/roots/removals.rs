//! Removing roots.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::roots::{RootState, Roots, WrappedOneByOne};
use kms_core::store::{EntryName, KeyStore, StoreCapabilities};
use kms_core::{ErrorKind, ListQuery, Page, Result, StoreStatus};

use super::mocks::*;

#[tokio::test]
async fn each_root_can_be_removed_and_never_the_last() {
    for (gone, stays) in [(0, 1), (1, 0)] {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let way = Way::to(&store);
        let all = [("one", &one), ("two", &two)];
        put(&*open(&way, &all).await.unwrap().store, "my-key").await;
        roots(&way, &all).remove(&id(all[gone].0)).await.unwrap();
        let mut left = [all[stays].0, "store"];
        left.sort_unstable();
        assert_eq!(store.segments(".r/").await.unwrap(), left);
        refused(
            roots(&way, &all).remove(&id(all[stays].0)).await,
            ErrorKind::Conflict,
            &["last one is never removed"],
        );
        let before = everything(&store).await;
        for absent in [all[gone].0, "never"] {
            assert!(roots(&way, &all).remove(&id(absent)).await.unwrap().is_past(), "{absent}");
            assert_eq!(everything(&store).await, before);
        }
        let lone = [all[gone]];
        refused(roots(&way, &lone).remove(&id("never")).await, ErrorKind::InvalidInput, &["no root 'never'"]);
        holds(&open(&way, &all).await.unwrap().store, &["my-key"]).await;
        refused(open(&way, &all[gone..=gone]).await, ErrorKind::Corrupt, &["no root opens it"]);
        roots(&way, &all).add(&id(all[gone].0)).await.unwrap();
        holds(&open(&way, &all[gone..=gone]).await.unwrap().store, &["my-key"]).await;
    }
}

#[tokio::test]
async fn a_root_is_not_removed_while_no_other_opens() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    open(&way, &all).await.unwrap();
    let before = everything(&store).await;
    for kind in [ErrorKind::Unreachable, ErrorKind::Denied] {
        two.fail(kind);
        refused(roots(&way, &all).remove(&id("one")).await, ErrorKind::Conflict, &["'two'", "never removed"]);
    }
    // The root that is lost for good can go, with another one open.
    roots(&way, &all).remove(&id("two")).await.unwrap();
    assert_eq!(everything(&store).await.len(), before.len() - 1);
}

#[tokio::test]
async fn a_root_is_not_removed_while_a_record_opens_with_it_only() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    earlier(&store, &one, &["old"]).await;
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    refused(roots(&way, &all).remove(&id("two")).await, ErrorKind::Conflict, &["no store key"]);
    roots(&way, &all).adopt().await.unwrap();
    let before = everything(&store).await;
    refused(
        roots(&way, &all).remove(&id("one")).await,
        ErrorKind::Conflict,
        &["'old'", "kms migrate", "one by one"],
    );
    *way.denies_list.lock().unwrap() = true;
    refused(roots(&way, &all).remove(&id("two")).await, ErrorKind::Conflict, &["not known", "kms migrate"]);
    *way.denies_list.lock().unwrap() = false;
    assert_eq!(everything(&store).await, before);
    roots(&way, &all).remove(&id("two")).await.unwrap();
    holds(&open(&way, &all[..1]).await.unwrap().store, &["old"]).await;
}

#[tokio::test]
async fn a_removal_that_was_cut_off_is_completed_by_the_same_command_and_others_wait() {
    // The writes of a removal: the mark, the entry, the mark.
    for after in 0..3 {
        for arrives in [false, true] {
            let names = ["one", "two", "three"];
            let mocks = [1, 2, 3].map(Elsewhere::new);
            let all: Vec<_> = names.into_iter().zip(&mocks).collect();
            let store = memory();
            let way = Way::to(&store);
            put(&*open(&way, &all).await.unwrap().store, "my-key").await;
            let cut = Way::to(&store);
            *cut.dies_after.lock().unwrap() = Some((after, arrives));
            assert!(roots(&cut, &all).remove(&id("one")).await.is_err());
            assert!(cut.writes.load(Ordering::SeqCst) > after);
            holds(&open(&way, &all).await.unwrap().store, &["my-key"]).await;
            let removing = roots(&way, &all).status().await.unwrap().removing;
            let is_marked = removing.is_some();
            if is_marked {
                let told = open(&way, &all).await.unwrap().warnings;
                assert!(told.iter().any(|told| told.contains("'kms root remove one' completes it")));
                let waits = ["'one'", "completes it"];
                refused(roots(&way, &all).remove(&id("two")).await, ErrorKind::Conflict, &waits);
                refused(roots(&way, &all).add(&id("two")).await, ErrorKind::Conflict, &waits);
            }
            // Whoever was cut off after the last step does not know it, and repeats the command, too.
            let was_there = is_marked || store.segments(".r/").await.unwrap().len() == 4;
            let removal = roots(&way, &all).remove(&id("one")).await.unwrap();
            assert_eq!(removal.is_past(), !was_there);
            assert_eq!(store.segments(".r/").await.unwrap(), ["store", "three", "two"]);
            roots(&way, &all).remove(&id("two")).await.unwrap();
            holds(&open(&way, &all).await.unwrap().store, &["my-key"]).await;
        }
    }
}

#[tokio::test]
async fn of_two_removals_at_once_a_root_is_left() {
    let (mut both_refused, mut one_removed) = (0, 0);
    for seed in 1..=500 {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let all = [("one", &one), ("two", &two)];
        let way = Way::to(&store);
        put(&*open(&way, &all).await.unwrap().store, "my-key").await;
        let removals = ["one", "two"].map(|name| {
            let way =
                Way::to(&store).with_dice(seed * 7_919 + name.len() as u64 * 31 + u64::from(name == "two"));
            let roots = roots(&way, &all);
            tokio::spawn(async move { roots.remove(&id(name)).await })
        });
        let mut removed = 0;
        for removal in removals {
            removed += usize::from(removal.await.unwrap().is_ok());
        }
        match removed {
            0 => both_refused += 1,
            1 => one_removed += 1,
            _ => panic!("both were removed in round {seed}"),
        }
        let opened = open(&way, &all).await.unwrap();
        holds(&opened.store, &["my-key"]).await;
        let status = roots(&way, &all).status().await.unwrap();
        assert_eq!((status.open(), status.removing), (2 - removed, None), "round {seed}");
    }
    assert!(one_removed > 400, "{one_removed} of 500, and {both_refused} rounds in which both were refused");
}

/// A mock of a way on which somebody deletes the entry `two` at the moment at which `one` goes.
struct Meanwhile(Arc<Way>);

#[async_trait]
impl KeyStore for Meanwhile {
    fn capabilities(&self) -> StoreCapabilities {
        self.0.capabilities()
    }
    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.0.create(name, record).await
    }
    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.0.get(name).await
    }
    async fn delete(&self, name: &EntryName) -> Result<()> {
        if *name == id("one").entry() {
            self.0.store.delete(&id("two").entry()).await?;
        }
        self.0.delete(name).await
    }
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.0.list(query).await
    }
    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.0.segments(directory).await
    }
    async fn status(&self) -> Result<StoreStatus> {
        self.0.status().await
    }
}

#[tokio::test]
async fn a_root_removed_while_the_other_went_away_is_written_back() {
    let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
    let way = Way::to(&store);
    let all = [("one", &one), ("two", &two)];
    put(&*open(&way, &all).await.unwrap().store, "my-key").await;
    let before = everything(&store).await;
    let set: Vec<_> = all.iter().map(|(id, wrapper)| root(id, wrapper)).collect();
    let form = Arc::new(WrappedOneByOne::new(&set));
    let meanwhile = Roots::new(Arc::new(Meanwhile(Arc::clone(&way))), set, form).unwrap();
    refused(meanwhile.remove(&id("one")).await, ErrorKind::Conflict, &["written back"]);
    let after = everything(&store).await;
    assert_eq!(after.get(".r/one"), before.get(".r/one"));
    assert_eq!(states(&roots(&way, &all)).await, [RootState::Opens, RootState::NoEntry]);
    holds(&open(&way, &all).await.unwrap().store, &["my-key"]).await;
}
