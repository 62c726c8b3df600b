//! Changes are heard at once, and a connection that listens is never silently dead.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use kms_core::store::{Change, Changes, EntryName, KeyStore};
use kms_postgres::{Host, PostgresConfig};
use kms_tests::cable::{Cable, State};
use kms_tests::postgres::{Postgres, config};

use super::common::{bytes, entry, fingerprint, key, open, record};

#[tokio::test(flavor = "multi_thread")]
async fn removals_and_marks_are_heard_at_once_and_creates_are_not() {
    let server = Postgres::start().await;
    let (one, other) = (open(server.config()), open(server.config()));
    let mut changes = other.changes().unwrap();
    assert_eq!(next(&mut changes, 5000).await, Some(Change::Missed), "what came before is unknown");
    let (name, second) = (entry("key"), EntryName::version(&key("key"), &fingerprint(), 2));
    one.create(&name, &record()).await.unwrap();
    one.create(&second, &record()).await.unwrap();
    let gone = EntryName::gone(&key("key"), &fingerprint());
    assert_eq!(next(&mut changes, 300).await, None, "creates are not told");
    let heard = async |changes: &mut Changes, what: &str| {
        let began = Instant::now();
        assert_eq!(next(changes, 1000).await, Some(Change::Key(key("key"))), "{what}");
        assert!(began.elapsed() < Duration::from_millis(500), "{what} took {:?}", began.elapsed());
    };
    for marker in [
        EntryName::deleted(&key("key"), &fingerprint()),
        EntryName::disabled(&key("key"), &fingerprint(), 1),
        EntryName::under_way(&key("key"), &fingerprint()),
    ] {
        one.create(&marker, &bytes("marker")).await.unwrap();
        heard(&mut changes, "a marker").await;
        one.delete(&marker).await.unwrap();
        heard(&mut changes, "the end of a marker").await;
    }
    one.delete(&second).await.unwrap();
    assert_eq!(next(&mut changes, 300).await, None, "a slot of a purge is not told");
    one.remove(&name, &gone, &bytes("note")).await.unwrap();
    heard(&mut changes, "a removal").await;
    one.bring_back(&name, &record(), &gone).await.unwrap();
    assert_eq!(next(&mut changes, 300).await, None);
    one.delete(&name).await.unwrap();
    heard(&mut changes, "a deletion").await;
    // A refused write tells nobody.
    assert!(one.delete(&name).await.is_err());
    assert_eq!(next(&mut changes, 300).await, None);
    // Whoever may log in may notify. Nothing but a name of a key means anything.
    server.sql("SELECT pg_notify('kms:kms.kms_keys', '../../etc/passwd'), pg_notify('other', 'key')");
    assert_eq!(next(&mut changes, 300).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_connection_everything_may_have_changed() {
    let server = Postgres::start().await;
    let cable = Cable::to(server.port()).await;
    let direct = open(server.config());
    let config =
        PostgresConfig { listen_hosts: vec![Host::new("127.0.0.1", cable.port())], ..server.config() };
    let store = open(config);
    let mut changes = store.changes().unwrap();
    assert_eq!(next(&mut changes, 5000).await, Some(Change::Missed));
    server.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    assert_eq!(next(&mut changes, 5000).await, Some(Change::Missed), "a session that was terminated");

    // Half open: nobody says that the connection ended. The store asks every 10 s, and waits 5 s for the answer.
    cable.set(State::Dropping);
    direct.create(&entry("key"), &record()).await.unwrap();
    direct.delete(&entry("key")).await.unwrap();
    assert_eq!(next(&mut changes, 2000).await, None);
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert!(
        store.status().await.unwrap().degraded.is_some_and(|why| why.contains("listens")),
        "the status tells"
    );
    cable.set(State::Whole);
    assert_eq!(next(&mut changes, 15_000).await, Some(Change::Missed), "a half-open connection");
    direct.create(&entry("key"), &record()).await.unwrap();
    direct.delete(&entry("key")).await.unwrap();
    assert_eq!(next(&mut changes, 2000).await, Some(Change::Key(key("key"))));
    assert_eq!(store.status().await.unwrap().degraded, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_listens_follows_the_primary() {
    let mut server = Postgres::start().await;
    let standby = server.standby("spare").await;
    let both = config(&[server.port(), standby.port()]);
    let store = open(both.clone());
    let mut changes = store.changes().unwrap();
    assert_eq!(next(&mut changes, 5000).await, Some(Change::Missed));
    server.kill();
    standby.promote();
    assert_eq!(next(&mut changes, 15_000).await, Some(Change::Missed));
    let other: Arc<dyn KeyStore> = open(both);
    other.create(&entry("key"), &record()).await.unwrap();
    other.delete(&entry("key")).await.unwrap();
    assert_eq!(next(&mut changes, 2000).await, Some(Change::Key(key("key"))));
}

/// The sessions of a server that becomes read-only stay, and nobody notifies there any more.
#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_listens_leaves_a_server_that_takes_no_writes() {
    let server = Postgres::start().await;
    let store = open(server.config());
    let mut changes = store.changes().unwrap();
    assert_eq!(next(&mut changes, 5000).await, Some(Change::Missed));
    server.set("default_transaction_read_only", "on");
    // It asks each 10 s.
    tokio::time::sleep(Duration::from_secs(11)).await;
    server.set("default_transaction_read_only", "off");
    assert_eq!(next(&mut changes, 15_000).await, Some(Change::Missed));
}

/// Returns the next change; `None` if none comes in time.
async fn next(changes: &mut Changes, millis: u64) -> Option<Change> {
    let one = std::future::poll_fn(|cx| match changes.as_mut().poll_next(cx) {
        Poll::Ready(change) => Poll::Ready(change.expect("the stream goes on")),
        Poll::Pending => Poll::Pending,
    });
    tokio::time::timeout(Duration::from_millis(millis), one).await.ok()
}
