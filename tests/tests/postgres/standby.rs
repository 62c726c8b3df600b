//! Reads that a standby answers while the primary is away, by choice.

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
async fn a_standby_serves_cold_keys_while_the_primary_is_away_and_says_of_none_that_it_is_absent() {
    let mut primary = Postgres::start().await;
    let mut standby = primary.standby("spare").await;
    let cluster = Cluster::new();
    let ports = [primary.port(), standby.port()];
    let sections = |more| format!("[deletion]\ngrace = \"1h\"\n{}", cluster.store(&ports, more));
    let by_choice = cluster.config("standby.toml", &sections("standby_reads = true"));
    let other = cluster.config("primary.toml", &sections(""));
    let mut sealed = String::new();
    {
        let member = cluster.serve(&by_choice);
        let mut client = member.client();
        for key in ["cold", "marked", "unheard"] {
            assert_eq!(put(&mut client, "create", key, "").await.0, 200, "{key}");
        }
        let answer = client.send("PUT", "/v1/key/generate/cold", "").await.unwrap();
        sealed.push_str(&field(answer.text(), "ciphertext"));
        member.shell.run(&["key", "rm", "marked"]).ok();
    }
    let count = "SELECT count(*) FROM kms.kms_keys WHERE name !~ '^[.]r/'";
    until("the standby has all rows", async || standby.sql(count) == "4").await;
    // The standby hears of nothing that comes now.
    standby.kill();
    {
        let member = cluster.serve(&by_choice);
        assert_eq!(put(&mut member.client(), "create", "missing", "").await.0, 200);
        member.shell.run(&["key", "rm", "unheard"]).ok();
    }
    primary.kill();
    standby.run().await;

    // The server starts without the primary, and has read no key before.
    let member = cluster.serve(&by_choice);
    let mut client = member.client();
    let ciphertext = |text: &str| format!("{{\"ciphertext\": \"{text}\"}}");
    for _ in 0..2 {
        let (code, text) = put(&mut client, "generate", "cold", "").await;
        assert_eq!(code, 200, "{text}");
        assert_eq!(put(&mut client, "decrypt", "cold", &ciphertext(&sealed)).await.0, 200);
        // A mark that the standby has counts, and one that it has not got does not: that is the price.
        let (code, text) = put(&mut client, "generate", "marked", "").await;
        assert!(code == 409 && text.contains("key is deleted"), "{code} {text}");
        assert_eq!(put(&mut client, "generate", "unheard", "").await.0, 200);
        for key in ["missing", "never"] {
            let (code, text) = put(&mut client, "generate", key, "").await;
            assert_eq!((code, text.as_str()), (502, "failed to read key"), "{key}");
        }
        // What does not open may have been sealed under a newer key.
        let (code, text) = put(&mut client, "decrypt", "unheard", &ciphertext(&sealed)).await;
        assert_eq!((code, text.as_str()), (502, "failed to read key"));
    }
    let (code, _) = put(&mut client, "create", "new", "").await;
    assert!([502, 504].contains(&code), "nothing is made: {code}");
    let (code, ready) = ask(&mut client, "GET", "/v1/ready", "").await;
    assert!(code == 200 && ready.contains("only a standby answers"), "{code} {ready}");
    // Without the choice a standby answers nothing.
    let strict = cluster.serve(&other);
    let (code, _) = put(&mut strict.client(), "generate", "cold", "").await;
    assert!([502, 504].contains(&code), "{code}");

    // The truth counts again at once.
    standby.promote();
    until("the promoted server is found", async || {
        put(&mut member.client(), "generate", "never", "").await.0 == 404
    })
    .await;
    assert_eq!(put(&mut client, "create", "new", "").await.0, 200);
    assert_eq!(put(&mut client, "decrypt", "unheard", &ciphertext(&sealed)).await.0, 400);
}
