//! Keys that move from store to store, by a program that is killed again and again; and a MinIO that moves in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::KeyName;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, cut_off_replacements, survey};
use kms_core::transfer::{StoredKey, former_name, names};
use kms_tests::bao::Bao;
use kms_tests::moving::{Local, Sealed, checked, client};
use kms_tests::shell::{Shell, kms, text};
use kms_vault::KvVersion;
use serde_json::Value;

use super::aws;
use super::minio::{Minio, path};
use super::postgres::Store;
use super::setup::KeyServer;

/// The number of keys of the chain, of which `benches/migrate` moves more.
const KEYS: usize = 60;
/// The number of keys that take the place of others.
const REPLACED: usize = 12;
/// How often each move is killed before it may end.
const KILLS: u64 = 3;

fn wanted(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    kms_core::primitives::fill_random(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % below
}

fn vault(directory: &Path, name: &str, bao: &Bao, version: &str) -> String {
    let config = format!(
        "[keystore.vault]\nendpoint = \"{}\"\nversion = \"{version}\"\nprefix = \"minio\"\n\
         [keystore.vault.token]\nvalue = \"{}\"\n",
        bao.endpoint(),
        bao.root
    );
    let file = directory.join(name);
    fs::write(&file, config).unwrap();
    text(&file).to_owned()
}

/// Runs a command, kills it at a random moment, and returns whether it was still at work.
fn killed(arguments: &[&str], longest: Duration) -> bool {
    let mut command = Command::new(kms());
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = command.spawn().unwrap();
    let longest = u64::try_from(longest.as_millis()).unwrap();
    std::thread::sleep(Duration::from_millis(random(longest)));
    run.kill().unwrap();
    run.wait().unwrap().code().is_none()
}

/// Moves all keys, and returns how many a run found that was not killed.
fn hop(from: &str, to: &str, keys: usize, longest: Duration) -> Value {
    let arguments = ["migrate", "--quiet", "--json", "--from", from, "--to", to];
    let cut_off = (0..KILLS).filter(|_| killed(&arguments, longest)).count();
    let began = Instant::now();
    let done = Shell::default().run(&arguments);
    let report: Value = serde_json::from_str(&done.ok()).unwrap();
    let counts = &report["counts"];
    eprintln!("{from} -> {to}: {counts} in {:.1?} after {cut_off} kills at work", began.elapsed());
    assert_eq!(counts["proven"], keys, "{report}");
    report
}

/// Sled, Vault's K/V version 1, version 2, PostgreSQL, Secrets Manager, and sled again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sealed_first_opens_after_each_of_many_moves_that_were_killed() {
    let keys = wanted("KMS_MIGRATE_KEYS", KEYS);
    let dir = tempfile::tempdir().unwrap();
    let (first, last) = (Local::new(dir.path(), "first"), Local::new(dir.path(), "last"));
    let (v1, v2) = (Bao::with_kv(KvVersion::V1).await, Bao::with_kv(KvVersion::V2).await);
    let database = Store::start().await;
    let postgres = dir.path().join("postgres.toml");
    fs::write(&postgres, database.sections()).unwrap();
    let secrets = dir.path().join("aws.toml");
    fs::write(&secrets, aws::secrets_manager().0).unwrap();
    let sealed = Sealed::under_new_keys(first.open(), keys).await;
    let stores = [
        text(&first.config).to_owned(),
        vault(dir.path(), "v1.toml", &v1, "v1"),
        vault(dir.path(), "v2.toml", &v2, "v2"),
        text(&postgres).to_owned(),
        text(&secrets).to_owned(),
        text(&last.config).to_owned(),
    ];
    // Many keys are moved by a release build, which is faster.
    let scale = u64::try_from(keys.div_ceil(3 * KEYS)).unwrap();
    for (pair, longest) in stores.windows(2).zip([4000, 1000, 2000, 4000, 1000]) {
        hop(&pair[0], &pair[1], keys, Duration::from_millis(longest * scale));
    }
    assert!(sealed.len() >= 2 * keys, "{} ciphertexts", sealed.len());
    sealed.assert_opens(last.open()).await;
    eprintln!("{} ciphertexts of {} keys open", sealed.len(), sealed.keys());
}

