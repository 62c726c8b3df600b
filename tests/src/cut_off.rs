//! Clients hang up at random moments during creates and deletes. The audit log and the metrics still have
//! every effect.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::client::tls_connect;
use crate::{Client, Protocol, TestServer};

/// How many creates and how many deletes there are.
const EFFECTS: usize = 200;
/// How many clients there are at once.
const CLIENTS: usize = 8;
/// How many creates and deletes say how long one lasts.
const TIMED: usize = 32;
/// How many requests have to be cut off during their effect. With fewer the test proves nothing.
const MIN_UNHEARD: usize = 5;

/// A server whose clients hang up.
pub struct CutOff<'a> {
    /// The server.
    pub server: &'a TestServer,
    /// The file of its audit log.
    pub audit_file: &'a Path,
}

/// The lines of an audit log by path. Each has the status and whether the answer was sent.
type Lines = HashMap<String, Vec<(u64, bool)>>;

impl CutOff<'_> {
    /// Cuts off creates and deletes, and checks what the server recorded.
    ///
    /// Each request that took effect has one line and one count; `is_there` says which keys exist. No deleted
    /// key seals.
    pub async fn check(&self, is_there: impl AsyncFn(&str) -> bool) {
        let timed = names("timed", TIMED);
        let create = self.patience("PUT", "/v1/key/create/", &timed).await;
        let delete = self.patience("DELETE", "/v1/key/delete/", &timed).await;
        let made = names("made", EFFECTS);
        self.cut_off("PUT", "/v1/key/create/", &made, create).await;
        let lines = self.lines_at_rest().await;
        let mut there = 0;
        for name in &made {
            let told = lines.get(&format!("/v1/key/create/{name}")).cloned().unwrap_or_default();
            let is_there = is_there(name).await;
            there += usize::from(is_there);
            assert!(told.len() <= 1, "{name}: {told:?}");
            assert_eq!(told.iter().any(|(code, _)| *code == 200), is_there, "{name}: {told:?}");
        }
        let unheard = unheard(&lines);
        tell(&format!("{there} of {EFFECTS} creates took effect, {unheard} of them unheard"));
        assert!(unheard >= MIN_UNHEARD, "only {unheard} creates were cut off while they were under way");
        self.assert_counted(&lines).await;

        let mut client = self.server.admin(Protocol::Http2);
        let gone = names("gone", EFFECTS);
        self.make(&gone).await;
        self.cut_off("DELETE", "/v1/key/delete/", &gone, delete).await;
        let lines = self.lines_at_rest().await;
        let mut left = 0;
        for name in &gone {
            let told = lines.get(&format!("/v1/key/delete/{name}")).cloned().unwrap_or_default();
            let is_there = is_there(name).await;
            left += usize::from(is_there);
            assert!(told.len() <= 1, "{name}: {told:?}");
            assert_eq!(told.iter().any(|(code, _)| *code == 200), !is_there, "{name}: {told:?}");
            let seals = code(&mut client, "PUT", &format!("/v1/key/generate/{name}")).await;
            assert_eq!(seals == 200, is_there, "{name}: {seals}, {told:?}");
        }
        let all = self.lines_at_rest().await;
        let (gone, unheard_deletes) = (EFFECTS - left, crate::cut_off::unheard(&all) - unheard);
        tell(&format!("{gone} of {EFFECTS} deletes took effect, {unheard_deletes} of them unheard"));
        assert!(unheard_deletes >= MIN_UNHEARD, "few deletes were cut off under way");
        self.assert_counted(&all).await;
    }

    /// Sends requests without interruption, and returns the longest time that a client should wait.
    ///
    /// The time comes from this server on this machine, because a store takes many times as long under load. A
    /// client that waits for at most one and a half times the median leaves most requests under way.
    async fn patience(&self, method: &'static str, route: &'static str, names: &[String]) -> Duration {
        let tasks: Vec<_> = names
            .chunks(names.len().div_ceil(CLIENTS))
            .map(|names| {
                let (names, mut client) = (names.to_vec(), self.server.admin(Protocol::Http2));
                tokio::spawn(async move {
                    client.connect().await.unwrap();
                    let mut took = Vec::new();
                    for name in names {
                        let began = Instant::now();
                        assert_eq!(code(&mut client, method, &format!("{route}{name}")).await, 200);
                        took.push(began.elapsed());
                    }
                    took
                })
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await.unwrap());
        }
        took.sort_unstable();
        let patience = took[took.len() / 2].mul_f64(1.5);
        tell(&format!("a client waits up to {patience:?} for a {method}"));
        patience
    }

    /// Creates keys without interruption and uses each of them once.
    async fn make(&self, names: &[String]) {
        let tasks: Vec<_> = names
            .chunks(names.len().div_ceil(CLIENTS))
            .map(|names| {
                let (names, mut client) = (names.to_vec(), self.server.admin(Protocol::Http2));
                tokio::spawn(async move {
                    for name in names {
                        for path in ["/v1/key/create/", "/v1/key/generate/"] {
                            assert_eq!(code(&mut client, "PUT", &format!("{path}{name}")).await, 200);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    /// Sends one request for each name and leaves at a random moment.
    ///
    /// Half of the clients reset the stream, and half close the connection.
    async fn cut_off(&self, method: &'static str, route: &'static str, names: &[String], longest: Duration) {
        let tasks: Vec<_> = names
            .chunks(names.len().div_ceil(CLIENTS))
            .map(|names| {
                let names = names.to_vec();
                let mut http2 = self.server.admin(Protocol::Http2);
                let config = Arc::new(self.server.admin_identity().client_config(&["http/1.1"]));
                let address = self.server.address();
                tokio::spawn(async move {
                    for (n, name) in names.iter().enumerate() {
                        let path = format!("{route}{name}");
                        let patience = random_below(longest);
                        if n % 2 == 0 {
                            if !http2.is_connected() {
                                http2.connect().await.unwrap();
                            }
                            let _ = tokio::time::timeout(patience, http2.send(method, &path, "")).await;
                        } else {
                            let mut tls = tls_connect(address, Arc::clone(&config)).await.unwrap();
                            let head =
                                format!("{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
                            tls.write_all(head.as_bytes()).await.unwrap();
                            tls.flush().await.unwrap();
                            tokio::time::sleep(patience).await;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    /// Waits until the audit log does not grow any more, and returns its lines.
    async fn lines_at_rest(&self) -> Lines {
        let (mut text, mut since) = (String::new(), Instant::now());
        while since.elapsed() < Duration::from_millis(700) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = std::fs::read_to_string(self.audit_file).unwrap();
            if now != text {
                (text, since) = (now, Instant::now());
            }
        }
        let mut lines = Lines::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let (path, answer) = (line["request"]["path"].as_str().unwrap(), &line["response"]);
            let told = (answer["code"].as_u64().unwrap(), answer["sent"].as_bool().unwrap_or(true));
            lines.entry(path.to_owned()).or_default().push(told);
        }
        lines
    }

    /// Checks that the metrics count as many requests about keys as the log has lines. All clients here are
    /// known.
    async fn assert_counted(&self, lines: &Lines) {
        let mut client = self.server.admin(Protocol::Http2);
        let text = client.send("GET", "/v1/metrics", "").await.unwrap().text().to_owned();
        let counters = ["kes_http_request_success", "kes_http_request_error", "kes_http_request_failure"];
        let counts = text.lines().filter(|line| counters.iter().any(|counter| line.starts_with(counter)));
        let counted: u64 = counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        let of_keys = lines.iter().filter(|(path, _)| path.starts_with("/v1/key/"));
        let told: usize = of_keys.map(|(_, lines)| lines.len()).sum();
        assert_eq!(counted, told as u64, "counts and lines differ: {text}");
    }
}

#[expect(clippy::print_stdout, reason = "the output of a test")]
fn tell(what: &str) {
    println!("{what}");
}

fn names(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what}-{n}")).collect()
}

fn unheard(lines: &Lines) -> usize {
    lines.values().flatten().filter(|(code, sent)| *code == 200 && !sent).count()
}

async fn code(client: &mut Client, method: &str, path: &str) -> u16 {
    client.send(method, path, "").await.unwrap().code()
}

/// Draws a random time below `longest`. The clock is the seed.
fn random_below(longest: Duration) -> Duration {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let seed = u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    let state = STATE.fetch_add(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, Ordering::Relaxed);
    longest.mul_f64(f64::from(u32::try_from(state >> 32).unwrap()) / f64::from(u32::MAX))
}
