//! The real server and the real commands: what clients hear, what the log and the metrics say, and a restore into an
//! empty store.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kms_core::store::KeyRecord;
use kms_server::recipients::Identities;
use kms_tests::escrow::EscrowKey;
use kms_tests::shell::{Done, Serving, Shell, field, text};
use kms_tests::{Client, Protocol, TestIdentity};
use serde_json::Value;
use tempfile::TempDir;

/// A directory with two configs: one of a server in escrow, and one of an empty store beside it.
struct Node {
    dir: TempDir,
    key: EscrowKey,
    admin: TestIdentity,
}

impl Node {
    fn new(on_failure: &str) -> Self {
        let node =
            Self { dir: tempfile::tempdir().unwrap(), key: EscrowKey::new(), admin: TestIdentity::new() };
        let (server_key, cert) = (node.file("server.key"), node.file("server.crt"));
        let new =
            ["identity", "new", "--key", &server_key, "--cert", &cert, "--ip", "127.0.0.1", "localhost"];
        Shell::default().run(&new).ok();
        fs::create_dir(node.path("volume")).unwrap();
        for name in ["main", "other"] {
            let mut config = format!(
                "address = \"127.0.0.1:0\"\n[admin]\nidentity = \"{}\"\n[tls]\nkey = \"{server_key}\"\ncert = \"{cert}\"\n\
                 [probes]\naddress = \"127.0.0.1:0\"\n[cache.expiry]\nany = \"1s\"\nunused = \"1s\"\n[deletion]\ngrace = \"30d\"\n\
                 [keystore.fs]\npath = \"{}\"\nroot_key_file = \"{}\"\ncreate = true\n",
                node.admin.identity(),
                node.file(name),
                node.file(&format!("{name}.key"))
            );
            if name == "main" {
                let section = format!(
                    "[escrow]\nrecipients = [\"{}\"]\npath = \"{}\"\n{on_failure}",
                    node.key.recipient(),
                    node.file("volume/escrow")
                );
                config.push_str(&section);
            }
            fs::write(node.path(&format!("{name}.toml")), config).unwrap();
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn serve(&self) -> Serving {
        Shell::default().serve(&["--config", &self.file("main.toml")])
    }

    fn ask(&self, server: &Serving, method: &str, path: &str, body: &str) -> (u16, String) {
        let stdout = server.stdout();
        let endpoint = stdout.split_whitespace().find_map(|word| word.strip_prefix("https://")).unwrap();
        let mut client = Client::new(endpoint.parse().unwrap(), Protocol::Http1, &self.admin);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(kms_tests::spoilt::ask(&mut client, method, path, body))
    }

    /// Returns the value of a metric.
    fn metric(&self, server: &Serving, name: &str) -> Option<String> {
        let (_, all) = self.ask(server, "GET", "/v1/metrics", "");
        assert!(!all.contains("kms_escrow"), "KES's clients fail on other families");
        let (status, all) = self.ask(server, "GET", "/metrics", "");
        assert_eq!(status, 200);
        all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned)
    }

    fn verify(&self, more: &[&str]) -> Done {
        let escrow = self.file("volume/escrow");
        Shell::default().run(&[&["escrow", "verify", &escrow], more].concat())
    }

    fn restore(&self, more: &[&str]) -> Done {
        let (escrow, key, to) = (self.file("volume/escrow"), self.key.file(), self.file("other.toml"));
        let restore = ["escrow", "restore", &escrow, "--identity", text(&key), "--to", &to];
        Shell::default().run(&[&restore, more].concat())
    }
}

fn until(what: impl Fn() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < Duration::from_secs(30), "it took too long");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn keys_come_back_into_an_empty_store_and_open_what_was_sealed() {
    let node = Node::new("");
    let server = node.serve();
    for name in ["one", "two", "gone", "purged"] {
        assert_eq!(node.ask(&server, "PUT", &format!("/v1/key/create/{name}"), "").0, 200);
    }
    assert_eq!(node.ask(&server, "PUT", "/v1/key/rotate/two", "").0, 200);
    assert_eq!(node.ask(&server, "DELETE", "/v1/key/delete/gone", "").0, 200);
    let sealed = field(
        &node.ask(&server, "PUT", "/v1/key/encrypt/two", r#"{"plaintext":"aGVsbG8="}"#).1,
        "ciphertext",
    );
    // The server is killed, and its disk is lost. The escrow file was elsewhere.
    drop(server);

    let found: Value = serde_json::from_str(&node.verify(&["--json"]).ok()).unwrap();
    assert_eq!(found["keys"].as_array().unwrap().len(), 3);
    assert_eq!((&found["keys"][2]["name"], &found["keys"][2]["versions"]), (&"two".into(), &2.into()));
    assert_eq!(found["left"][0]["state"], "deleted");
    let identity = node.key.file();
    let all = ["--identity", text(&identity), "--config", &node.file("main.toml")].map(str::to_owned);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let told = node.verify(&all).ok();
    assert!(told.contains("5 records were opened") && told.contains("4 keys of the key store"), "{told}");

    let told = node.restore(&[]).ok();
    assert!(told.contains("Key: two") && told.contains("3 of 3 keys open"), "{told}");
    assert!(told.contains("Left: 'gone'") && told.contains("its key was deleted"), "{told}");
    // Once more changes nothing.
    assert!(node.restore(&[]).ok().contains("there already"));
    // The deleted key comes only by its fingerprint.
    let fingerprint = found["left"][0]["fingerprint"].as_str().unwrap().to_owned();
    assert!(node.restore(&["--fingerprint", &fingerprint]).ok().contains("Key: gone"));
    let unknown = node.restore(&["--fingerprint", &"0".repeat(32)]).error();
    assert!(unknown.contains("no record in these files"), "{unknown}");

    let other = Shell::default().serve(&["--config", &node.file("other.toml")]);
    let body = format!(r#"{{"ciphertext":"{sealed}"}}"#);
    let (status, opened) = node.ask(&other, "PUT", "/v1/key/decrypt/two", &body);
    assert_eq!((status, field(&opened, "plaintext").as_str()), (200, "aGVsbG8="));
}

#[test]
fn a_changed_byte_and_a_missing_key_are_found_and_name_their_place() {
    let node = Node::new("");
    let server = node.serve();
    for name in ["one", "two", "three"] {
        assert_eq!(node.ask(&server, "PUT", &format!("/v1/key/create/{name}"), "").0, 200);
    }
    assert!(server.stop().success());
    let file = node.path("volume/escrow");
    let whole = fs::read_to_string(&file).unwrap();
    let line = whole.lines().position(|line| line.contains(" entry two ")).unwrap();
    let at: usize = whole.split_inclusive('\n').take(line + 1).map(str::len).sum();
    let mut changed = whole.clone().into_bytes();
    changed[at - 40] ^= 1;
    fs::write(&file, &changed).unwrap();
    let done = node.verify(&[]);
    assert!(done.stdout.contains(&format!("line {}: the record of entry 'two'", line + 1)), "{done:?}");
    assert_eq!(done.status.code(), Some(1));
    let done = node.restore(&[]);
    assert!(
        done.stdout.contains("Key: one") && done.stderr.contains("1 of 3 keys were not restored"),
        "{done:?}"
    );

    // A file that lacks a key of the store.
    let lines: Vec<_> = whole.lines().filter(|line| !line.contains(" three ")).collect();
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    let done = node.verify(&["--config", &node.file("main.toml")]);
    assert!(done.stdout.contains("version 1 of key 'three'"), "{done:?}");
    // The next start adds it.
    let server = node.serve();
    until(|| node.metric(&server, "kms_escrow_complete").as_deref() == Some("1"));
    assert_eq!(node.metric(&server, "kms_escrow_missing_keys").as_deref(), Some("0"));
    assert!(server.stderr().contains("escrow: the file holds every key of the store"), "{}", server.stderr());
    assert!(server.stop().success());
    let done = node.verify(&["--config", &node.file("main.toml")]);
    assert!(!done.stdout.contains("'three' ("), "{done:?}");
}

#[test]
fn a_removal_whose_line_was_lost_is_asked_for_and_found_out_at_the_next_start() {
    let node = Node::new("");
    let config = fs::read_to_string(node.path("main.toml")).unwrap().replace("\"30d\"", "\"0s\"");
    fs::write(node.path("main.toml"), config).unwrap();
    let server = node.serve();
    for name in ["one", "doomed"] {
        assert_eq!(node.ask(&server, "PUT", &format!("/v1/key/create/{name}"), "").0, 200);
    }
    until(|| node.metric(&server, "kms_escrow_complete").as_deref() == Some("1"));
    assert_eq!(node.ask(&server, "DELETE", "/v1/key/delete/doomed", "").0, 200);
    assert!(server.stop().success());
    let file = node.path("volume/escrow");
    let whole = fs::read_to_string(&file).unwrap();
    assert!(whole.lines().last().unwrap().contains(" gone doomed "), "{whole}");
    let before = |word: &str| {
        let at = whole.find(word).unwrap();
        whole[..at].rfind('\n').unwrap() + 1
    };

    // As if the server had been killed between the key store and the file.
    fs::write(&file, &whole[..before(" gone ")]).unwrap();
    let done = node.verify(&[]);
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stdout.contains("the removal of key 'doomed' began"), "{done:?}");
    let done = node.restore(&[]);
    assert!(done.stderr.contains("1 of 2 keys were not restored"), "{done:?}");
    assert!(done.stdout.contains("Key: one") && done.stdout.contains("its removal began"), "{done:?}");
    let fingerprint = done.stdout.split("--fingerprint takes ").nth(1).unwrap().lines().next().unwrap();
    assert!(node.restore(&["--fingerprint", fingerprint]).ok().contains("Key: doomed"));

    // As if the file could not be written either: it says that the key lives, and only the key store knows better.
    fs::write(&file, &whole[..before(" removing ")]).unwrap();
    let main = node.file("main.toml");
    let told = node.verify(&["--config", &main]).ok();
    assert!(told.contains("Not in the key store: doomed"), "{told}");

    fs::write(&file, &whole[..before(" gone ")]).unwrap();
    let server = node.serve();
    until(|| node.metric(&server, "kms_escrow_complete").as_deref() == Some("1"));
    assert!(server.stop().success());
    let told = node.verify(&["--config", &main]).ok();
    assert!(!told.contains("doomed"), "{told}");
}

#[test]
fn while_the_file_is_away_creates_are_refused_and_the_rest_is_served() {
    let node = Node::new("");
    let server = node.serve();
    assert_eq!(node.ask(&server, "PUT", "/v1/key/create/before", "").0, 200);
    let (file, away) = (node.path("volume/escrow"), node.path("volume/away"));
    fs::rename(&file, &away).unwrap();
    let (status, answer) = node.ask(&server, "PUT", "/v1/key/create/my-key", "");
    assert_eq!(status, 503);
    assert!(answer.contains("the escrow file cannot be written"), "{answer}");
    assert_eq!(node.ask(&server, "PUT", "/v1/key/rotate/before", "").0, 503);
    assert_eq!(node.ask(&server, "PUT", "/v1/key/generate/before", "{}").0, 200);
    assert_eq!(node.ask(&server, "GET", "/v1/key/describe/my-key", "").0, 404);
    assert_eq!(node.metric(&server, "kms_escrow_writable").as_deref(), Some("0"));
    let (_, ready) = node.ask(&server, "GET", "/v1/ready", "");
    assert!(ready.contains("escrow"), "{ready}");
    assert!(server.stderr().contains("escrow: the file cannot be written"), "{}", server.stderr());
    fs::rename(away, file).unwrap();
    until(|| node.ask(&server, "PUT", "/v1/key/create/my-key", "").0 == 200);
    assert_eq!(node.metric(&server, "kms_escrow_writable").as_deref(), Some("1"));
}

#[test]
fn with_warn_keys_are_made_and_put_into_escrow_later() {
    let node = Node::new("on_failure = \"warn\"\n");
    let server = node.serve();
    until(|| node.metric(&server, "kms_escrow_complete").as_deref() == Some("1"));
    let (file, away) = (node.path("volume/escrow"), node.path("volume/away"));
    fs::rename(&file, &away).unwrap();
    assert_eq!(node.ask(&server, "PUT", "/v1/key/create/my-key", "").0, 200);
    assert_eq!(node.metric(&server, "kms_escrow_missing_keys").as_deref(), Some("1"));
    fs::rename(away, file).unwrap();
    until(|| node.metric(&server, "kms_escrow_missing_keys").as_deref() == Some("0"));
    assert!(node.verify(&[]).ok().contains("Key: my-key"));
}

#[test]
fn a_start_without_the_volume_of_the_file_is_refused() {
    let node = Node::new("");
    fs::remove_dir(node.path("volume")).unwrap();
    let told = Shell::default().run(&["server", "--config", &node.file("main.toml")]);
    assert_eq!(told.status.code(), Some(1));
    assert!(
        told.stderr.contains("escrow.path: ") && told.stderr.contains("is the volume mounted?"),
        "{told:?}"
    );
}

/// The commands of docs/escrow.md find a key without this program, except for age.
#[test]
fn an_entry_is_found_with_coreutils_alone() {
    let node = Node::new("");
    let server = node.serve();
    for name in ["my-key-2", "my-key"] {
        assert_eq!(node.ask(&server, "PUT", &format!("/v1/key/create/{name}"), "").0, 200);
    }
    assert!(server.stop().success());
    let script = "grep ' entry my-key ' escrow | tail -n 1 | cut -d ' ' -f 9 | base64 -d";
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/escrow.md");
    assert!(fs::read_to_string(docs).unwrap().contains(script));
    let found =
        Command::new("sh").args(["-c", script]).current_dir(node.path("volume")).output().unwrap().stdout;
    let mut opened = String::new();
    let identities = Identities::from_file(&node.key.file()).unwrap();
    identities.open(found.as_slice()).unwrap().read_to_string(&mut opened).unwrap();
    let (first, record) = opened.split_once('\n').unwrap();
    assert_eq!(first, "kms-escrow-record 1 my-key");
    KeyRecord::decode(record.as_bytes()).unwrap();
}
