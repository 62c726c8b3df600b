//! Servers that start on one store at once.

use std::collections::BTreeSet;

use kms_core::store::KeyStore as _;

use super::mocks::*;

/// Starts servers at once on an empty store, each with its roots in another order, and returns whether one adopted the
/// key of another.
async fn start_at_once(round: u64, servers: u64) -> bool {
    let store = memory();
    let mocks = [1, 2].map(Elsewhere::new);
    let started = (0..servers).map(|server| {
        let way = Way::to(&store).with_dice(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (server + 1) << 20);
        let mocks = mocks.clone();
        tokio::spawn(async move {
            let mut all = [("one", &mocks[0]), ("two", &mocks[1])];
            if server % 2 == 1 {
                all.reverse();
            }
            let opened =
                open(&way, &all).await.unwrap_or_else(|error| panic!("{round}, {server}: {error:?}"));
            let name = format!("key-of-{server}");
            put(&*opened.store, &name).await;
            (opened, name)
        })
    });
    let mut opened = Vec::new();
    for server in started.collect::<Vec<_>>() {
        opened.push(server.await.unwrap());
    }
    let anchored = anchor(&store).await.unwrap();
    for (server, _) in &opened {
        for (_, name) in &opened {
            assert_same(server.store.get(&entry(name)).await, name);
        }
    }
    // Each root alone opens the one store key, at the next start.
    for (name, mock) in ["one", "two"].into_iter().zip(&mocks) {
        let alone = open(&Way::to(&store), &[(name, mock)]).await;
        let alone = alone.unwrap_or_else(|error| panic!("{round}: {error:?}"));
        for (_, name) in &opened {
            assert_same(alone.store.get(&entry(name)).await, name);
        }
    }
    assert_eq!(anchor(&store).await, Some(anchored));
    opened.iter().any(|(server, _)| !server.warnings.is_empty())
}

#[tokio::test]
async fn a_thousand_starts_of_two_servers_end_with_one_store_key_each() {
    let mut adopted = 0;
    for round in 0..1_000 {
        adopted += usize::from(start_at_once(round, 2).await);
    }
    assert!(adopted > 10, "only in {adopted} of 1,000 rounds a server adopted the key of the other");
}

#[tokio::test]
async fn five_servers_end_with_one_store_key() {
    for round in 0..200 {
        start_at_once(round, 5).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_on_threads_of_their_own_end_with_one_store_key() {
    let mut rounds = BTreeSet::new();
    for round in 0..200 {
        start_at_once(round, 3).await;
        rounds.insert(round);
    }
    assert_eq!(rounds.len(), 200);
}

#[tokio::test]
async fn additions_at_once_make_one_entry() {
    for round in 0..200 {
        let (store, one, two) = (memory(), Elsewhere::new(1), Elsewhere::new(2));
        let all = [("one", &one), ("two", &two)];
        open(&Way::to(&store), &all[..1]).await.unwrap();
        let additions = [0, 1].map(|n| {
            let roots = roots(&Way::to(&store).with_dice(round * 2 + n + 77), &all);
            tokio::spawn(async move { roots.add(&id("two")).await })
        });
        for addition in additions {
            addition.await.unwrap().unwrap_or_else(|error| panic!("{round}: {error:?}"));
        }
        assert!(open(&Way::to(&store), &all[1..]).await.unwrap().store.has_key());
    }
}
