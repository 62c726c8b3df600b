//! The walk of `docs/postgres.md` as it is written: PostgreSQL, two key servers and MinIO, up to an encrypted object.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kms_tests::postgres::{give, unprivileged};
use kms_tests::process::kms_binary;
use kms_tests::programs::{free_port, program};
use tokio::process::Command;

const GUIDE: &str = include_str!("../../../docs/postgres.md");
/// The ports of the guide: PostgreSQL, the two key servers, MinIO.
const PORTS: [&str; 4] = ["5432", "7373", "7374", "9000"];
const LOGS: [&str; 6] = ["initdb.log", "pg.log", "kms-1.log", "kms-2.log", "minio.log", "schema.sql"];

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_leads_to_an_encrypted_object() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().to_owned();
    let programs = tokio::task::spawn_blocking(move || programs(&path)).await.unwrap();
    let work = directory.path().join("work");
    std::fs::create_dir(&work).unwrap();
    give(&work);
    let output = run(&script(), &programs, &work).await;
    let text = String::from_utf8_lossy(&output.stdout);
    let logs =
        || LOGS.map(|name| std::fs::read_to_string(work.join(name)).unwrap_or_default()).join("\n---\n");
    assert!(output.status.success(), "{text}\n{}\n{}", String::from_utf8_lossy(&output.stderr), logs());
    let encryption = text.lines().find(|line| line.trim_start().starts_with("Encryption"));
    assert!(encryption.is_some_and(|line| line.contains("SSE-")), "{text}");
    let stored = std::fs::read_to_string(work.join("schema.sql")).unwrap();
    assert!(!holds(&work.join("minio-data"), &stored), "the object lies on the disk in the clear");
}

/// Creates a directory with the programs of the walk, for another user.
fn programs(directory: &Path) -> PathBuf {
    let programs = directory.join("bin");
    std::fs::create_dir(&programs).unwrap();
    std::fs::copy(kms_binary(), programs.join("kms")).unwrap();
    for name in ["minio", "mc"] {
        symlink(program(name), programs.join(name)).unwrap();
    }
    let runs = program("postgres");
    for name in ["initdb", "postgres", "createdb", "psql"] {
        let path = programs.join(name);
        std::fs::write(&path, format!("#!/bin/sh\nexec \"{}\" {name} \"$@\"\n", runs.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    programs
}

/// Returns the shell blocks of the guide as one script.
///
/// The script uses free ports and waits where a reader would.
fn script() -> String {
    let mut script = String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n");
    let ports = PORTS.map(|_| free_port().to_string());
    let guide =
        PORTS.iter().zip(&ports).fold(GUIDE.to_owned(), |guide, (port, free)| guide.replace(port, free));
    let mut blocks = 0;
    for block in guide.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap();
        blocks += 1;
        script.push_str(block);
        let Some(started) = block.lines().last().filter(|line| line.ends_with('&')) else { continue };
        let port = match started.split_whitespace().next().unwrap() {
            "postgres" => &ports[0],
            "kms" => ports[1..3].iter().find(|port| started.contains(*port)).unwrap(),
            "minio" => &ports[3],
            other => panic!("what port has {other}?"),
        };
        let wait = |until: &str| format!("for i in $(seq 300); do {until} && break; sleep 0.1; done\n");
        script.push_str(&wait(&format!("(: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null")));
        if started.starts_with("postgres") {
            script.push_str(&wait(&format!("psql -h \"$PWD\" -p {port} -U postgres -c '' >/dev/null 2>&1")));
        }
        if started.starts_with("minio") {
            let login = format!("mc alias set probe http://127.0.0.1:{port} minio minio123");
            script.push_str(&wait(&format!("{login} >/dev/null 2>&1")));
        }
    }
    assert_eq!(blocks, 8, "the guide changed: look whether all of it is still run");
    script
}

/// Runs the walk as a user whom PostgreSQL accepts. It has to end within three minutes.
async fn run(script: &str, programs: &Path, work: &Path) -> std::process::Output {
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script]).current_dir(work).env_clear();
    command.env("PATH", path).env("HOME", work).env("LC_ALL", "C");
    unprivileged(&mut command);
    let guide = Command::from(command).stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(Duration::from_secs(180), guide).await.expect("the guide hangs").unwrap()
}

fn holds(directory: &Path, text: &str) -> bool {
    let line = text.lines().find(|line| line.len() > 20).unwrap();
    let found = std::process::Command::new("grep").args(["-rqF", "--", line]).arg(directory).status();
    found.unwrap().success()
}
