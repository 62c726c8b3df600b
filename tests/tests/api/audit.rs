//! The audit log on the disk: nothing that a known client asked is missing in it.

use std::collections::HashMap;

use kms_server::config::settings::AuditFailure;
use kms_tests::{Protocol, TestIdentity, TestServer};
use serde_json::Value;

const CLIENTS: usize = 10;
const REQUESTS: usize = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_requests_are_fifty_thousand_lines() {
    let stranger = TestIdentity::new();
    let mut builder = TestServer::builder();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    builder.settings.log.audit_file = Some(file.clone());
    let server = builder.key("my-key").start().await;
    let clients = (0..CLIENTS).map(|number| match number % 2 {
        0 => (server.admin(Protocol::Http2), 200),
        _ => (server.client(Protocol::Http1, &stranger), 403),
    });
    let tasks: Vec<_> = clients
        .map(|(mut client, code)| {
            tokio::spawn(async move {
                for _ in 0..REQUESTS {
                    let answer = client.send("POST", "/v1/key/generate/my-key", "{}").await.unwrap();
                    assert_eq!(answer.code(), code);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (admin, stranger) = (server.admin_identity().identity().to_string(), stranger.identity().to_string());
    server.stop().await;
    let mut counted: HashMap<(String, u64), usize> = HashMap::new();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let identity = event["request"]["identity"].as_str().unwrap().to_owned();
        *counted.entry((identity, event["response"]["code"].as_u64().unwrap())).or_default() += 1;
    }
    let half = CLIENTS / 2 * REQUESTS;
    assert_eq!(counted, HashMap::from([((admin, 200), half), ((stranger, 403), half)]));
}

#[tokio::test]
async fn requests_are_refused_while_they_cannot_be_recorded_if_so_told() {
    for (on_failure, code) in [(AuditFailure::Refuse, 503), (AuditFailure::Drop, 200)] {
        let mut builder = TestServer::builder();
        builder.settings.log.audit_file = Some("/dev/full".into());
        builder.settings.log.audit_failure = on_failure;
        let server = builder.key("my-key").start().await;
        let mut admin = server.admin(Protocol::Http2);
        let mut ask = async || admin.send("POST", "/v1/key/generate/my-key", "{}").await.unwrap().code();
        ask().await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(ask().await, code, "{on_failure:?}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_told_at_the_start() {
    let mut builder = TestServer::builder();
    builder.settings.log.audit_file = Some("/nowhere/audit.log".into());
    let error = builder.try_start().await.err().unwrap().to_string();
    assert!(error.contains("log.audit_file") && error.contains("/nowhere/audit.log"), "{error}");
}

/// A log that takes nothing does not fail either: a pipe that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stalled_log_cannot_take_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("audit.pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let held = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let mut builder = TestServer::builder();
    builder.settings.log.audit_file = Some(pipe);
    builder.settings.log.audit_failure = AuditFailure::Refuse;
    let server = builder.key("my-key").start().await;
    let clients = (0..8).map(|_| {
        let mut client = server.admin(Protocol::Http2);
        tokio::spawn(async move {
            let mut answered = 0;
            loop {
                match client.send("POST", "/v1/key/generate/my-key", "{}").await.unwrap().code() {
                    200 => answered += 1,
                    code => return (answered, code),
                }
            }
        })
    });
    let mut answered = 0;
    for client in clients.collect::<Vec<_>>() {
        let (count, code) = client.await.unwrap();
        assert_eq!(code, 503);
        answered += count;
    }
    let reader = std::thread::spawn(move || {
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(held));
        let of_answers = lines.by_ref().filter(|line| line.as_ref().unwrap().contains("\"code\":200"));
        of_answers.take(answered).count()
    });
    assert_eq!(reader.join().unwrap(), answered, "each answer has its line");
    server.stop().await;
}
