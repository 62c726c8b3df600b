//! A promotion of an asynchronous standby loses rows. No key is reported as deleted, and each comes back.

use std::time::Duration;

use kms_tests::Client;
use kms_tests::cluster::Cluster;
use kms_tests::postgres::Postgres;
use kms_tests::programs::until;
use kms_tests::shell::field;
use kms_tests::spoilt::ask;

async fn put(client: &mut Client, operation: &str, key: &str, body: &str) -> (u16, String) {
    ask(client, "PUT", &format!("/v1/key/{operation}/{key}"), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_that_a_promotion_lost_is_named_and_served_and_written_back() {
    let mut primary = Postgres::start().await;
    let cluster = Cluster::new();
    let mut standby = primary.standby("spare").await;
    let cache = "[cache.expiry]\nany = \"2s\"\nunused = \"1s\"\noffline = \"1h\"\n";
    let ports = [primary.port(), standby.port()];
    let config = cluster.config("config.toml", &format!("{cache}{}", cluster.store(&ports, "")));
    let member = cluster.serve(&config);
    let mut client = member.client();
    let (kept, lost) = (["kept-1", "kept-2"], ["lost-1", "lost-2", "lost-3"]);
    let mut sealed = Vec::new();
    let mut make = async |key: &'static str| {
        assert_eq!(put(&mut client, "create", key, "").await.0, 200);
        let answer = client.send("PUT", &format!("/v1/key/generate/{key}"), "").await.unwrap();
        sealed.push((key, format!("{{\"ciphertext\": \"{}\"}}", field(answer.text(), "ciphertext"))));
    };
    for key in kept {
        make(key).await;
    }
    let count = "SELECT count(*) FROM kms.kms_keys WHERE name LIKE 'kept-%'";
    until("the standby has the first keys", async || standby.sql(count) == "2").await;
    // What the primary acknowledges from now on, the standby never hears of.
    standby.kill();
    for key in lost {
        make(key).await;
    }
    primary.kill();
    standby.run().await;
    standby.promote();
    let mut client = member.client();
    until("the server says what is lost", async || {
        let mut client = member.client();
        let (_, ready) = ask(&mut client, "GET", "/v1/ready", "").await;
        ready.contains("lost 3 keys")
    })
    .await;
    // Far beyond `any` and `unused`.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (code, ready) = ask(&mut client, "GET", "/v1/ready", "").await;
    assert_eq!(code, 200, "{ready}");
    let log = member.serving.stderr();
    for key in lost {
        assert!(ready.contains(key), "{ready}");
        assert!(
            log.lines().any(|line| line.contains("the key store lost the key") && line.contains(key)),
            "{log}"
        );
        assert_eq!(put(&mut client, "create", key, "").await, (400, "key already exists".to_owned()));
    }
    for (key, ciphertext) in &sealed {
        assert_eq!(put(&mut client, "decrypt", key, ciphertext).await.0, 200, "{key}");
        assert_eq!(put(&mut client, "generate", key, "").await.0, 200, "{key}");
    }
    let deleted = member.shell.run(&["key", "ls", "--deleted"]).ok();
    assert!(!deleted.contains("lost-"), "{deleted}");

    for key in lost {
        member.shell.run(&["key", "restore", key]).ok();
    }
    // The server repeats an answer for a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask(&mut client, "GET", "/v1/ready", "").await, (200, String::new()));
    assert_eq!(standby.sql("SELECT count(*) FROM kms.kms_keys WHERE name LIKE '%ost-%'"), "3");
    drop(member);
    let member = cluster.serve(&config);
    let mut client = member.client();
    for (key, ciphertext) in &sealed {
        assert_eq!(put(&mut client, "decrypt", key, ciphertext).await.0, 200, "{key} after a restart");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_lost_the_whole_table_costs_no_key_and_makes_no_other_store_key() {
    const ROOTS: &str = "SELECT name FROM kms.kms_keys WHERE name LIKE '.r/%' ORDER BY name";
    let mut primary = Postgres::start().await;
    let cluster = Cluster::new();
    // It has the table, and none of its rows.
    let mut standby = primary.standby("spare").await;
    standby.kill();
    let ports = [primary.port(), standby.port()];
    let config = cluster.config("config.toml", &cluster.store(&ports, ""));
    let member = cluster.serve(&config);
    let roots = primary.sql(ROOTS);
    assert_eq!(roots.lines().count(), 2, "the anchor and an entry: {roots}");
    let anchor = ".r/store";
    let fingerprint = cluster.run(&["root", "status"], &config).ok();
    let keys = ["one", "two"];
    let mut sealed = Vec::new();
    for key in keys {
        let mut client = member.client();
        assert_eq!(put(&mut client, "create", key, "").await.0, 200);
        let answer = client.send("PUT", &format!("/v1/key/generate/{key}"), "").await.unwrap();
        sealed.push((key, format!("{{\"ciphertext\": \"{}\"}}", field(answer.text(), "ciphertext"))));
    }
    primary.kill();
    standby.run().await;
    assert_eq!(standby.sql("SELECT count(*) FROM kms.kms_keys"), "0");
    standby.promote();
    until("the server says what is lost", async || {
        ask(&mut member.client(), "GET", "/v1/ready", "").await.1.contains("lost 2 keys")
    })
    .await;
    // Without a request: another server that starts now finds the store key, and makes none.
    until("the store key is written back", async || standby.sql(ROOTS) == roots).await;
    let log = member.serving.stderr();
    for words in ["the store lost the entries of its roots", "the store lost its anchor"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let mut client = member.client();
    for (key, ciphertext) in &sealed {
        assert_eq!(put(&mut client, "decrypt", key, ciphertext).await.0, 200, "{key}");
        assert_eq!(put(&mut client, "create", key, "").await.0, 400, "{key}");
    }
    member.shell.run(&["key", "restore", "one"]).ok();
    // What a restore writes has to open after the next start, so it writes back what of the roots is gone by then.
    standby.sql(&format!("DELETE FROM kms.kms_keys WHERE name LIKE '.r/%' AND name <> '{anchor}'"));
    member.shell.run(&["key", "restore", "two"]).ok();
    assert_eq!(standby.sql(ROOTS), roots);
    assert_eq!(put(&mut client, "create", "three", "").await.0, 200);
    drop(member);
    assert_eq!(store_key(&cluster.run(&["root", "status"], &config).ok()), store_key(&fingerprint));
    let member = cluster.serve(&config);
    let mut client = member.client();
    for (key, ciphertext) in &sealed {
        assert_eq!(put(&mut client, "decrypt", key, ciphertext).await.0, 200, "{key} after a restart");
    }
    assert_eq!(put(&mut client, "generate", "three", "").await.0, 200);
}

/// Returns the line of `kms root status` with the fingerprint of the store key.
fn store_key(status: &str) -> &str {
    status.lines().find(|line| line.starts_with("Store key ")).unwrap_or_else(|| panic!("{status}"))
}
