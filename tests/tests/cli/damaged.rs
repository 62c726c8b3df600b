//! A node with a damaged store, as its operator sees it.

use std::fs;
use std::path::{Path, PathBuf};

use kms_tests::shell::{Serving, Shell, field, text};
use tempfile::TempDir;

/// A stopped node with three keys.
struct Node {
    _dir: TempDir,
    path: PathBuf,
    made: String,
}

impl Node {
    fn with_keys() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        let made = Shell::default().run(&["init", text(&path), "--json"]).ok();
        let node = Self { _dir: dir, path, made };
        let server = node.serve(&[]);
        node.client(&server).run(&["key", "create", "first", "second", "third"]).ok();
        server.stop();
        node
    }

    fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    fn journal(&self) -> PathBuf {
        self.path.join("data/journal")
    }

    fn serve(&self, flags: &[&str]) -> Serving {
        let config = self.config();
        Shell::default().serve(&[&["--config", text(&config), "--addr", "127.0.0.1:0"], flags].concat())
    }

    fn client(&self, server: &Serving) -> Shell {
        let stdout = server.stdout();
        let endpoint = stdout.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
        Shell::default()
            .set("KES_SERVER", endpoint)
            .set("KES_CA_CERT", self.path.join("server.crt").display())
            .set("KES_API_KEY", field(&self.made, "api_key"))
    }

    fn discard(&self, what: &str, typed: &str) -> kms_tests::shell::Done {
        let config = self.config();
        let typed = format!("{typed}\n");
        Shell::default().run_with(&["key", "discard", what, "--config", text(&config)], typed.as_bytes())
    }

    /// Damages the line of a key in the journal, beginning at this part.
    fn damage(&self, name: &str, from: &str) {
        let text = fs::read_to_string(self.journal()).unwrap();
        let line = text.lines().find(|line| line.contains(&format!(" + {name} "))).unwrap();
        let at = line.find(from).unwrap() + from.len();
        let damaged = format!("{}{}", &line[..at], "?".repeat(line.len() - at));
        fs::write(self.journal(), text.replace(line, &damaged)).unwrap();
    }

    fn without_database(&self) {
        fs::remove_dir_all(self.path.join("data/sled")).unwrap();
    }
}

fn names(client: &Shell) -> Vec<String> {
    serde_json::from_str(&client.run(&["key", "ls", "--json"]).ok()).unwrap()
}

#[test]
fn a_lost_key_is_unreadable_until_it_is_given_up() {
    let node = Node::with_keys();
    node.damage("second", " + second ");
    node.without_database();
    let server = node.serve(&[]);
    let told = server.stderr();
    assert!(told.contains("the records of 1 keys are lost") && told.contains("second"), "{told}");
    let client = node.client(&server);
    assert_eq!(names(&client), ["first", "second", "third"]);
    let read = client.run(&["key", "dek", "second"]);
    assert!(read.stderr.contains("failed to read key"), "{read:?}");
    let created = client.run(&["key", "create", "second"]);
    assert!(created.stderr.contains("key already exists"), "{created:?}");
    let removed = client.run(&["key", "rm", "second"]);
    assert!(removed.stderr.contains("failed to delete key"), "{removed:?}");
    client.run(&["key", "dek", "third"]).ok();
    client.run(&["key", "create", "fourth"]).ok();
    server.stop();
    let config = node.config();
    let check = Shell::default().run(&["check", "--config", text(&config)]);
    assert!(check.stdout.contains("second") && !check.status.success(), "{check:?}");

    let good = node.discard("first", "first").error();
    assert!(good.contains("can be read") && good.contains("kms key rm first"), "{good}");
    let absent = node.discard("nothing", "nothing").error();
    assert!(absent.contains("there is no key 'nothing'"), "{absent}");
    let untyped = node.discard("second", "yes");
    assert!(!untyped.status.success() && untyped.stderr.contains("nothing was changed"), "{untyped:?}");
    let done = node.discard("second", "second");
    assert!(done.stderr.contains("everything that was encrypted under it is lost"), "{done:?}");
    done.ok();

    let server = node.serve(&[]);
    let client = node.client(&server);
    assert_eq!(names(&client), ["first", "fourth", "third"]);
    assert!(!server.stderr().contains("lost"), "{}", server.stderr());
    client.run(&["key", "create", "second"]).ok();
}

#[test]
fn where_names_are_lost_nothing_is_made_until_the_loss_is_accepted() {
    let node = Node::with_keys();
    node.damage("second", " + ");
    node.without_database();
    let salvaging = node.serve(&["--salvage"]);
    let told = salvaging.stderr();
    assert!(told.contains("salvage: 2 of 2 entries can be read"), "{told}");
    let client = node.client(&salvaging);
    client.run(&["key", "dek", "first"]).ok();
    salvaging.stop();
    assert!(!node.path.join("data/sled").exists(), "salvaging writes nothing");

    let server = node.serve(&[]);
    assert!(server.stderr().contains("read-only"), "{}", server.stderr());
    let client = node.client(&server);
    client.run(&["key", "dek", "first"]).ok();
    for name in ["second", "new"] {
        let read = client.run(&["key", "dek", name]);
        assert!(read.stderr.contains("failed to read key"), "{read:?}");
        let created = client.run(&["key", "create", name]);
        assert!(created.stderr.contains("failed to create key"), "{created:?}");
    }
    let in_use = node.discard("--unnamed", "lost").error();
    assert!(in_use.contains("in use by process"), "{in_use}");
    server.stop();

    node.discard("--unnamed", "lost").ok();
    let server = node.serve(&[]);
    let client = node.client(&server);
    assert_eq!(names(&client), ["first", "third"]);
    client.run(&["key", "create", "second"]).ok();
    server.stop();
    let again = node.discard("--unnamed", "lost").error();
    assert!(again.contains("nothing says"), "{again}");
    let kept = fs::read_dir(node.path.join("data")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(kept.into_iter().any(|name| name.to_string_lossy().starts_with("journal.damaged-")));
}

#[test]
fn a_torn_snapshot_is_told_in_one_line_and_nothing_is_lost() {
    for content in ["", "torn"] {
        let node = Node::with_keys();
        for file in snapshots(&node.path.join("data/sled")) {
            fs::write(file, content).unwrap();
        }
        let server = node.serve(&[]);
        let client = node.client(&server);
        for name in ["first", "second", "third"] {
            client.run(&["key", "dek", name]).ok();
        }
        let told = server.stderr();
        let line = told.lines().find(|line| line.contains("sled.damaged-")).unwrap();
        assert!(line.contains("the database was made anew"), "{line}");
        for debug in ["backtrace", "panicked", "Corruption", "file offset"] {
            assert!(!told.contains(debug), "{told}");
        }
    }
}

fn snapshots(database: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(database).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.display().to_string().contains("snap.")).collect()
}
