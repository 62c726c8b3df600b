//! Records all attempts with their results, and compares them with the audit logs.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::node::Node;

/// How long before a kill a line may be missing. A line reaches the file up to 20 ms after the answer.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// A create or a delete that a client asked for.
pub struct Attempt {
    pub node: usize,
    pub path: String,
    pub began: Instant,
    pub ended: Instant,
    /// The status; `None` without an answer.
    pub code: Option<u16>,
}

#[derive(Default)]
pub struct Judge {
    wrong: Mutex<Vec<String>>,
    attempts: Mutex<Vec<Attempt>>,
    /// The paths of all creates and deletes with a known effect.
    effects: Mutex<Vec<String>>,
}

impl Judge {
    /// Records a wrong answer.
    pub fn wrong(&self, what: String) {
        eprintln!("wrong: {what}");
        self.wrong.lock().unwrap().push(what);
    }

    pub fn attempt(&self, attempt: Attempt) {
        self.attempts.lock().unwrap().push(attempt);
    }

    /// Returns whether any server was asked for this before.
    pub fn was_tried(&self, path: &str) -> bool {
        self.attempts.lock().unwrap().iter().any(|attempt| attempt.path == path)
    }

    pub fn effect(&self, path: String) {
        self.effects.lock().unwrap().push(path);
    }

    pub fn attempts(&self) -> usize {
        self.attempts.lock().unwrap().len()
    }

    /// Compares the attempts with the audit logs of the servers.
    pub fn read_audit(&self, nodes: &[Node]) {
        let mut lines: HashMap<(usize, String), Vec<u16>> = HashMap::new();
        for (number, node) in nodes.iter().enumerate() {
            for line in node.audit().lines() {
                // A kill may cut the last line.
                let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
                let path = event["request"]["path"].as_str().unwrap();
                if path.starts_with("/v1/key/create/") || path.starts_with("/v1/key/delete/") {
                    let code = u16::try_from(event["response"]["code"].as_u64().unwrap()).unwrap();
                    lines.entry((number, path.to_owned())).or_default().push(code);
                }
            }
        }
        let attempts = self.attempts.lock().unwrap();
        let mut tried: HashMap<(usize, &str), Vec<&Attempt>> = HashMap::new();
        let mut may_be_missing: HashMap<&str, bool> = HashMap::new();
        for attempt in &*attempts {
            tried.entry((attempt.node, &attempt.path)).or_default().push(attempt);
            *may_be_missing.entry(&attempt.path).or_default() |= was_killed(attempt, &nodes[attempt.node]);
        }
        for ((node, path), attempts) in &tried {
            let lines = lines.get(&(*node, (*path).to_owned())).map_or(&[][..], Vec::as_slice);
            if lines.len() > attempts.len() {
                self.wrong(format!("{path}: {} attempts are {} lines of audit", attempts.len(), lines.len()));
            }
            let answered = attempts.iter().filter(|attempt| !was_killed(attempt, &nodes[*node]));
            let mut left = lines.to_vec();
            for code in answered.filter_map(|attempt| attempt.code) {
                match left.iter().position(|line| *line == code) {
                    Some(place) => drop(left.swap_remove(place)),
                    None => self
                        .wrong(format!("{path}: {code} was answered by {node}, and audited are {lines:?}")),
                }
            }
        }
        for path in &*self.effects.lock().unwrap() {
            let is_there = (0..nodes.len()).any(|node| lines.contains_key(&(node, path.clone())));
            if !is_there && !may_be_missing.get(&**path).copied().unwrap_or_default() {
                self.wrong(format!("{path}: it had an effect, and there is no line of audit"));
            }
        }
    }

    /// Fails if anything was wrong.
    pub fn verdict(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

fn was_killed(attempt: &Attempt, node: &Node) -> bool {
    node.kills.iter().any(|kill| attempt.began <= *kill && *kill <= attempt.ended + ON_ITS_WAY)
}
