//! The walk of `docs/vault.md` as it is written: Vault, key server and MinIO, up to an encrypted object.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kms_tests::process::kms_binary;
use kms_tests::programs::{free_port, program};
use tokio::process::Command;

const GUIDE: &str = include_str!("../../../docs/vault.md");

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_leads_to_an_encrypted_object() {
    let directory = tempfile::tempdir().unwrap();
    let programs = programs(directory.path(), "kms").await;
    let work = directory.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let output = run(&script(), &programs, &work).await;
    let text = String::from_utf8_lossy(&output.stdout);
    let logs = || logs_of(&work, &["vault.log", "kms.log", "minio.log"]);
    assert!(output.status.success(), "{text}\n{}\n{}", String::from_utf8_lossy(&output.stderr), logs());
    let encryption = text.lines().find(|line| line.trim_start().starts_with("Encryption"));
    assert!(encryption.is_some_and(|line| line.contains("SSE-")), "{text}");
    let stored = std::fs::read_to_string(work.join("vault.hcl")).unwrap();
    assert!(!holds(&work.join("minio-data"), &stored), "the object lies on the disk in the clear");
}

/// Creates a directory with the programs of a walk. This server has the name `ours` there.
pub async fn programs(directory: &Path, ours: &str) -> PathBuf {
    let programs = directory.join("bin");
    std::fs::create_dir(&programs).unwrap();
    for (name, path) in [
        (ours, tokio::task::spawn_blocking(kms_binary).await.unwrap()),
        ("vault", program("bao")),
        ("minio", program("minio")),
        ("mc", program("mc")),
    ] {
        symlink(path, programs.join(name)).unwrap();
    }
    programs
}

/// Returns the logs that a walk left in its directory.
pub fn logs_of(work: &Path, names: &[&str]) -> String {
    let logs: Vec<_> =
        names.iter().map(|name| std::fs::read_to_string(work.join(name)).unwrap_or_default()).collect();
    logs.join("\n---\n")
}

/// Returns the shell blocks of the guide as one script.
///
/// The script uses free ports and waits where a reader would.
fn script() -> String {
    let mut script = String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n");
    let guide = GUIDE.to_owned();
    let mut ports = Vec::new();
    let guide = ["8200", "8201", "7373", "9000"].iter().fold(guide, |guide, port| {
        let free = free_port().to_string();
        ports.push(free.clone());
        guide.replace(&format!(":{port}"), &format!(":{free}"))
    });
    let mut blocks = 0;
    for block in guide.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap();
        blocks += 1;
        script.push_str(block);
        let Some(started) = block.lines().last().filter(|line| line.ends_with('&')) else { continue };
        let port = match started.split_whitespace().next().unwrap() {
            "vault" => &ports[0],
            "kms" => &ports[2],
            "minio" => &ports[3],
            other => panic!("what port has {other}?"),
        };
        let wait = |until: &str| format!("for i in $(seq 300); do {until} && break; sleep 0.1; done\n");
        script.push_str(&wait(&format!("(: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null")));
        if started.starts_with("minio") {
            let login = format!("mc alias set probe http://127.0.0.1:{port} minio minio123");
            script.push_str(&wait(&format!("{login} >/dev/null 2>&1")));
        }
    }
    assert_eq!(blocks, 7, "the guide changed: look whether all of it is still run");
    script
}

/// Runs a walk, which has to end within three minutes.
pub async fn run(script: &str, programs: &Path, work: &Path) -> std::process::Output {
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let guide = Command::new("bash")
        .args(["-c", script])
        .current_dir(work)
        .env("PATH", path)
        .env("HOME", work)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(Duration::from_secs(180), guide).await.expect("the guide hangs").unwrap()
}

fn holds(directory: &Path, text: &str) -> bool {
    let found = std::process::Command::new("grep")
        .args(["-rqF", "--", text.lines().next().unwrap()])
        .arg(directory)
        .status();
    found.unwrap().success()
}
