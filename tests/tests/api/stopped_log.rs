//! Logs that nobody reads any more, and readers that are too slow.

use std::io::Read as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use kms_tests::process::ConfigServer;
use kms_tests::{Protocol, TestIdentity, TestServer};

/// stderr is a pipe that nobody reads. A known client causes more lines than may wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_stderr_holds_up_nobody_and_the_log_tells_what_it_left_out() {
    const REFUSED: usize = 20_000;
    let denied = TestIdentity::new();
    let policy = format!("[policy.status]\nallow = ['/v1/status']\nidentities = ['{}']\n", denied.identity());
    let mut server = ConfigServer::start(&policy, Stdio::piped());
    let mut stderr = server.take_stderr();
    let tasks = (0..4).map(|task| {
        let mut client = server.client(Protocol::Http2, &denied);
        let filler = "x".repeat(1000);
        tokio::spawn(async move {
            for number in 0..REFUSED / 4 {
                let path = format!("/v1/key/create/{task}-{number}-{filler}");
                assert_eq!(client.send("PUT", &path, "").await.unwrap().code(), 403);
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        // Each request opens a new connection.
        let mut good = server.client(Protocol::Http2, server.admin_identity());
        let asked = good.send("GET", "/v1/status", "");
        let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
        assert_eq!(answer.expect("nobody waits for the log").unwrap().code(), 200);
    }
    for task in tasks {
        task.await.unwrap();
    }
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    assert!(server.stop().success());
    let text = reader.join().unwrap();
    let told = text.lines().find_map(|line| line.split_once("WARN ")?.1.split_once(" lines were left out"));
    let told: usize = told.expect("what was left out is told").0.parse().unwrap();
    let lines = text.lines().filter(|line| line.contains("not authorized")).count();
    let lines_beside = text.lines().count() - lines;
    assert!(told > 1000 && lines + told >= REFUSED, "{lines} lines and {told} left out");
    assert!(lines + told <= REFUSED + lines_beside, "{lines} lines and {told} left out");
    assert!(text.lines().all(|line| line.len() < 1000), "paths are cut");
}

/// A process ends on request even if nobody reads its stderr.
#[test]
fn a_server_whose_stderr_is_stopped_ends() {
    let mut server = ConfigServer::start("", Stdio::piped());
    let _unread = server.take_stderr();
    assert!(server.stop().success());
}

/// A replication goes on with a key that it may not use. The log has one line, and later their number.
#[tokio::test]
async fn equal_refusals_of_one_client_are_merged() {
    let denied = TestIdentity::new();
    let policy = format!("[policy.status]\nallow = ['/v1/status']\nidentities = ['{}']\n", denied.identity());
    let mut server = ConfigServer::start(&policy, Stdio::piped());
    let mut stderr = server.take_stderr();
    for _ in 0..5 {
        let mut client = server.client(Protocol::Http1, &denied);
        for _ in 0..100 {
            let path = "/v1/key/decrypt/x%1B%5B2J%0Aforged%E2%80%AE";
            assert_eq!(client.send("POST", path, "{}").await.unwrap().code(), 403);
        }
    }
    assert!(server.stop().success());
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("not authorized")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("/v1/key/decrypt/x\\u{1b}[2J\\nforged\\u{202e}"), "{text}");
    assert!(lines[1].contains("(499 more times in "), "{text}");
    assert!(!text.contains('\x1b'), "no terminal is told what to do");
}

/// Readers of a log that do not read cost the server little and do not affect others.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_are_too_slow_are_cut_off() {
    let (reader, other) = (TestIdentity::new(), TestIdentity::new());
    let rules = [reader.identity(), other.identity()];
    let server = TestServer::builder().policy("log", &["/v1/log/*"], &[], &rules).key("my-key").start().await;
    let mut slow = Vec::new();
    let mut client = server.client(Protocol::Http2, &reader);
    for _ in 0..8 {
        slow.push(client.open("/v1/log/audit").await.unwrap().into_body());
    }
    let refused = client.send("GET", "/v1/log/audit", "").await.unwrap();
    assert_eq!(
        (refused.code(), refused.member("message")),
        (503, "too many readers of the log by this identity".to_owned())
    );
    let mut good = server.client(Protocol::Http1, &other);
    let mut followed = good.open("/v1/log/audit").await.unwrap().into_body();
    let lines = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lines);
    let following = tokio::spawn(async move {
        while let Some(Ok(frame)) = followed.frame().await {
            let data = frame.into_data().unwrap();
            counted.fetch_add(data.split(|&byte| byte == b'\n').count() - 1, Ordering::Relaxed);
        }
    });
    let mut admin = server.admin(Protocol::Http2);
    let path = format!("/v1/key/generate/{}", "&".repeat(2000));
    for round in 1..=15 {
        for _ in 0..200 {
            assert_eq!(admin.send("POST", &path, "{}").await.unwrap().code(), 400);
        }
        let has_all = async {
            while lines.load(Ordering::Relaxed) < 200 * round {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), has_all).await.expect("who reads gets every line");
    }
    // The server has freed the places of the readers that it cut off.
    let again = client.open("/v1/log/audit").await.unwrap();
    assert_eq!(again.status(), 200);
    for body in slow {
        let rest =
            tokio::time::timeout(Duration::from_secs(10), body.collect()).await.expect("the stream ends");
        let rest = rest.unwrap().to_bytes();
        assert!(rest.len() < 3 << 20 && rest.ends_with(b"\n"), "{} bytes, to the end of a line", rest.len());
    }
    drop(again);
    server.stop().await;
    following.await.unwrap();
}
