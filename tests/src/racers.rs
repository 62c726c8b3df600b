//! Races of processes: each is this very test binary, which runs one test of it again.

use std::collections::BTreeMap;
use std::process::Stdio;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdout, Command};

/// What a process says when it is ready to begin.
const READY: &str = "ready";

/// Runs `test` in a process for each of `told`, which is in its environment variable `variable`. All begin at once.
///
/// Returns the names that were won, with what the winner said of each. No name has two winners.
pub async fn race(
    test: &str,
    variable: &str,
    told: impl Iterator<Item = String>,
) -> BTreeMap<String, String> {
    let begin = |told: String| {
        Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(variable, told)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let mut processes: Vec<_> = told.map(begin).collect();
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
        let written = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{written}\n{}", String::from_utf8_lossy(&output.stderr));
        for line in written.lines().filter_map(|line| line.split_once("won ")) {
            let (name, says) = line.1.split_once(' ').unwrap();
            let before = won.insert(name.to_owned(), says.to_owned());
            assert_eq!(before, None, "{name} was acknowledged twice");
        }
    }
    won
}

/// Says that this process is ready, and waits for the word to begin.
#[allow(clippy::print_stdout, reason = "it goes to the process that began the race")]
pub async fn ready() {
    println!("\n{READY}");
    tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await.unwrap().unwrap();
}

/// Says that this process won a name.
#[allow(clippy::print_stdout, reason = "it goes to the process that began the race")]
pub fn won(name: &str, says: &str) {
    println!("\nwon {name} {says}");
}

/// Reads from a process until it has written this line.
async fn await_line(output: &mut ChildStdout, line: &str) {
    let mut text = Vec::new();
    while !text.ends_with(format!("\n{line}\n").as_bytes()) {
        let byte = output.read_u8().await;
        text.push(byte.unwrap_or_else(|_| panic!("it ended: {}", String::from_utf8_lossy(&text))));
    }
}