/// Each key takes the place of another one, by a program that is killed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_gave_way_is_kept_whole_whenever_the_program_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let from = Local::new(dir.path(), "from");
    let sealed = Sealed::under_new_keys(from.open(), REPLACED).await;
    let mut targets = Vec::new();
    let mut vaults = Vec::new();
    for (name, version) in [("v1", KvVersion::V1), ("v2", KvVersion::V2)] {
        let bao = Bao::with_kv(version).await;
        let config = vault(dir.path(), &format!("{name}.toml"), &bao, name);
        targets.push((config, kms_vault::open(bao.config(version)).unwrap()));
        vaults.push(bao);
    }
    let (section, secrets) = aws::opened_secrets_manager().await;
    let config = dir.path().join("aws.toml");
    fs::write(&config, section).unwrap();
    targets.push((text(&config).to_owned(), secrets));
    for (to, store) in targets {
        let theirs = Sealed::under_new_keys(Arc::clone(&store), REPLACED).await;
        let mut former = BTreeMap::new();
        for name in names(&store).await.unwrap() {
            let fingerprint = StoredKey::read(&store, &name).await.unwrap().fingerprint();
            former.insert(name.clone(), former_name(&name, &fingerprint).unwrap());
        }
        let began = Instant::now();
        let arguments =
            ["migrate", "--force", "--yes", "--quiet", "--json", "--from", text(&from.config), "--to", &to];
        let mut cut = BTreeSet::new();
        for kills in 0..KILLS {
            // Whatever was cut off, both keys can be read, unless the name is free for a moment.
            killed(&arguments, Duration::from_millis(300 + 400 * kills));
            let left = cut_off_replacements(&store).await.unwrap();
            for name in &left {
                let kept = StoredKey::read(&store, &former[name]).await.is_ok();
                let here = StoredKey::read(&store, name).await.map(|key| key.fingerprint());
                assert!(kept || here.is_ok(), "{to}: {name} is lost");
            }
            cut.extend(left);
        }
        let done = Shell::default().run(&arguments);
        let report: Value = serde_json::from_str(&done.ok()).unwrap();
        eprintln!(
            "--force to {to}: {} in {:.1?}, {} replacements were cut off",
            report["counts"],
            began.elapsed(),
            cut.len()
        );
        assert_eq!(report["counts"]["proven"], REPLACED, "{report}");
        assert_eq!(report["cut_off"], serde_json::json!([]), "{report}");
        sealed.assert_opens(Arc::clone(&store)).await;
        theirs.assert_opens_as(Arc::clone(&store), |name| former[name].clone()).await;
        let survey = survey(&store).await.unwrap();
        assert_eq!((survey.good, survey.remnants.len(), survey.unusable.len()), (2 * REPLACED, 0, 0));
        let again: Value = serde_json::from_str(&Shell::default().run(&arguments).ok()).unwrap();
        assert_eq!(again["counts"]["present"], REPLACED, "{again}");
        // What another move left is told.
        let elsewhere = EntryName::replacing(&KeyName::new("elsewhere").unwrap());
        store.create(&elsewhere, &SecretBytes::from(b"old new".as_slice())).await.unwrap();
        let found = checked(dir.path(), Path::new(&to));
        assert!(found.contains("the replacement of key 'elsewhere' by another key was cut off"), "{found}");
    }
}

