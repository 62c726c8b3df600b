//! Keys that are deleted, restored and purged by an operator.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use kms_tests::shell::{Done, Serving, Shell, field, kms, text};
use serde_json::Value;
use tempfile::TempDir;

struct Node {
    _dir: TempDir,
    path: PathBuf,
    server: Serving,
    shell: Shell,
}

impl Node {
    /// Starts a server on which others see a delete after a second.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        let made = Shell::default().run(&["init", text(&path), "--json"]).ok();
        let config = path.join("config.toml");
        let content = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{content}\n[cache.expiry]\nany = \"1s\"\noffline = \"2s\"\n")).unwrap();
        let server = Shell::default().serve(&["--config", text(&config), "--addr", "127.0.0.1:0"]);
        let stdout = server.stdout();
        let endpoint = stdout.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
        let shell = Shell::default()
            .set("KES_SERVER", endpoint)
            .set("KES_CA_CERT", path.join("server.crt").display())
            .set("KES_API_KEY", field(&made, "api_key"));
        Self { _dir: dir, path, server, shell }
    }

    fn key(&self, arguments: &[&str]) -> Done {
        self.shell.run(&[&["key"], arguments].concat())
    }

    fn purge(&self, typed: &str, arguments: &[&str]) -> Done {
        self.shell
            .run_with(&[&["key", "purge", "my-key"], arguments].concat(), format!("{typed}\n").as_bytes())
    }

    /// Expects that a purge fails, and returns what it says.
    #[track_caller]
    fn purge_fails(&self, typed: &str, arguments: &[&str]) -> String {
        let done = self.purge(typed, arguments);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        done.stderr
    }

    fn deleted(&self) -> Vec<Value> {
        serde_json::from_str(&self.key(&["ls", "--deleted", "--json"]).ok()).unwrap()
    }
}

#[test]
fn a_deleted_key_is_listed_restored_and_purged() {
    let node = Node::start();
    node.key(&["create", "my-key", "other"]).ok();
    let sealed = field(&node.key(&["encrypt", "my-key", "hello"]).ok(), "ciphertext");
    let removed = node.key(&["rm", "my-key"]);
    assert!(removed.stderr.contains("'kms key restore my-key' brings it back"), "{removed:?}");
    assert!(removed.stderr.contains("KES") && removed.stderr.contains("until it is purged"), "{removed:?}");
    assert_eq!(removed.ok(), "");
    let error = node.key(&["rm", "my-key"]).error();
    assert!(error.contains("key is deleted; 'kms key restore my-key' brings it back"), "{error}");
    assert!(node.key(&["create", "my-key"]).error().contains("key already exists"));
    assert_eq!(node.key(&["ls"]).ok(), "Key\nother\n");
    let listed = node.key(&["ls", "--deleted"]).ok();
    assert!(
        listed.starts_with("Deleted key\nmy-key  fingerprint ") && listed.contains("kept until"),
        "{listed}"
    );
    assert_eq!(node.key(&["ls", "--deleted", "other*"]).ok(), "");
    assert_eq!(node.deleted().len(), 1);
    let checked = Shell::default().run(&["check", "--config", text(&node.path.join("config.toml"))]);
    assert!(checked.stdout.contains("in use by process"), "{checked:?}");

    node.key(&["restore", "my-key"]).ok();
    assert_eq!(field(&node.key(&["decrypt", "my-key", &sealed]).ok(), "plaintext"), "aGVsbG8=");
    assert!(node.key(&["restore", "my-key"]).error().contains("key is not deleted"));
    assert_eq!(node.key(&["ls", "--deleted"]).ok(), "");

    assert!(node.purge_fails("my-key", &["--now"]).contains("'kms key rm my-key' comes first"));
    node.key(&["rm", "my-key"]).ok();
    let early = node.purge_fails("my-key", &["--now"]);
    assert!(early.contains("a server that is cut off from the key store may seal"), "{early}");
    assert!(early.contains("other servers may still use the key"), "{early}");
    std::thread::sleep(Duration::from_millis(2200));
    assert!(node.purge_fails("", &[]).contains("is kept until"));
    let refused = node.purge_fails("other", &["--now"]);
    assert!(refused.contains("Type my-key to go on") && refused.contains("nothing was changed"), "{refused}");
    let fingerprint = node.deleted()[0]["fingerprint"].as_str().unwrap().to_owned();
    let purged = node.purge("my-key", &["--now", "--fingerprint", &fingerprint]);
    assert!(purged.stderr.contains(&fingerprint), "the fingerprint is shown first: {purged:?}");
    assert_eq!(
        purged.ok(),
        format!("Key 'my-key', fingerprint {fingerprint}, is removed for ever with its 1 version\n")
    );
    assert!(node.key(&["info", "my-key"]).error().contains("key does not exist"));
    let again = node.purge_fails("my-key", &["--now", "--fingerprint", &fingerprint]);
    assert!(again.contains("key does not exist"), "{again}");
    node.key(&["create", "my-key"]).ok();
}

#[test]
fn a_key_of_the_config_that_is_deleted_is_told_at_the_start_and_not_made_anew() {
    let node = Node::start();
    let config = node.path.join("config.toml");
    node.key(&["create", "my-key"]).ok();
    node.key(&["rm", "my-key"]).ok();
    let Node { _dir, server, .. } = node;
    server.stop();
    let content = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{content}\n[[keys]]\nname = \"my-key\"\n")).unwrap();
    let server = Shell::default().serve(&["--config", text(&config), "--addr", "127.0.0.1:0"]);
    let log = server.stderr();
    assert!(
        log.contains("a key of the config is deleted") && log.contains("kms key restore my-key"),
        "{log}"
    );
    server.stop();
    let checked = Shell::default().run(&["check", "--all", "--config", text(&config)]);
    assert!(checked.stdout.contains("my-key") && checked.stdout.contains("deleted"), "{checked:?}");
    assert!(checked.status.success(), "a deletion is no fault: {checked:?}");
}

/// Runs a command on a terminal, on which these lines are typed.
fn on_a_terminal(shell: &Shell, command: &str, typed: &str) -> Done {
    let command = format!("{} {command}", kms().display());
    let arguments = ["-q", "-e", "-c", &command, "/dev/null"];
    shell.run_binary(std::path::Path::new("/usr/bin/script"), &arguments, typed.as_bytes())
}

#[test]
fn on_a_terminal_a_key_in_use_is_deleted_only_after_a_question() {
    let node = Node::start();
    node.key(&["create", "idle", "used", "also-used"]).ok();
    node.key(&["dek", "used"]).ok();
    node.key(&["dek", "also-used"]).ok();
    let asked = on_a_terminal(&node.shell, "key rm used", "no\n");
    assert!(!asked.status.success(), "{asked:?}");
    assert!(
        asked.stdout.contains("was last used at") && asked.stdout.contains("Type used to go on"),
        "{asked:?}"
    );
    node.key(&["info", "used"]).ok();
    let asked = on_a_terminal(&node.shell, "key rm used", "used\n");
    assert!(asked.status.success() && asked.stdout.contains("brings it back"), "{asked:?}");
    for command in ["key rm idle", "key rm --yes also-used"] {
        let done = on_a_terminal(&node.shell, command, "");
        assert!(done.status.success() && !done.stdout.contains("Type "), "{done:?}");
    }
    assert_eq!(node.deleted().len(), 3);
}
