//! The audit log on the disk has every request of a known client.

use std::collections::HashMap;
use std::io::Read as _;
use std::time::Duration;

use kms_server::settings::AuditFailure;
use kms_tests::{Protocol, TestIdentity, TestServer};
use serde_json::Value;

const CLIENTS: usize = 10;
const REQUESTS: usize = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_requests_are_fifty_thousand_lines() {
    let denied = TestIdentity::new();
    let mut builder = TestServer::builder().policy("status", &["/v1/status"], &[], &[denied.identity()]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    builder.settings.log.audit_file = Some(file.clone());
    let server = builder.key("my-key").start().await;
    let clients = (0..CLIENTS).map(|number| match number % 2 {
        0 => (server.admin(Protocol::Http2), 200),
        _ => (server.client(Protocol::Http1, &denied), 403),
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
    let (admin, denied) = (server.admin_identity().identity().to_string(), denied.identity().to_string());
    server.stop().await;
    let mut counted: HashMap<(String, u64), usize> = HashMap::new();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let identity = event["request"]["identity"].as_str().unwrap().to_owned();
        *counted.entry((identity, event["response"]["code"].as_u64().unwrap())).or_default() += 1;
    }
    let half = CLIENTS / 2 * REQUESTS;
    assert_eq!(counted, HashMap::from([((admin, 200), half), ((denied, 403), half)]));
}

/// Strangers cannot fill the disk. The log cuts their paths, limits the number of their lines, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_fill_no_log() {
    let stranger = TestIdentity::new();
    let mut builder = TestServer::builder();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    builder.settings.log.audit_file = Some(file.clone());
    let server = builder.key("my-key").start().await;
    let path = format!("/v1/key/create/{}", "%26".repeat(5_000));
    let mut client = server.client(Protocol::Http2, &stranger);
    for _ in 0..1000 {
        assert_eq!(client.send("PUT", &path, "").await.unwrap().code(), 403);
    }
    let mut admin = server.admin(Protocol::Http2);
    assert_eq!(admin.send("PUT", &path, "").await.unwrap().code(), 400);
    server.stop().await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.len() < 1 << 20, "{} bytes for 1001 requests of 15 kB", text.len());
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_stranger = |event: &&Value| event["request"]["identity"] == stranger.identity().to_string();
    let lines = events.iter().filter(of_stranger).count();
    let left_out: u64 = events.iter().filter_map(|event| event["left_out"]["strangers"].as_u64()).sum();
    assert_eq!(lines as u64 + left_out, 1000, "each request is a line or counted");
    let of_admin = events.iter().find(|event| event["response"]["code"] == 400).unwrap();
    assert_eq!(of_admin["request"]["path_bytes_cut"], 15 + 5_000 - 512);
}

#[tokio::test]
async fn requests_are_refused_while_they_cannot_be_recorded_if_so_told() {
    for (on_failure, code) in [(AuditFailure::Refuse, 503), (AuditFailure::Drop, 200)] {
        let mut builder = TestServer::builder();
        builder.settings.log.audit_file = Some("/dev/full".into());
        builder.settings.log.audit_failure = on_failure;
        builder.settings.probes = Some(([127, 0, 0, 1], 0).into());
        let server = builder.key("my-key").start().await;
        let mut admin = server.admin(Protocol::Http2);
        let mut ask = async || admin.send("POST", "/v1/key/generate/my-key", "{}").await.unwrap().code();
        ask().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(ask().await, code, "{on_failure:?}");
        // A load balancer sees it as well: the probe has the same status.
        let probe = crate::probes::get(server.probes_address().unwrap(), "/v1/ready").await;
        assert!(probe.starts_with(&format!("HTTP/1.1 {code} ")), "{on_failure:?}: {probe}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_told_at_the_start() {
    let mut builder = TestServer::builder();
    builder.settings.log.audit_file = Some("/nowhere/audit.log".into());
    let error = builder.try_start().await.err().unwrap().to_string();
    assert!(error.contains("log.audit_file") && error.contains("/nowhere/audit.log"), "{error}");
}

/// A pipe that nobody reads takes nothing and reports no error.
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

/// The log stops again and again for longer than allowed. Each answered request has its line, and each other
/// one gets 503.
#[tokio::test(flavor = "multi_thread")]
async fn in_ten_thousand_requests_no_answer_is_without_its_line() {
    const REQUESTS: usize = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("audit.pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut builder = TestServer::builder();
    builder.settings.log.audit_file = Some(pipe.clone());
    builder.settings.log.audit_failure = AuditFailure::Refuse;
    builder.settings.probes = Some(([127, 0, 0, 1], 0).into());
    let server = builder.key("my-key").start().await;
    let mut admin = server.admin(Protocol::Http2);
    let early = admin.send("POST", "/v1/key/generate/my-key", "{}").await.unwrap();
    assert_eq!(early.code(), 503, "nobody reads the pipe");

    let reader = std::thread::spawn(move || {
        let (mut pipe, mut text, mut pauses) = (std::fs::File::open(&pipe).unwrap(), Vec::new(), 0);
        let mut buffer = vec![0; 16 << 10];
        loop {
            match pipe.read(&mut buffer).unwrap() {
                0 => return text,
                count => text.extend_from_slice(&buffer[..count]),
            }
            if text.len() > (pauses + 1) << 19 && pauses < 3 {
                pauses += 1;
                std::thread::sleep(Duration::from_secs(3));
            }
        }
    });
    let clients = (0..16).map(|number| {
        let mut client = server.admin(if number % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 });
        tokio::spawn(async move {
            let (mut answered, mut refused) = (0, 0);
            for at in 0..REQUESTS / 16 {
                let (method, path) = match at % 4 {
                    0 => ("PUT", format!("/v1/key/create/key-{number}-{at}")),
                    _ => ("POST", "/v1/key/generate/my-key".to_owned()),
                };
                match client.send(method, &path, if at % 4 == 0 { "" } else { "{}" }).await.unwrap().code() {
                    200 => answered += 1,
                    503 => {
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    code => panic!("{code}"),
                }
            }
            (answered, refused)
        })
    });
    let (mut answered, mut refused) = (0, 1);
    for client in clients.collect::<Vec<_>>() {
        let (some, others) = client.await.unwrap();
        (answered, refused) = (answered + some, refused + others);
    }
    let metrics = crate::probes::get(server.probes_address().unwrap(), "/metrics").await;
    let counted = |family: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(family)).unwrap();
        line.trim().parse::<usize>().unwrap()
    };
    assert_eq!(counted("kes_http_request_success{code=\"200\"}"), answered, "{metrics}");
    assert_eq!(counted("kms_requests_unrecorded_total "), refused, "{metrics}");
    server.stop().await;
    let text = String::from_utf8(reader.join().unwrap()).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines = events.iter().filter(|event| event["response"]["code"] == 200).count();
    let told: u64 = events.iter().filter_map(|event| event["left_out"]["refused"].as_u64()).sum();
    let told = usize::try_from(told).unwrap();
    assert!(answered > REQUESTS / 2 && refused > 16, "{answered} answered, {refused} refused");
    assert!(lines >= answered, "{lines} lines of {answered} answers");
    // A request whose line already waited when the log stalled was refused. The line was written later all
    // the same.
    let of_refused = lines - answered;
    assert!(of_refused <= 16 * 4 + 1 && told + of_refused == refused, "{told} and {of_refused} of {refused}");
}
