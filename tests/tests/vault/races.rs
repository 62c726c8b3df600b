//! Sixteen processes create the same keys at the same time.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use kms_core::Kms;
use kms_tests::bao::{Bao, GUIDE_POLICY, LEAST_POLICY};
use kms_vault::{AppRole, KvVersion, Login, Secret, SecretSource, VaultConfig};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::common::{key, request, ring};

const PROCESSES: usize = 16;
/// Only one race runs at a time.
static TRACK: Mutex<()> = Mutex::const_new(());
/// The environment variable with the settings of the processes that take part.
const RACER: &str = "KMS_TEST_RACER";
/// What a process says when it is ready to begin.
const READY: &str = "ready";

#[tokio::test(flavor = "multi_thread")]
async fn on_v2_of_sixteen_processes_exactly_one_wins_each_key() {
    if let Ok(told) = std::env::var(RACER) {
        return take_part(&told).await;
    }
    let rounds = Rounds { count: 1, keys: 50, pause: Duration::ZERO };
    let won =
        race("races::on_v2_of_sixteen_processes_exactly_one_wins_each_key", KvVersion::V2, rounds).await;
    assert_eq!(won.len(), 50, "every key has a winner");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_v1_no_acknowledged_key_ever_changes() {
    if let Ok(told) = std::env::var(RACER) {
        return take_part(&told).await;
    }
    let rounds = Rounds { count: 10, keys: 20, pause: Duration::from_millis(2500) };
    let won = race("races::on_v1_no_acknowledged_key_ever_changes", KvVersion::V1, rounds).await;
    println!("{} of 200 keys have a winner", won.len());
    assert!(won.len() > 100, "only {} of 200 keys have a winner", won.len());
}

struct Rounds {
    count: u64,
    keys: u64,
    /// The time from the beginning of one round to that of the next.
    pause: Duration,
}

/// Runs a race and returns the acknowledged keys.
///
/// Each key was acknowledged to one process and has not changed since.
async fn race(test: &str, version: KvVersion, rounds: Rounds) -> BTreeMap<String, String> {
    let _track = TRACK.lock().await;
    let bao = Bao::with_kv(version).await;
    let policy = if version == KvVersion::V1 { GUIDE_POLICY } else { LEAST_POLICY };
    let Login::AppRole(AppRole { id, secret: SecretSource::Value(secret), .. }) =
        bao.approle(policy, "5m").await
    else {
        unreachable!()
    };
    let told = json!({
        "endpoint": bao.endpoint(), "id": id, "secret": secret.expose(), "v1": version == KvVersion::V1,
        "rounds": rounds.count, "keys": rounds.keys, "pause": rounds.pause.as_millis(),
    });
    let mut processes: Vec<_> = (0..PROCESSES)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture"])
                .env(RACER, told.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap()
        })
        .collect();
    for process in &mut processes {
        await_line(process.stdout.as_mut().unwrap(), READY).await;
    }
    // The end of their input is the word to begin. A time of the clock would not do: clocks are set.
    for process in &mut processes {
        drop(process.stdin.take());
    }
    let processes: Vec<_> = processes.into_iter().map(Child::wait_with_output).map(tokio::spawn).collect();
    let mut won = BTreeMap::new();
    for process in processes {
        let output = process.await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        for line in text.lines().filter_map(|line| line.split_once("won ")) {
            let (name, fingerprint) = line.1.split_once(' ').unwrap();
            let before = won.insert(name.to_owned(), fingerprint.to_owned());
            assert_eq!(before, None, "{name} was acknowledged twice");
        }
    }
    let kms = ring(bao.config(version), kms_core::CacheConfig::default());
    for (name, fingerprint) in &won {
        let stored = patiently(async || kms.describe(&request(), &key(name)).await).await;
        let stored = stored.fingerprint.unwrap();
        assert_eq!(hex::encode(stored.as_bytes()), *fingerprint, "{name} changed after it was acknowledged");
    }
    won
}

#[allow(clippy::print_stdout, reason = "the outcome goes to the process that began the race")]
async fn take_part(told: &str) {
    let told: Value = serde_json::from_str(told).unwrap();
    let (text, number) =
        (|field: &str| told[field].as_str().unwrap(), |field: &str| told[field].as_u64().unwrap());
    let version = if told["v1"] == true { KvVersion::V1 } else { KvVersion::V2 };
    let login = Login::AppRole(AppRole::new(text("id"), Secret::from(text("secret"))));
    let config = VaultConfig {
        version,
        prefix: "minio".to_owned(),
        timeout: Duration::from_secs(12),
        ..VaultConfig::new(text("endpoint"), login)
    };
    let kms = ring(config, kms_core::CacheConfig::default());
    kms.status().await.unwrap();
    println!("\n{READY}");
    tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await.unwrap().unwrap();
    let start = Instant::now();
    for round in 0..number("rounds") {
        tokio::time::sleep_until(start + Duration::from_millis(round * number("pause"))).await;
        let creates: Vec<_> = (0..number("keys"))
            .map(|n| {
                let (kms, name) = (kms.clone(), format!("race-{round}-{n}"));
                tokio::spawn(async move { kms.create(&request(), &key(&name)).await.map(|()| name) })
            })
            .collect();
        for create in creates {
            if let Ok(name) = create.await.unwrap() {
                let fingerprint = patiently(async || kms.describe(&request(), &key(&name)).await).await;
                let fingerprint = fingerprint.fingerprint.unwrap();
                println!("\nwon {name} {}", hex::encode(fingerprint.as_bytes()));
            }
        }
    }
}

/// Repeats a request while the store is not available. Sixteen processes and a Vault are a lot for a small
/// machine.
async fn patiently<T>(ask: impl AsyncFn() -> kms_core::Result<T>) -> T {
    for _ in 0..10 {
        match ask().await {
            Err(error) if error.kind().is_outage() => tokio::time::sleep(Duration::from_millis(500)).await,
            outcome => return outcome.unwrap(),
        }
    }
    panic!("no answer")
}

/// Reads from a process until it has written this line.
async fn await_line(output: &mut ChildStdout, line: &str) {
    let mut text = Vec::new();
    while !text.ends_with(format!("\n{line}\n").as_bytes()) {
        let byte = output.read_u8().await;
        text.push(byte.unwrap_or_else(|_| panic!("it ended: {}", String::from_utf8_lossy(&text))));
    }
}
