//! Writes that the server does not vouch for, and rows that a standby does not have.

use std::sync::Arc;
use std::time::Duration;

use kms_core::ErrorKind;
use kms_core::store::{EntryName, KeyStore, Notes};
use kms_postgres::PostgresConfig;
use kms_tests::cable::{Cable, State};
use kms_tests::postgres::{Postgres, config};
use kms_tests::programs::until;

use super::common::{bytes, entry, fingerprint, key, kind, open, record, told};

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
const CANCEL: &str =
    "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// The server says COMMIT, and warns that no standby has the row. A plain read finds it then.
#[tokio::test(flavor = "multi_thread")]
async fn a_warning_is_no_acknowledgement_until_a_standby_is_back() {
    let server = Postgres::start().await;
    // The role would hide the warning, and would not wait for anybody.
    server.sql(
        "ALTER ROLE kms SET client_min_messages = 'error'; ALTER ROLE kms SET synchronous_commit = 'off'; \
                ALTER ROLE kms SET statement_timeout = '1s'",
    );
    server.set("synchronous_standby_names", "spare");
    let store = open(PostgresConfig { write_timeout: Duration::from_secs(3), ..server.config() });
    let create = tokio::spawn({
        let store = store.clone();
        async move { store.create(&entry("key"), &record()).await }
    });
    until("the create waits for the standby", async || server.sql(WAITING) == "1").await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(server.sql(WAITING), "1", "no timeout of the role ends it");
    server.sql(CANCEL);
    until("the row is visible", async || {
        server.sql("SELECT count(*) FROM kms.kms_keys WHERE name = 'key'") == "1"
    })
    .await;
    let (kind_of_create, text) = told(create.await.unwrap());
    assert_eq!(kind_of_create, ErrorKind::Timeout, "{text}");
    assert!(text.contains("nobody knows yet"), "{text}");

    // Whoever reads it back must not take the visible row for a kept one.
    let quick = tokio::time::timeout(Duration::from_secs(2), store.get(&entry("key"))).await;
    assert!(!matches!(quick, Ok(Ok(_))), "a row that no standby has is not vouched for");
    let standby = server.standby("spare").await;
    let read = async || store.get(&entry("key")).await.is_ok_and(|found| found == record());
    until("the row is vouched for", read).await;
    assert_eq!(standby.sql("SELECT count(*) FROM kms.kms_keys WHERE name = 'key'"), "1");
    store.create(&entry("second"), &record()).await.unwrap();
}

/// The server says COMMIT, and warns that no standby heard of the deletion: a promotion would bring the row back.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_acknowledged_when_the_server_vouches_for_it() {
    let server = Postgres::start().await;
    let store = open(PostgresConfig { timeout: Duration::from_secs(1), ..server.config() });
    store.create(&entry("key"), &record()).await.unwrap();
    no_standby(&server).await;
    let delete = tokio::spawn({
        let store = store.clone();
        async move { store.delete(&entry("key")).await }
    });
    until("the deletion waits", async || server.sql(WAITING) == "2").await;
    server.sql(CANCEL);
    let (kind_of_delete, text) = told(delete.await.unwrap());
    assert_eq!(kind_of_delete, ErrorKind::Timeout, "{text}");
    assert_eq!(server.sql("SELECT count(*) FROM kms.kms_keys WHERE name = 'key'"), "0");
    let read = kind(store.get(&entry("key")).await);
    assert!(read.is_some_and(ErrorKind::is_outage), "the row may come back: {read:?}");
    server.set("synchronous_standby_names", "");
    until("it is known", async || kind(store.get(&entry("key")).await) == Some(ErrorKind::NotFound)).await;
}

