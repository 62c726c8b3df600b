//! What `check` finds, and that it proves rights instead of believing in them.

use std::sync::Arc;
use std::time::Duration;

use kms_core::store::{Finding, KeyStore, Level};
use kms_postgres::{Host, PostgresConfig, Roles, TlsConfig, check};
use kms_tests::postgres::{DATABASE, Postgres, config};
use kms_tests::programs::{free_port, until};

use super::common::{entry, open, record};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_order_has_few_warnings() {
    let server = Postgres::start().await;
    open(server.config()).create(&entry("key"), &record()).await.unwrap();
    let findings = check(server.config()).await;
    assert!(findings.iter().all(|finding| finding.level != Level::Problem), "{findings:?}");
    for (what, level, text) in [
        ("connection", Level::Good, "takes writes"),
        ("tls", Level::Warning, "none is in force"),
        ("table", Level::Good, "name text"),
        ("rights", Level::Good, "select, insert and delete"),
        ("durability", Level::Good, "fsync is on"),
        ("replication", Level::Warning, "no standby"),
        ("probe row", Level::Good, "written"),
        ("changes", Level::Good, "heard"),
        ("keys", Level::Good, "1 in"),
        ("backup", Level::Warning, "object store"),
    ] {
        let found = findings
            .iter()
            .find(|finding| finding.what == what)
            .unwrap_or_else(|| panic!("{what}: {findings:?}"));
        assert!(found.level == level && found.detail.contains(text), "{found:?}");
    }
    assert_eq!(server.sql("SELECT count(*) FROM kms.kms_keys"), "1", "no probe is left");
    let standby = server.standby("spare").await;
    server.set("synchronous_standby_names", "spare");
    until("it is synchronous", async || {
        server.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1"
    })
    .await;
    assert!(has(&check(server.config()).await, "replication", Level::Good, "'spare'"));
    let of_standby = check(standby.config()).await;
    assert!(has(&of_standby, "connection", Level::Problem, "takes no writes"), "{of_standby:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_found() {
    let server = Postgres::start_with(&["fsync=off", "synchronous_commit=off"]).await;
    server.sql("CREATE TABLE public.other (a int); GRANT SELECT ON public.other TO kms; GRANT UPDATE ON kms.kms_keys TO kms");
    let findings = check(server.config()).await;
    for (what, text) in [
        ("durability", "fsync is off"),
        ("durability", "synchronous_commit is 'off'"),
        ("rights", "may update"),
        ("rights", "public.other"),
    ] {
        assert!(
            findings.iter().any(|f| f.what == what && f.level == Level::Warning && f.detail.contains(text)),
            "{text}: {findings:?}"
        );
    }
    for (sql, undo, what, text) in [
        ("REVOKE DELETE ON kms.kms_keys FROM kms", "GRANT DELETE ON kms.kms_keys TO kms", "rights", "delete"),
        (
            "ALTER TABLE kms.kms_keys RENAME TO away",
            "ALTER TABLE kms.away RENAME TO kms_keys",
            "table",
            "does not exist",
        ),
        ("ALTER TABLE kms.kms_keys SET UNLOGGED", "ALTER TABLE kms.kms_keys SET LOGGED", "table", "unlogged"),
        (
            "ALTER TABLE kms.kms_keys DROP CONSTRAINT kms_keys_pkey",
            "ALTER TABLE kms.kms_keys ADD PRIMARY KEY (name)",
            "table",
            "primary key",
        ),
    ] {
        server.sql(sql);
        let findings = check(server.config()).await;
        assert!(has(&findings, what, Level::Problem, text), "{findings:?}");
        server.sql(undo);
    }
    let nowhere = check(config(&[free_port()])).await;
    assert!(has(&nowhere, "connection", Level::Problem, "refused"), "{nowhere:?}");
    let wrong = check(PostgresConfig { pool: 0, ..server.config() }).await;
    assert!(has(&wrong, "configuration", Level::Problem, "half"), "{wrong:?}");
}

/// The server takes the login, and a look into the catalog never ends: a lock is held there.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_after_the_login_ends_the_check() {
    let server = Arc::new(Postgres::start().await);
    let other = tokio::task::spawn_blocking({
        let server = Arc::clone(&server);
        move || {
            let lock =
                "BEGIN; LOCK TABLE pg_catalog.pg_constraint IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)";
            server.try_sql(DATABASE, lock)
        }
    });
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    until("the catalog is locked", async || server.sql(sleeps) == "1").await;
    let quick = PostgresConfig { timeout: Duration::from_secs(1), ..server.config() };
    let findings = tokio::time::timeout(Duration::from_secs(20), check(quick)).await.unwrap();
    let last = findings.last().unwrap();
    assert!(last.level == Level::Problem && last.detail.contains("within 1000 ms"), "{findings:?}");
    server.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    assert!(other.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_to_one_column_are_found() {
    let server = Postgres::start().await;
    server.sql(
        "CREATE TABLE public.other (a int); GRANT SELECT (a) ON public.other TO kms; GRANT UPDATE (record) ON kms.kms_keys TO kms",
    );
    let findings = check(server.config()).await;
    for text in ["may update", "public.other"] {
        assert!(has(&findings, "rights", Level::Warning, text), "{text}: {findings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_needs_no_tls() {
    let server = Postgres::start().await;
    let hosts = vec![Host::new(server.path().to_str().unwrap(), server.port())];
    let config = PostgresConfig { hosts, tls: TlsConfig::default(), ..server.config() };
    open(config.clone()).create(&entry("key"), &record()).await.unwrap();
    let findings = check(config).await;
    assert!(has(&findings, "tls", Level::Good, "socket"), "{findings:?}");
    assert!(has(&findings, "keys", Level::Good, "1 in"), "{findings:?}");
}

/// The administrator of a database that a service runs is no superuser.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_may_make_roles_runs_the_printed_sql() {
    let server = Postgres::empty(&[]).await;
    server.sql("CREATE ROLE boss LOGIN CREATEROLE; ALTER DATABASE keys OWNER TO boss");
    let sql = kms_postgres::schema(&server.config(), &Roles::default());
    for _ in 0..2 {
        server.sql(&format!("SET SESSION AUTHORIZATION boss;\n{sql}"));
    }
    let owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'kms_keys'";
    assert_eq!(server.sql(owner), "kms_owner");
    let findings = check(server.config()).await;
    assert!(has(&findings, "probe row", Level::Good, "written"), "{findings:?}");
}

fn has(findings: &[Finding], what: &str, level: Level, text: &str) -> bool {
    findings.iter().any(|found| found.what == what && found.level == level && found.detail.contains(text))
}
