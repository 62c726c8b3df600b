//! The unit of systemd, as operators without a package install it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_tests::shell::{Serving, Shell, text};
use tempfile::TempDir;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The unit, with a drop-in.
struct Unit(String);

impl Unit {
    fn with(drop_in: &str) -> Self {
        Self(fs::read_to_string(project().join("packaging/kms.service")).unwrap() + drop_in)
    }

    /// Returns the values of a setting. An empty one takes back what was said before.
    fn values(&self, key: &str) -> Vec<String> {
        let said = self.0.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let mut all = Vec::new();
        for value in said {
            if value.is_empty() {
                all.clear();
            } else {
                all.push(value.to_owned());
            }
        }
        all
    }
}

/// Returns the drop-in of docs/install.md for another key store.
fn drop_in_of_the_page() -> String {
    let page = fs::read_to_string(project().join("docs/install.md")).unwrap();
    let (_, below) = page.split_once("    # /etc/systemd/system/kms.service.d/store.conf\n").unwrap();
    below
        .lines()
        .map_while(|line| line.strip_prefix("    "))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// A node of `kms init`, of which the test fills in the directories of the unit.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        Shell::default().run(&["init", text(&node.etc()), "--ip", "127.0.0.1"]).ok();
        fs::create_dir(node.state()).unwrap();
        node
    }

    fn etc(&self) -> PathBuf {
        self.dir.path().join("etc")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts the server with the commands and the variables of the unit. Each command before it has to succeed, unless the
    /// unit says that it need not.
    fn start(&self, unit: &Unit) -> Serving {
        let values = |key: &str| unit.values(key);
        let credentials = self.dir.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        let shell = Shell::default().set("KMS_ADDRESS", "127.0.0.1:0");
        let mut shell = shell.set("CREDENTIALS_DIRECTORY", credentials.display());
        for credential in values("LoadCredential") {
            let (name, path) = credential.split_once(":/etc/kms/").unwrap();
            fs::rename(self.etc().join(path), credentials.join(name)).unwrap();
        }
        for variable in values("Environment") {
            let (name, value) = variable.split_once('=').unwrap();
            let value = value.replace("%d", text(&credentials)).replace("/var/lib/kms", text(&self.state()));
            shell = shell.set(name, value);
        }
        let words = |line: &str| -> Vec<String> {
            let line = line.replace("/etc/kms", text(&self.etc()));
            line.split(' ').skip(1).map(str::to_owned).collect()
        };
        for line in values("ExecStartPre").iter().filter(|line| !line.starts_with('-')) {
            shell.run(&words(line).iter().map(String::as_str).collect::<Vec<_>>()).ok();
        }
        let serve = words(&values("ExecStart")[0]);
        assert_eq!(serve[0], "server");
        shell.serve(&serve[1..].iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn the_unit_starts_a_node_whose_root_key_is_a_credential() {
    let node = Node::new();
    let server = node.start(&Unit::with(""));
    assert!(node.state().join("sled").is_dir(), "{}", server.stderr());
    assert!(server.stop().success());
    assert_eq!(Unit::with("").values("ExecReload"), ["/bin/kill -HUP $MAINPID"]);
}

#[test]
fn the_unit_starts_a_server_whose_certificate_has_expired() {
    let node = Node::new();
    let [key, cert] = ["server.key", "server.crt"].map(|name| node.etc().join(name));
    for file in [&key, &cert] {
        fs::remove_file(file).unwrap();
    }
    let words = ["identity", "new", "--expiry", "1s", "--ip", "127.0.0.1"];
    let files = ["--key", text(&key), "--cert", text(&cert), "localhost"];
    Shell::default().run(&[&words[..], &files].concat()).ok();
    std::thread::sleep(Duration::from_secs(2));
    let server = node.start(&Unit::with(""));
    assert!(server.stderr().contains("expired"), "{}", server.stderr());
    assert!(server.stop().success());
}

#[test]
fn the_unit_starts_a_server_whose_key_store_is_away() {
    let node = Node::new();
    let config = node.etc().join("config.toml");
    let before = fs::read_to_string(&config).unwrap();
    let (other, _) = before.split_once("[keystore.fs]").unwrap();
    let vault = "[keystore.vault]\nendpoint = \"http://127.0.0.1:1\"\ntoken.value = \"t\"\n";
    fs::write(&config, format!("{other}{vault}")).unwrap();
    let server = node.start(&Unit::with(&drop_in_of_the_page()));
    assert!(server.stop().success());
}

#[test]
fn the_unit_never_gives_up() {
    let unit = Unit::with("");
    let section = unit.0.split("\n[Unit]\n").nth(1).unwrap().split("\n[Service]\n").next().unwrap();
    assert!(section.lines().any(|line| line == "StartLimitIntervalSec=0"), "{section}");
    assert_eq!(unit.values("Restart"), ["on-failure"]);
}
