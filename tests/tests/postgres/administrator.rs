//! What somebody can do who may write to the database and has no root key.

use kms_tests::cluster::Cluster;
use kms_tests::postgres::Postgres;
use kms_tests::spoilt::ask;

const CACHE: &str = "[cache.expiry]\nany = \"300ms\"\nunused = \"300ms\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_swapped_or_come_from_another_store_are_found() {
    let server = Postgres::empty(&[]).await;
    let cluster = Cluster::new();
    let config = |table: &str| {
        let more = format!("table = \"{table}\"\ncreate_schema = true");
        cluster
            .config(&format!("{table}.toml"), &format!("{CACHE}{}", cluster.store(&[server.port()], &more)))
    };
    let (ours, others) = (config("ours"), config("others"));
    let member = cluster.serve(&ours);
    let mut client = member.client();
    let beside = cluster.serve(&others);
    let mut other = beside.client();
    for key in ["a", "b", "c", "good"] {
        assert_eq!(ask(&mut client, "PUT", &format!("/v1/key/create/{key}"), "").await.0, 200);
        assert_eq!(ask(&mut other, "PUT", &format!("/v1/key/create/{key}"), "").await.0, 200);
    }
    server.sql(
        "UPDATE kms.ours t SET record = o.record FROM kms.ours o \
         WHERE (t.name, o.name) IN (('a', 'b'), ('b', 'a'))",
    );
    // Both stores have the same root key, and each its own store key.
    server
        .sql("UPDATE kms.ours t SET record = o.record FROM kms.others o WHERE t.name = 'c' AND o.name = 'c'");
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    for key in ["a", "b", "c"] {
        let (code, said) = ask(&mut client, "PUT", &format!("/v1/key/generate/{key}"), "").await;
        assert_eq!((code, said.as_str()), (502, "failed to read key"), "{key}");
        let (code, said) = ask(&mut client, "PUT", &format!("/v1/key/create/{key}"), "").await;
        assert_eq!((code, said.as_str()), (400, "key already exists"), "{key}");
    }
    assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/good", "").await.0, 200);
    let log = member.serving.stderr();
    let checked = cluster.run(&["check"], &ours);
    for key in ["a", "b", "c"] {
        let told = |text: &str| {
            text.lines().any(|line| {
                line.contains(&format!("'{key}'"))
                    && line.contains("was not sealed under the key of this store")
            })
        };
        assert!(told(&log), "{key} is not in the log: {log}");
        assert!(told(&checked.stdout), "{key} is not told: {}", checked.stdout);
    }
}

/// The pages say so: it is a genuine record.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_row_that_is_put_back_under_its_name_opens() {
    let server = Postgres::start().await;
    let cluster = Cluster::new();
    let sections = format!("{CACHE}[deletion]\ngrace = \"0s\"\n{}", cluster.store(&[server.port()], ""));
    let config = cluster.config("config.toml", &sections);
    let member = cluster.serve(&config);
    let mut client = member.client();
    assert_eq!(ask(&mut client, "PUT", "/v1/key/create/my-key", "").await.0, 200);
    server.sql("CREATE TABLE kept AS SELECT * FROM kms.kms_keys WHERE name = 'my-key'");
    assert_eq!(ask(&mut client, "DELETE", "/v1/key/delete/my-key", "").await.0, 200);
    assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/my-key", "").await.0, 404);
    server.sql("INSERT INTO kms.kms_keys SELECT * FROM kept");
    assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/my-key", "").await.0, 200);
}
