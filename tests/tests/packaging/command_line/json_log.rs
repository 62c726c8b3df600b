//! The error log as JSON, and its colours.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use kms_tests::shell::{Serving, Shell, kms, text};
use serde_json::Value;
use tempfile::TempDir;

struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node");
        Shell::default().run(&["init", text(&node), "--dns", "localhost", "--ip", "127.0.0.1"]).ok();
        Self { dir }
    }

    fn config(&self) -> String {
        self.dir.path().join("node/config.toml").display().to_string()
    }

    /// Appends lines to the config.
    fn configure(&self, lines: &str) {
        let config = fs::read_to_string(self.config()).unwrap();
        fs::write(self.config(), format!("{lines}\n{config}")).unwrap();
    }
}

/// Reads each line as an object with the members that each has.
fn lines(log: &str) -> Vec<Value> {
    let parsed = log.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let time = value["time"].as_str().unwrap();
        time.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(["error", "warn", "info", "debug"].contains(&value["level"].as_str().unwrap()), "{line}");
        assert!(
            !value["message"].as_str().unwrap().is_empty() && !value["kind"].as_str().unwrap().is_empty(),
            "{line}"
        );
        value
    });
    parsed.collect()
}

#[test]
fn each_line_is_json_from_the_warnings_of_the_config_to_the_end() {
    let node = Node::new();
    // The admin is no identity, so there is a warning before the server is up.
    node.configure("log = { format = \"json\" }");
    let shell = Shell::default().set("KMS_ADMIN__IDENTITY", "nobody-knows").set("KMS_ADDRESS", "127.0.0.1:0");
    let serving = shell.serve(&["--config", &node.config()]);
    let log = serving.stderr();
    let found = lines(&log);
    let warned = found.iter().find(|line| line["message"].as_str().unwrap().contains("admin.identity"));
    assert_eq!(warned.unwrap_or_else(|| panic!("{log}"))["level"], "warn");
    assert!(found.iter().any(|line| line["level"] == "info"), "{log}");
    assert!(serving.stop().success());
}

#[test]
fn the_fields_of_a_denied_request_are_plain_texts() {
    let node = Node::new();
    node.configure("log = { format = \"json\" }");
    let port = kms_tests::programs::free_port();
    let shell = Shell::default().set("KMS_ADDRESS", format!("127.0.0.1:{port}"));
    let serving = shell.serve(&["--config", &node.config()]);
    let printed = Shell::default().run(&["identity", "new"]).ok();
    let api_key = printed.split_whitespace().find(|word| word.starts_with("kes:v1:")).unwrap();
    let client = Shell::default()
        .set("KES_SERVER", format!("https://127.0.0.1:{port}"))
        .set("KES_API_KEY", api_key)
        .set("KES_CA_CERT", node.dir.path().join("node/server.crt").display());
    assert!(!client.run(&["key", "dek", "a\"b"]).status.success());
    let log = serving.stderr();
    let found = lines(&log);
    let path = found.iter().find_map(|line| line["fields"]["path"].as_str());
    assert_eq!(path, Some("/v1/key/generate/a\"b"), "{log}");
    let texts = found.iter().filter_map(|line| line["fields"].as_object()).flat_map(|fields| fields.values());
    assert!(texts.map(|text| text.as_str().unwrap()).all(|text| !text.starts_with('"')), "{log}");
}

#[test]
fn an_error_comes_with_its_sources_one_by_one() {
    let node = Node::new();
    node.configure("log = { format = \"json\" }");
    let config = fs::read_to_string(node.config()).unwrap();
    let (start, _) = config.split_once("[keystore.fs]").unwrap();
    let port = kms_tests::programs::free_port();
    fs::write(
        node.config(),
        format!(
            "{start}[keystore.vault]\nendpoint = \"http://127.0.0.1:{port}\"\napprole = {{ id = \"role\", secret = \"a-secret-of-a-role\" }}\n"
        ),
    )
    .unwrap();
    let shell = Shell::default().set("KMS_ADDRESS", "127.0.0.1:0");
    let serving = shell.serve(&["--config", &node.config()]);
    let log = serving.stderr();
    let found = lines(&log);
    let chain = found.iter().filter_map(|line| line["error"].as_array()).max_by_key(|chain| chain.len());
    let chain = chain.unwrap_or_else(|| panic!("no error in {log}"));
    assert!(chain.len() > 1 && chain.iter().all(Value::is_string), "{chain:?}");
    assert!(!log.contains("a-secret-of-a-role"), "{log}");
}

#[test]
fn a_start_that_fails_says_so_in_json() {
    let node = Node::new();
    node.configure("log = { format = \"json\" }");
    fs::remove_file(node.dir.path().join("node/server.crt")).unwrap();
    let run = |shell: Shell| shell.run(&["server", "--config", &node.config()]);
    let done = run(Shell::default());
    assert_eq!(done.status.code(), Some(1));
    let last = lines(&done.stderr).pop().unwrap();
    assert_eq!(last["level"], "error");
    assert!(last["message"].as_str().unwrap().contains("server.crt"), "{last}");
    // If the config itself cannot be read, a variable tells the form.
    fs::write(node.config(), "= nonsense").unwrap();
    let done = run(Shell::default().set("KMS_LOG__FORMAT", "json"));
    assert!(lines(&done.stderr).pop().unwrap()["message"].as_str().unwrap().contains("invalid TOML"));
    assert!(run(Shell::default()).stderr.starts_with("Error: "));
}

#[test]
fn another_form_is_refused() {
    let node = Node::new();
    node.configure("log = { format = \"xml\" }");
    let told = Shell::default().run(&["server", "--config", &node.config()]).stderr;
    assert!(
        told.contains("config.toml:1: log.format: 'xml' is unknown, expected 'text' or 'json'"),
        "{told}"
    );
}

/// Runs a server at a terminal, and returns what it printed there.
fn at_a_terminal(variables: &[(&str, &str)], more: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let server = format!("exec {} server --dev --in-memory --addr 127.0.0.1:0 {more}", text(kms()));
    let mut command = Command::new("/usr/bin/script");
    command.args(["--quiet", "--return", "--flush", "--command", &server, text(&log)]);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    let serving = Serving::of(command);
    let printed = kms_tests::process::settled(Path::new(&log));
    // The server has a session of its own, and would outlive a terminal that is only killed.
    serving.stop();
    printed
}

#[test]
fn colours_at_a_terminal_are_left_out_for_those_who_want_none() {
    let coloured = at_a_terminal(&[], "");
    assert!(coloured.contains("INFO") && coloured.contains("\u{1b}[32m"), "{coloured}");
    for (variables, more) in [(&[("NO_COLOR", "1")] as &[(&str, &str)], ""), (&[], "--color never")] {
        let plain = at_a_terminal(variables, more);
        assert!(plain.contains("INFO") && !plain.contains('\u{1b}'), "{plain}");
    }
}