/// Without its standby a create waits. The caller is told that nobody knows, and the create goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_outlives_its_caller_and_is_not_sent_twice() {
    let server = Postgres::start().await;
    server.set("synchronous_standby_names", "spare");
    let config = PostgresConfig {
        pool: 4,
        write_timeout: Duration::from_millis(700),
        timeout: Duration::from_secs(1),
        ..server.config()
    };
    let store = open(config);
    let (first, text) = told(store.create(&entry("first"), &record()).await);
    assert_eq!(first, ErrorKind::Timeout);
    assert!(text.contains("still under way"), "{text}");
    // A caller that goes away does not end it either.
    let gone =
        tokio::time::timeout(Duration::from_millis(300), store.create(&entry("second"), &record())).await;
    assert!(gone.is_err());
    assert_eq!(server.sql(WAITING), "2");
    // Half of the connections are writes now. A third write is refused without being sent, and reads go on.
    assert_eq!(kind(store.create(&entry("third"), &record()).await), Some(ErrorKind::Throttled));
    assert_eq!(kind(store.get(&entry("absent")).await), Some(ErrorKind::NotFound));
    // Not visible yet, and no absence: the INSERT waits.
    assert_eq!(server.sql("SELECT count(*) FROM kms.kms_keys WHERE name = 'second'"), "0");
    assert_ne!(kind(store.get(&entry("second")).await), Some(ErrorKind::NotFound), "its caller went away");
    server.set("synchronous_standby_names", "");
    for name in ["first", "second"] {
        until("the create has ended", async || {
            store.get(&entry(name)).await.is_ok_and(|found| found == record())
        })
        .await;
    }
    assert_eq!(kind(store.get(&entry("third")).await), Some(ErrorKind::NotFound), "it was never sent");
    assert_eq!(server.sql("SELECT count(*) FROM kms.kms_keys"), "2", "no probe is left");
}

/// The INSERT waits for somebody else's transaction. Commits of others go on, so a read of the name sees that there is no row.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_waits_for_a_lock_is_no_absence_and_is_not_cut_off() {
    let server = Arc::new(Postgres::start().await);
    server.sql(
        "ALTER ROLE kms SET statement_timeout = '500ms'; ALTER ROLE kms SET lock_timeout = '500ms'; \
                ALTER ROLE kms SET idle_in_transaction_session_timeout = '500ms'",
    );
    let store = open(PostgresConfig { write_timeout: Duration::from_secs(1), ..server.config() });
    let other = tokio::task::spawn_blocking({
        let server = Arc::clone(&server);
        move || {
            server.sql(
                "BEGIN; INSERT INTO kms.kms_keys (name, record) VALUES ('key', 'other'); SELECT pg_sleep(4); ROLLBACK",
            )
        }
    });
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    until("the other transaction has the name", async || server.sql(sleeps) == "1").await;
    assert_eq!(kind(store.create(&entry("key"), &record()).await), Some(ErrorKind::Timeout));
    let (kind_of_read, text) = told(store.get(&entry("key")).await);
    assert_eq!(kind_of_read, ErrorKind::Timeout, "{text}");
    assert!(text.contains("may still be under way"), "{text}");
    other.await.unwrap();
    until("the create has ended", async || {
        store.get(&entry("key")).await.is_ok_and(|found| found == record())
    })
    .await;
}

/// The connection ends while the create waits. Nobody but the server knows what became of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_leaves_a_doubt_and_no_absence() {
    let server = Postgres::start().await;
    server.set("synchronous_standby_names", "spare");
    let store = open(PostgresConfig {
        write_timeout: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        ..server.config()
    });
    let create = tokio::spawn({
        let store = store.clone();
        async move { store.create(&entry("key"), &record()).await }
    });
    until("the create waits", async || server.sql(WAITING) == "1").await;
    server.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    assert_eq!(kind(create.await.unwrap()), Some(ErrorKind::Timeout));
    assert_ne!(kind(store.get(&entry("key")).await), Some(ErrorKind::NotFound));
    server.set("synchronous_standby_names", "");
    until("it is known", async || store.get(&entry("key")).await.is_ok_and(|found| found == record())).await;
}

/// Has commits wait for a standby that is not there. One write waits then: the server takes a setting in a moment later.
async fn no_standby(server: &Postgres) {
    server.set("synchronous_standby_names", "spare");
    let store = open(PostgresConfig { write_timeout: Duration::from_millis(300), ..server.config() });
    let mut number = 0;
    while store.create(&entry(&format!("waits-{number}")), &record()).await.is_ok() {
        number += 1;
    }
}

