//! The walk of MinIO's guide of 2020, with this binary as `kes`.

use super::guide::{logs_of, programs, run};
use kms_tests::programs::free_port;

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_of_2020_leads_to_an_encrypted_object() {
    let directory = tempfile::tempdir().unwrap();
    let programs = programs(directory.path(), "kes").await;
    let work = directory.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let script = ["@VAULT@", "@CLUSTER@", "@KES@", "@MINIO@"]
        .iter()
        .fold(include_str!("guide_2020.sh").to_owned(), |script, name| {
            script.replace(name, &free_port().to_string())
        });
    let output = run(&script, &programs, &work).await;
    let text = String::from_utf8_lossy(&output.stdout);
    let logs = logs_of(&work, &["vault.log", "kes.log", "minio.log", "denied.txt"]);
    assert!(output.status.success(), "{text}\n{}\n{logs}", String::from_utf8_lossy(&output.stderr));
    let encryption = text.lines().find(|line| line.trim_start().starts_with("Encryption"));
    assert!(encryption.is_some_and(|line| line.contains("SSE-")), "{text}");
    assert!(logs.contains("--mlock has no effect"), "{logs}");
}
