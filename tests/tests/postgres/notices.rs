//! A deletion on one of three servers, as the others hear of it.
//!
//! `KMS_NOTICE_ROUNDS` sets the number of deletions of each kind. From 50 on the figures have to be those of a quiet machine.

use std::path::Path;
use std::time::{Duration, Instant};

use kms_tests::Client;
use kms_tests::cable::{Cable, State};
use kms_tests::cluster::{Cluster, Member};
use kms_tests::postgres::Postgres;
use kms_tests::programs::until;
use kms_tests::spoilt::ask;

const ROUNDS: usize = 8;
/// How soon the others refuse the key, for 99 of 100.
const SOON: Duration = Duration::from_millis(100);
/// How soon they do on a busy machine.
const ON_A_BUSY_MACHINE: Duration = Duration::from_millis(1500);

fn rounds() -> usize {
    std::env::var("KMS_NOTICE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

async fn generate(client: &mut Client, key: &str) -> u16 {
    ask(client, "PUT", &format!("/v1/key/generate/{key}"), "").await.0
}

/// Starts three servers, and waits until each of them hears of changes.
async fn three(cluster: &Cluster, config: &Path) -> [Member; 3] {
    let members = [(); 3].map(|()| cluster.serve(config));
    for member in &members {
        until("the server listens", async || {
            ask(&mut member.client(), "GET", "/v1/ready", "").await == (200, String::new())
        })
        .await;
    }
    members
}

/// Asks until the answer has this status, and returns how long that took.
async fn until_refused(client: &mut Client, key: &str, status: u16, since: Instant) -> Duration {
    loop {
        let code = generate(client, key).await;
        assert!([200, 404, 409].contains(&code), "{key}: {code}");
        if code == status {
            return since.elapsed();
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{key} is answered {code} for ever");
    }
}

/// Prints and judges the times.
fn judge(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share).div_ceil(100).max(1) - 1];
    let (p50, p99, most) = (at(50), at(99), times[times.len() - 1]);
    eprintln!("{what}: {} refusals by others, p50 {p50:.1?}, p99 {p99:.1?}, at most {most:.1?}", times.len());
    let bound = if rounds() >= 50 { SOON } else { ON_A_BUSY_MACHINE };
    assert!(p99 < bound, "{what}: {p99:?}");
}

/// Deletes keys on the first server, and returns how soon each other one refuses each of them.
async fn times_of(members: &[Member], prefix: &str, status: u16) -> Vec<Duration> {
    let mut clients: Vec<_> = members.iter().map(Member::client).collect();
    let mut times = Vec::new();
    for round in 0..rounds() {
        let key = format!("{prefix}-{round}");
        assert_eq!(ask(&mut clients[0], "PUT", &format!("/v1/key/create/{key}"), "").await.0, 200);
        for client in &mut clients {
            assert_eq!(generate(client, &key).await, 200, "{key}");
        }
        let (first, others) = clients.split_first_mut().unwrap();
        assert_eq!(ask(first, "DELETE", &format!("/v1/key/delete/{key}"), "").await.0, 200);
        let since = Instant::now();
        let [one, other] = others else { panic!("there are three servers") };
        let (one, other) =
            tokio::join!(until_refused(one, &key, status, since), until_refused(other, &key, status, since));
        times.extend([one, other]);
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_deletes_the_others_refuse_at_once() {
    let server = Postgres::start().await;
    let cluster = Cluster::new();
    // Nobody would find a deletion within the time of the test without a notice.
    let cache = "[cache.expiry]\nany = \"1h\"\nunused = \"1h\"\noffline = \"1h\"\n";
    for (what, grace, status) in [("a delete", "30d", 409), ("a delete without grace", "0s", 404)] {
        let sections =
            format!("{cache}[deletion]\ngrace = \"{grace}\"\n{}", cluster.store(&[server.port()], ""));
        let config = cluster.config("config.toml", &sections);
        let members = three(&cluster, &config).await;
        let times = Box::pin(times_of(&members, &format!("key-{status}"), status)).await;
        judge(what, times);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_purges_is_gone_on_the_others_at_once() {
    let server = Postgres::start().await;
    let cluster = Cluster::new();
    // A purge waits for this time.
    let cache = "[cache.expiry]\nany = \"2s\"\nunused = \"2s\"\n[deletion]\ngrace = \"30d\"\n";
    let config = cluster.config("config.toml", &format!("{cache}{}", cluster.store(&[server.port()], "")));
    let members = three(&cluster, &config).await;
    let mut clients: Vec<_> = members.iter().map(Member::client).collect();
    let keys: Vec<_> = (0..rounds()).map(|n| format!("key-{n}")).collect();
    for key in &keys {
        assert_eq!(ask(&mut clients[0], "PUT", &format!("/v1/key/create/{key}"), "").await.0, 200);
        for client in &mut clients {
            assert_eq!(generate(client, key).await, 200);
        }
        assert_eq!(ask(&mut clients[0], "DELETE", &format!("/v1/key/delete/{key}"), "").await.0, 200);
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let mut times = Vec::new();
    for key in &keys {
        for client in &mut clients {
            assert_eq!(generate(client, key).await, 409, "the key is deleted and kept");
        }
        let confirmed = format!("{{\"now\": true, \"confirm\": \"{key}\"}}");
        let (code, said) = ask(&mut clients[0], "PUT", &format!("/v1/key/purge/{key}"), &confirmed).await;
        assert_eq!(code, 200, "{said}");
        let since = Instant::now();
        for client in &mut clients[1..] {
            times.push(until_refused(client, key, 404, since).await);
        }
    }
    judge("a purge", times);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hears_nothing_finds_a_deletion_within_any() {
    const ANY: Duration = Duration::from_secs(4);
    let server = Postgres::start().await;
    let cable = Cable::to(server.port()).await;
    let cluster = Cluster::new();
    let config = |name: &str, more: &str| {
        let cache = format!("[cache.expiry]\nany = \"{}s\"\nunused = \"1h\"\n", ANY.as_secs());
        cluster.config(name, &format!("{cache}{}", cluster.store(&[server.port()], more)))
    };
    let hears = cluster.serve(&config("hears.toml", ""));
    let deaf = cluster.serve(&config("deaf.toml", &format!("listen_port = {}", cable.port())));
    let (mut hears, mut deaf) = (hears.client(), deaf.client());
    cable.set(State::Dropping);
    let mut longest = Duration::ZERO;
    for key in ["one", "two", "three"] {
        assert_eq!(ask(&mut hears, "PUT", &format!("/v1/key/create/{key}"), "").await.0, 200);
        assert_eq!(generate(&mut deaf, key).await, 200);
        assert_eq!(ask(&mut hears, "DELETE", &format!("/v1/key/delete/{key}"), "").await.0, 200);
        let took = until_refused(&mut deaf, key, 409, Instant::now()).await;
        longest = longest.max(took);
    }
    eprintln!("without notices: at most {longest:.1?} with any = {ANY:?}");
    assert!(longest < ANY + Duration::from_secs(1), "{longest:?}");
}