/// A session that waits for a standby does not notice that its client went away. Clients ask again and again.
#[tokio::test(flavor = "multi_thread")]
async fn reads_of_a_name_in_doubt_leave_no_sessions_behind() {
    let server = Postgres::start().await;
    no_standby(&server).await;
    let store = open(PostgresConfig {
        pool: 4,
        write_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        ..server.config()
    });
    assert_eq!(kind(store.create(&entry("key"), &record()).await), Some(ErrorKind::Timeout));
    for _ in 0..4 {
        let read = kind(store.get(&entry("key")).await);
        assert!(read.is_some_and(ErrorKind::is_outage), "{read:?}");
    }
    assert_eq!(server.sql(WAITING), "3", "half of our connections wait, and the one of the first write");
    assert_eq!(kind(store.get(&entry("absent")).await), Some(ErrorKind::NotFound), "other reads go on");
    server.set("synchronous_standby_names", "");
    until("it is known", async || store.get(&entry("key")).await.is_ok_and(|found| found == record())).await;
    let probes = "SELECT count(*) FROM kms.kms_keys WHERE name LIKE '.%'";
    until("no probe is left", async || server.sql(probes) == "0").await;
}

/// The connection breaks while a replacement waits. Until that is over, the row before it is seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_of_unknown_outcome_is_not_refused() {
    let server = Postgres::start().await;
    let cable = Cable::to(server.port()).await;
    let store = open(config(&[cable.port()]));
    store.create(&entry("key"), &bytes("old")).await.unwrap();
    no_standby(&server).await;
    let replace = tokio::spawn({
        let store = store.clone();
        async move {
            let [gone, back] = [fingerprint(), kms_core::primitives::Fingerprint::from_bytes([8; 16])]
                .map(|of| EntryName::gone(&key("key"), &of));
            let notes = Notes { gone: &gone, record: &bytes("note"), back: &back };
            store.replace(&entry("key"), &record(), &notes).await
        }
    });
    until("the replacement waits", async || server.sql(WAITING) == "2").await;
    cable.set(State::Cut);
    tokio::time::sleep(Duration::from_millis(200)).await;
    cable.set(State::Whole);
    until("it is read back", async || server.sql(WAITING) == "3").await;
    server.set("synchronous_standby_names", "");
    let (kind, text) = told(replace.await.unwrap());
    assert_eq!(kind, ErrorKind::Timeout, "{text}");
    until("it is known", async || store.get(&entry("key")).await.is_ok_and(|found| found == record())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_standby_does_not_have_is_no_absence() {
    let mut server = Postgres::start().await;
    let standby = server.standby("spare").await;
    let both = config(&[server.port(), standby.port()]);
    let quick = PostgresConfig { timeout: Duration::from_secs(2), ..both };
    let store = open(quick.clone());
    let reading = open(PostgresConfig { standby_reads: true, ..quick });
    store.create(&entry("key"), &record()).await.unwrap();
    until("the standby has it", async || standby.sql("SELECT count(*) FROM kms.kms_keys") == "1").await;
    // The order of the hosts does not matter.
    let turned = open(config(&[standby.port(), server.port()]));
    assert_eq!(kind(turned.get(&entry("absent")).await), Some(ErrorKind::NotFound));
    server.kill();
    for name in ["key", "absent"] {
        let (kind, text) = told(store.get(&entry(name)).await);
        assert_eq!(kind, ErrorKind::Unreachable, "{text}");
    }
    assert!(reading.get(&entry("key")).await.unwrap() == record(), "by choice a standby answers");
    let (kind_of_absent, text) = told(reading.get(&entry("absent")).await);
    assert_eq!(kind_of_absent, ErrorKind::Behind);
    assert!(text.contains("standby"), "{text}");
    assert!(
        reading.segments(".d/").await.is_err()
            && reading.list(&kms_core::ListQuery::prefix("")).await.is_err()
    );
    assert!(reading.status().await.unwrap().degraded.unwrap().contains("standby"));
    assert!(reading.create(&entry("new"), &bytes("new")).await.is_err());
    standby.promote();
    until("the promoted server is found", async || {
        kind(store.get(&entry("absent")).await) == Some(ErrorKind::NotFound)
    })
    .await;
    reading.create(&entry("new"), &bytes("new")).await.unwrap();
}
