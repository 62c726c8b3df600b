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