/// Versions that a server makes while its keys move are counted, and the same command brings them.
#[tokio::test(flavor = "multi_thread")]
async fn versions_that_came_meanwhile_are_told_and_moved_by_the_same_command() {
    let dir = tempfile::tempdir().unwrap();
    let to = Local::new(dir.path(), "to");
    let bao = Bao::with_kv(KvVersion::V2).await;
    let store = kms_vault::open(bao.config(KvVersion::V2)).unwrap();
    let sealed = Sealed::under_new_keys(Arc::clone(&store), KEYS).await;
    let from = vault(dir.path(), "v2.toml", &bao, "v2");
    let ends = Arc::new(AtomicBool::new(false));
    let server = tokio::spawn({
        let ends = Arc::clone(&ends);
        let client = client(store);
        async move {
            let name = KeyName::new("key-00000").unwrap();
            while !ends.load(Ordering::Relaxed) {
                client.rotate(&name).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let arguments = ["migrate", "--quiet", "--from", &from, "--to", text(&to.config)];
    let done = Shell::default().run(&[&arguments[..], &["--json"]].concat());
    ends.store(true, Ordering::Relaxed);
    server.await.unwrap();
    let report: Value = serde_json::from_str(&done.ok()).unwrap();
    assert_eq!((&report["counts"]["proven"], &report["came_meanwhile"]), (&KEYS.into(), &0.into()));
    assert!(report["versions_came_meanwhile"].as_u64().unwrap() > 0, "{report}");
    let told = Shell::default().run(&arguments).ok();
    assert!(told.contains("1 got newer versions") && !told.contains("meanwhile"), "{told}");
    sealed.assert_opens(to.open()).await;
}

/// A record of the target is changed while the move runs, and the run tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_changed_at_the_target_never_counts_as_moved() {
    let dir = tempfile::tempdir().unwrap();
    let from = Local::new(dir.path(), "from");
    let v2 = Bao::with_kv(KvVersion::V2).await;
    Sealed::under_new_keys(from.open(), 5).await;
    let (from, to) = (text(&from.config).to_owned(), vault(dir.path(), "v2.toml", &v2, "v2"));
    let arguments = ["migrate", "--json", "--from", &from, "--to", &to];
    Shell::default().run(&arguments).ok();
    // The record of another key of the same store, in the field of this one.
    let read = |name: &str| format!("kv/data/minio/{name}");
    let other = v2.ask(http::Method::GET, &read("key-00002"), Value::Null).await;
    let record = other["data"]["data"]["key-00002"].clone();
    let body = serde_json::json!({ "data": { "key-00001": record } });
    v2.ask(http::Method::POST, &read("key-00001"), body).await;
    let done = Shell::default().run(&arguments);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(
        (&report["counts"]["conflicts"], &report["counts"]["proven"]),
        (&1.into(), &4.into()),
        "{report}"
    );
    assert_eq!(report["remarks"][0]["name"], "key-00001", "{report}");
}

/// Figures for `benches/migrate`: many keys from the embedded store to Vault and back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it takes minutes, and benches/migrate runs it"]
async fn figures_of_many_keys_to_vault_and_back() {
    let keys = wanted("KMS_MIGRATE_MANY", 10_000);
    let dir = tempfile::tempdir().unwrap();
    let (first, last) = (Local::new(dir.path(), "first"), Local::new(dir.path(), "last"));
    let v2 = Bao::with_kv(KvVersion::V2).await;
    let store = first.open();
    let client = client(std::sync::Arc::clone(&store));
    for n in 0..keys {
        client.create(&KeyName::new(format!("key-{n:05}")).unwrap()).await.unwrap();
    }
    drop((client, store));
    let v2 = vault(dir.path(), "v2.toml", &v2, "v2");
    let sides = [(text(&first.config), v2.as_str()), (v2.as_str(), text(&last.config))];
    for (from, to) in sides {
        for what in ["first run", "second run"] {
            let began = Instant::now();
            let done = Shell::default().run(&["migrate", "--quiet", "--json", "--from", from, "--to", to]);
            let report: Value = serde_json::from_str(&done.ok()).unwrap();
            let (seconds, counts) = (began.elapsed().as_secs_f64(), &report["counts"]);
            assert_eq!(counts["proven"], keys, "{report}");
            #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
            let rate = keys as f64 / seconds;
            eprintln!("{from} -> {to}, {what}: {seconds:.1} s, {rate:.0} keys a second, {counts}");
        }
    }
}

#[test]
fn a_minio_on_its_static_key_moves_in_with_objects_users_config_and_sessions() {
    let mut bytes = [0; 32];
    kms_core::primitives::fill_random(&mut bytes).unwrap();
    let static_key = format!("minio-default:{}", STANDARD.encode(bytes));
    let mut minio = Minio::start_on_static_key(&static_key, "someone", "a-long-password");
    minio.mc(&["mb", "s3/sse-s3"]);
    minio.mc(&["encrypt", "set", "sse-s3", "s3/sse-s3"]);
    let file = minio.file("file", 1 << 20);
    minio.mc(&["cp", &path(&file), "s3/sse-s3/old"]);
    minio.mc(&["admin", "user", "add", "s3", "other", "another-password"]);
    minio.mc(&["admin", "config", "set", "s3", "scanner", "speed=slow"]);
    let session = minio.session("someone", "a-long-password");
    let goes_on = |minio: &Minio| minio.attempt_as(&session, &["cat", "s3/sse-s3/old"]).status.success();
    assert!(goes_on(&minio), "before the move");

    for keeps_hmac in [true, false] {
        let of_keys = ["create", "describe", "generate", "decrypt", "hmac"]
            .map(|what| format!("/v1/key/{what}/minio-*"));
        let allow: Vec<_> = ["/v1/status", "/v1/api", "/v1/key/list/*"]
            .into_iter()
            .chain(of_keys.iter().map(String::as_str))
            .collect();
        let mut keys = KeyServer::start(&allow, &[]);
        keys.stop();
        let config = path(&keys.ca().with_file_name("config.toml"));
        let arguments = ["migrate", "--from-static", "--to", &config];
        let more: &[&str] = if keeps_hmac { &["--keep-hmac"] } else { &[] };
        Shell::default().set("MINIO_KMS_SECRET_KEY", &static_key).run(&[&arguments, more].concat()).ok();
        keys.restart();
        minio.restart(&keys);
        assert!(minio.get("s3/sse-s3/old") == fs::read(&file).unwrap(), "HMAC kept: {keeps_hmac}");
        minio.mc(&["cp", &path(&file), "s3/sse-s3/new"]);
        assert!(minio.get("s3/sse-s3/new") == fs::read(&file).unwrap(), "HMAC kept: {keeps_hmac}");
        let users = minio.mc(&["admin", "user", "ls", "s3"]);
        assert!(users.contains("someone") && users.contains("other"), "{users}");
        let scanner = minio.mc(&["admin", "config", "get", "s3", "scanner"]);
        assert!(scanner.contains("speed=slow"), "{scanner}");
        assert_eq!(goes_on(&minio), keeps_hmac, "a session is signed with a key that comes from an HMAC");
        minio.stop();
    }
}
