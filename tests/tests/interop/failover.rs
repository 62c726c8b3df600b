//! MinIO with two key servers, of which one is killed and comes back again and again, beside the same with two KES 0.24.
//!
//! `KMS_FAILOVER_SECONDS` sets how long each runs; `tests/failover` runs the long form.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kms_tests::bao::{Bao, WIDE_POLICY};
use kms_tests::programs::program;
use kms_vault::{AppRole, KvVersion, Login, SecretSource};

use super::minio::{Minio, path};
use super::postgres::{self, Store};
use super::setup::{KeyServer, attempt, run};

const ALLOW: [&str; 5] = [
    "/v1/status",
    "/v1/key/create/minio-*",
    "/v1/key/describe/minio-*",
    "/v1/key/generate/minio-*",
    "/v1/key/decrypt/minio-*",
];
const SECONDS: u64 = 20;
/// From here on the counts are compared as they are.
const LONG: Duration = Duration::from_secs(180);
/// Between two kills.
const PERIOD: Duration = Duration::from_secs(10);
/// For how long a server is away.
const AWAY: Duration = Duration::from_secs(3);
const CLIENTS: usize = 4;

/// The SHA-256 of nothing.
const OF_NOTHING: &str =
    "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What the clients of one MinIO saw.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    failed: AtomicUsize,
    wrong: AtomicUsize,
}

#[test]
fn no_more_s3_requests_fail_than_with_two_kes_while_one_key_server_dies_again_and_again() {
    let seconds =
        std::env::var("KMS_FAILOVER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let long = Duration::from_secs(seconds);
    let ours = under_kms(long);
    let theirs = under_kes(long);
    for (whose, seen) in [("kms on PostgreSQL", &ours), ("KES 0.24 on OpenBao", &theirs)] {
        let [requests, failed, wrong] =
            [&seen.requests, &seen.failed, &seen.wrong].map(|count| count.load(Ordering::Relaxed));
        eprintln!(
            "{whose}: {failed} of {requests} S3 requests failed in {seconds} s, {wrong} came back wrong"
        );
        assert!(requests > 20 && failed * 10 < requests && wrong == 0, "{whose}");
    }
    let [ours, theirs] = [ours, theirs].map(|seen| seen.failed.into_inner());
    // What a kill cuts off is a handful of requests: a short run only finds what is out of all proportion.
    let most = if long >= LONG { theirs } else { 2 * theirs + 10 };
    assert!(ours <= most, "{ours} and {theirs}");
}

fn under_kms(long: Duration) -> Seen {
    let store = Store::start_blocking();
    let dir = tempfile::tempdir().unwrap();
    let mut one = KeyServer::start_on(dir, &store.sections(), postgres::TOLD, &ALLOW, &[]);
    let mut other = one.start_beside(&store.sections(), "postgres: keys: 0", &ALLOW, &[]);
    under_kills(&mut one, &mut other, &KeyServer::restart, long)
}

fn under_kes(long: Duration) -> Seen {
    let kes = program("kes");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bao, login) = runtime.block_on(async {
        let bao = Bao::with_kv(KvVersion::V2).await;
        let login = bao.approle(WIDE_POLICY, "5m").await;
        (bao, login)
    });
    let Login::AppRole(AppRole { id, secret: SecretSource::Value(secret), .. }) = login else {
        unreachable!()
    };
    let keystore = format!(
        "  vault:\n    endpoint: {}\n    engine: kv\n    version: v2\n    prefix: minio\n    approle:\n      id: {id}\n      \
         secret: {}\n",
        bao.endpoint(),
        secret.expose()
    );
    let mut one = KeyServer::start_kes_on(&kes, &keystore, &ALLOW);
    let mut other = one.start_kes_beside(&kes, &keystore, &ALLOW);
    under_kills(&mut one, &mut other, &|server| server.run_kes_config(&kes), long)
}

/// Puts and gets objects while the servers are killed in turns.
fn under_kills(
    one: &mut KeyServer,
    other: &mut KeyServer,
    start: &dyn Fn(&mut KeyServer),
    long: Duration,
) -> Seen {
    let mut minio = Minio::start_with(one, vec![other.endpoint()]);
    minio.mc(&["mb", "s3/bucket"]);
    minio.mc(&["encrypt", "set", "sse-s3", "s3/bucket"]);
    let file = minio.file("file", 5000);
    let (seen, stop) = (Seen::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (minio, seen, stop, file) = (&minio, &seen, &stop, &file);
            scope.spawn(move || client_of(minio, client, file, seen, stop));
        }
        let began = Instant::now();
        let mut servers = [one, other];
        while began.elapsed() < long {
            thread::sleep(PERIOD.saturating_sub(AWAY));
            servers[0].kill();
            thread::sleep(AWAY);
            start(servers[0]);
            servers.reverse();
        }
        stop.store(true, Ordering::Relaxed);
    });
    minio.stop();
    seen
}

/// Writes an object and reads it again and again, by one request each and without another try.
fn client_of(minio: &Minio, client: usize, file: &Path, seen: &Seen, stop: &AtomicBool) {
    let content = fs::read(file).unwrap();
    let data = format!("@{}", path(file));
    let digest = run(Path::new("/usr/bin/sha256sum"), &[&path(file)], &[]);
    let digest = format!("x-amz-content-sha256: {}", digest.split_whitespace().next().unwrap());
    let kind = "Content-Type: application/octet-stream";
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let object = format!("/bucket/{client}-{n}");
        let put = ["-X", "PUT", "-H", &digest, "-H", kind, "--data-binary", &data];
        for arguments in [&put[..], &["-H", OF_NOTHING]] {
            let (is_done, answer) = request(minio, &object, arguments);
            seen.requests.fetch_add(1, Ordering::Relaxed);
            if !is_done {
                seen.failed.fetch_add(1, Ordering::Relaxed);
                break;
            }
            if arguments.len() < put.len() && answer != content {
                seen.wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Sends a request. Returns whether its status was 200, and what came.
fn request(minio: &Minio, object: &str, more: &[&str]) -> (bool, Vec<u8>) {
    let (user, url) = (minio.login(), minio.url(object));
    let mut arguments =
        vec!["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "-sS", "--max-time", "60", "-f"];
    arguments.extend(more);
    arguments.push(&url);
    let output = attempt(Path::new("/usr/bin/curl"), &arguments, &[]);
    (output.status.success(), output.stdout)
}
