//! MinIO on three key servers and one Vault, while its key is rotated, its objects are moved, and an old version is retired.
//!
//! `KMS_ROTATIONS` sets the number of rotations, one in 5 s.

use std::env;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kms_tests::bao::{Bao, LEAST_POLICY};
use kms_tests::shell::kms;
use kms_vault::{AppRole, KvVersion, Login, SecretSource};
use serde_json::Value;

use super::minio::{Minio, path};
use super::setup::{KeyServer, attempt, text};

const ALLOW: [&str; 5] = [
    "/v1/status",
    "/v1/key/create/minio-*",
    "/v1/key/describe/minio-*",
    "/v1/key/generate/minio-*",
    "/v1/key/decrypt/minio-*",
];
const KEY: &str = "minio-default";
const INTERVAL: Duration = Duration::from_secs(5);

#[test]
fn under_rotation_no_request_fails_and_objects_move_and_an_old_version_is_retired() {
    let rotations = env::var("KMS_ROTATIONS").ok().and_then(|number| number.parse().ok()).unwrap_or(4);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bao, login) = runtime.block_on(async {
        let bao = Bao::with_kv(KvVersion::V2).await;
        let login = bao.approle(LEAST_POLICY, "5m").await;
        (bao, login)
    });
    let Login::AppRole(AppRole { id, secret: SecretSource::Value(secret), .. }) = login else {
        unreachable!()
    };
    let key_store = format!(
        "[cache.expiry]\nany = \"2s\"\n[keystore.vault]\nendpoint = \"{}\"\nversion = \"v2\"\nprefix = \"minio\"\n\
         [keystore.vault.approle]\nid = \"{id}\"\nsecret = \"{}\"\n",
        bao.endpoint(),
        secret.expose()
    );
    let first =
        KeyServer::start_on(tempfile::tempdir().unwrap(), &key_store, "vault: keys: 0 at", &ALLOW, &[]);
    let others = [(); 2].map(|()| first.start_beside(&key_store, "vault: keys: ", &ALLOW, &[]));
    let endpoints: Vec<_> = others.iter().map(KeyServer::endpoint).collect();
    let servers = [&first, &others[0], &others[1]].map(KeyServer::endpoint).join(",");
    let mut minio = Minio::start_with(&first, endpoints);
    minio.mc(&["mb", "s3/bucket"]);
    minio.mc(&["encrypt", "set", "sse-kms", KEY, "s3/bucket"]);
    let file = minio.file("file", 5000);
    let content = fs::read(&file).unwrap();

    // Objects are written and read all the time.
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for writer in 0..2 {
            let (minio, stop, written, file, content) = (&minio, &stop, &written, &file, &content);
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let object = format!("s3/bucket/{writer}-{n}");
                    minio.mc(&["cp", &path(file), &object]);
                    assert!(minio.get(&object) == *content, "{object}");
                    assert!(minio.get(&format!("s3/bucket/{writer}-{}", n / 2)) == *content, "an older one");
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 0..rotations {
            thread::sleep(INTERVAL);
            let rotated = [&first, &others[0], &others[1]][n % 3].admin(&["key", "rotate", KEY]);
            assert!(rotated.contains(&format!("Version {}", n + 2)), "{rotated}");
        }
        thread::sleep(INTERVAL);
        stop.store(true, Ordering::Relaxed);
    });
    let newest = u32::try_from(rotations).unwrap() + 1;
    let all_come_back = |minio: &Minio| {
        let copies = tempfile::tempdir().unwrap();
        minio.mc(&["mirror", "s3/bucket", &path(copies.path())]);
        let mut objects = 0;
        for copy in fs::read_dir(copies.path()).unwrap() {
            let copy = copy.unwrap().path();
            assert!(fs::read(&copy).unwrap() == content, "{}", copy.display());
            objects += 1;
        }
        assert_eq!(objects, written.load(Ordering::Relaxed));
    };
    all_come_back(&minio);
    println!("{} objects under {newest} versions, no failed request", written.load(Ordering::Relaxed));

    // A batch job under the same name of the key moves all objects to the newest version.
    let job = minio.file("keyrotate.yaml", 0);
    fs::write(
        &job,
        format!("keyrotate:\n  apiVersion: v1\n  bucket: bucket\n  encryption:\n    type: sse-kms\n    key: {KEY}\n"),
    )
    .unwrap();
    first.admin(&["key", "rotate", KEY, "--wait"]);
    let newest = newest + 1;
    let started = minio.mc(&["batch", "start", "s3", &path(&job), "--json"]);
    let id = serde_json::from_str::<Value>(&started).unwrap()["result"]["id"].as_str().unwrap().to_owned();
    let began = Instant::now();
    while !is_complete(&minio, &id) {
        assert!(began.elapsed() < Duration::from_secs(300), "the job does not end");
        thread::sleep(Duration::from_millis(200));
    }
    let before = opened(&first, &servers, newest);
    all_come_back(&minio);
    let after = opened(&first, &servers, newest);
    assert_eq!(before[..before.len() - 1], after[..after.len() - 1], "nothing needs an old version");
    assert!(after.last() > before.last(), "the newest one opens: {before:?}, {after:?}");

    // MinIO's own config is still sealed under version 1.
    first.admin(&["key", "retire", KEY, "--version", "1", "--unused-for", "0s", "--server", &servers]);
    thread::sleep(Duration::from_secs(3));
    all_come_back(&minio);
    minio.restart_until_told(&first, "failed to decrypt ciphertext");
    let hint = "key version is disabled; 'kms key enable minio-default --version 1' brings it back";
    let logs = [&first, &others[0], &others[1]]
        .map(|server| fs::read_to_string(server.dir.path().join("server.log")).unwrap());
    assert!(logs.iter().any(|log| log.contains(hint)), "{logs:?}");
    first.admin(&["key", "enable", KEY, "--version", "1"]);
    thread::sleep(Duration::from_secs(3));
    minio.restart(&first);
    all_come_back(&minio);
}

fn is_complete(minio: &Minio, id: &str) -> bool {
    let told = text(&minio.attempt(&["batch", "status", "s3", id, "--json"]));
    told.lines().any(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        line.to_string().contains("\"complete\":true")
    })
}

/// Returns how often each version was opened, on all servers.
fn opened(server: &KeyServer, servers: &str, newest: u32) -> Vec<u64> {
    let ca = server.ca().display().to_string();
    let env = [("KES_API_KEY", &*server.admin_key), ("KES_CA_CERT", &*ca)];
    let info = text(&attempt(kms(), &["key", "info", KEY, "--server", servers], &env));
    let counts: Vec<u64> = info
        .lines()
        .filter_map(|line| {
            line.strip_prefix("Version ")?.split("opened ").nth(1)?.split([',', ';']).next()?.parse().ok()
        })
        .collect();
    assert_eq!(counts.len(), newest as usize, "{info}");
    counts
}
