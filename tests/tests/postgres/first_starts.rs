//! The store key of a table: made once, whoever comes first, and never beside another root key.
//!
//! `KMS_START_ROUNDS` sets how often two servers start at once on an empty table.

use kms_tests::cluster::Cluster;
use kms_tests::postgres::Postgres;
use kms_tests::shell::text;
use kms_tests::spoilt::ask;

const ROUNDS: usize = 3;
/// Everything in the table of the keys.
const CONTENT: &str = "SELECT coalesce(md5(string_agg(name || encode(record, 'hex') || created_at, ',' ORDER BY name)), 'empty') \
     FROM kms.kms_keys";

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_start_at_once_on_an_empty_table_end_with_one_store_key() {
    let rounds = std::env::var("KMS_START_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let server = Postgres::empty(&[]).await;
    let cluster = Cluster::new();
    for round in 0..rounds {
        let more = format!("table = \"round_{round}\"\ncreate_schema = true");
        let config = cluster.config("config.toml", &cluster.store(&[server.port()], &more));
        let (one, other) = std::thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| cluster.serve(&config)));
            let [one, other] = both.map(|member| member.join().unwrap());
            (one, other)
        });
        let anchors = server.sql(&format!("SELECT count(*) FROM kms.round_{round} WHERE name = '.r/store'"));
        assert_eq!(anchors, "1");
        for (maker, user, key) in [(&one, &other, "of-one"), (&other, &one, "of-other")] {
            let (mut maker, mut user) = (maker.client(), user.client());
            let made = ask(&mut maker, "PUT", &format!("/v1/key/create/{key}"), "").await;
            assert_eq!(made.0, 200, "round {round}: {made:?}");
            let used = ask(&mut user, "PUT", &format!("/v1/key/generate/{key}"), "").await;
            assert_eq!(used.0, 200, "round {round}: {used:?}");
        }
    }
    eprintln!("{rounds} rounds: one store key each");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_key_is_refused_with_both_fingerprints_before_anything_is_written() {
    let server = Postgres::start().await;
    let cluster = Cluster::new();
    let config = cluster.config("config.toml", &cluster.store(&[server.port()], ""));
    let member = cluster.serve(&config);
    assert_eq!(ask(&mut member.client(), "PUT", "/v1/key/create/my-key", "").await.0, 200);
    drop(member);
    let before = server.sql(CONTENT);
    let ids = |config| {
        let status = cluster.run(&["root", "status", "--json"], config).ok();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let id = status["roots"][0]["id"].as_str().unwrap().to_owned();
        (status["store_key"].as_str().unwrap().to_owned(), id)
    };
    let (store_key, right) = ids(&config);
    cluster.write_root_key("root.key", &[7; 32]);
    let (_, wrong) = ids(&config);
    assert_ne!(right, wrong);
    let told = cluster.refused(&config);
    assert!(told.contains(&store_key) && told.contains(&wrong), "{store_key} and {wrong} are not in {told}");
    let checked = cluster.run(&["check"], &config);
    assert!(!checked.status.success() && checked.stdout.contains(&store_key), "{checked:?}");
    assert_eq!(server.sql(CONTENT), before, "something was written");
    // Without any root nothing is written either.
    std::fs::remove_file(cluster.path("root.key")).unwrap();
    let checked = cluster.run(&["check"], &config);
    assert!(
        !checked.status.success() && checked.stdout.contains(text(&cluster.path("root.key"))),
        "{checked:?}"
    );
    assert_eq!(server.sql(CONTENT), before, "something was written");
}
