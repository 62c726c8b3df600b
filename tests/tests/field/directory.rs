//! A directory of unencrypted key files that KES left.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kms_tests::programs::program;
use kms_tests::shell::{Serving, Shell, field, text};
use kms_tests::{Client, Protocol, TestIdentity};
use serde_json::Value;
use tempfile::TempDir;

/// A directory with a config for KES 0.24, its certificate and an admin.
struct Node {
    dir: TempDir,
    api_key: String,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let (key, cert) = (file("server.key"), file("server.crt"));
        let new = ["identity", "new", "--key", &key, "--cert", &cert, "--ip", "127.0.0.1", "localhost"];
        Shell::default().run(&new).ok();
        let admin = Shell::default().run(&["identity", "new", "--json"]).ok();
        let config = format!(
            "version: v1\naddress: 127.0.0.1:0\nadmin:\n  identity: {}\ntls:\n  key: {key}\n  cert: {cert}\n\
             keystore:\n  fs:\n    path: {}\n",
            field(&admin, "identity"),
            file("keys")
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        fs::create_dir(dir.path().join("keys")).unwrap();
        Self { api_key: field(&admin, "api_key"), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self) -> Serving {
        Shell::default().serve(&["--config", text(&self.path("config.yml"))])
    }

    fn client(&self, endpoint: &str) -> Shell {
        Shell::default()
            .set("KES_SERVER", endpoint)
            .set("KES_CA_CERT", self.path("server.crt").display())
            .set("KES_API_KEY", &self.api_key)
    }

    fn client_of(&self, server: &Serving) -> Shell {
        let stdout = server.stdout();
        self.client(stdout.split_whitespace().find(|word| word.starts_with("https://")).unwrap())
    }

    fn refused(&self) -> String {
        let done = Shell::default().run(&["server", "--config", text(&self.path("config.yml"))]);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        done.stderr.lines().last().unwrap().to_owned()
    }
}

fn vectors(list: &str, file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kms-core/tests/vectors").join(file);
    let all: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    all[list].as_array().unwrap().clone()
}

fn listed(client: &Shell) -> BTreeSet<String> {
    serde_json::from_str(&client.run(&["key", "ls", "--json"]).ok()).unwrap()
}

#[test]
fn every_record_that_a_release_wrote_is_imported_once_and_encrypted() {
    let node = Node::new();
    let records = vectors("records", "records.json");
    let mut names = BTreeSet::new();
    for record in &records {
        let name = record["name"].as_str().unwrap();
        if names.insert(name.to_owned()) {
            fs::write(node.path("keys").join(name), record["record"].as_str().unwrap()).unwrap();
        }
    }
    let server = node.serve();
    let client = node.client_of(&server);
    assert_eq!(listed(&client), names);
    let told = server.stderr();
    let line = told.lines().find(|line| line.contains("key files in the clear")).unwrap();
    let count = names.len();
    assert!(
        line.contains(&format!("{count} key files"))
            && line.contains(&format!("{count} of them imported now"))
    );
    assert!(line.contains("may go"), "{line}");
    assert_eq!(told.matches("key files in the clear").count(), 1);
    for name in &names {
        assert!(node.path("keys").join(name).exists(), "the files stay");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&node.path("keys.root-key")), mode(&node.path("keys/.kms"))), (0o600, 0o700));
    client.run(&["key", "create", "made-here"]).ok();
    server.stop();

    // All keys are there without their files, as the log promised.
    for name in &names {
        fs::remove_file(node.path("keys").join(name)).unwrap();
    }
    let server = node.serve();
    names.insert("made-here".to_owned());
    assert_eq!(listed(&node.client_of(&server)), names);
    assert!(!server.stderr().contains("in the clear"));
}

#[test]
fn a_deleted_key_does_not_come_back_from_its_file() {
    let node = Node::new();
    let records = vectors("records", "records.json");
    for (name, record) in ["a", "b"].iter().zip(&records) {
        fs::write(node.path("keys").join(name), record["record"].as_str().unwrap()).unwrap();
    }
    let server = node.serve();
    node.client_of(&server).run(&["key", "rm", "a"]).ok();
    server.stop();
    let server = node.serve();
    assert_eq!(listed(&node.client_of(&server)), BTreeSet::from(["b".to_owned()]));
    assert!(server.stderr().contains("1 of them were deleted"), "{}", server.stderr());
    server.stop();
    // A file with another key under that name is a new key.
    fs::write(node.path("keys/a"), records[2]["record"].as_str().unwrap()).unwrap();
    let server = node.serve();
    assert_eq!(listed(&node.client_of(&server)).len(), 2);
}

#[test]
fn a_key_that_the_store_has_lost_is_served_from_its_file() {
    let node = Node::new();
    let records = vectors("records", "records.json");
    let put = |name: &str, n: usize| {
        fs::write(node.path("keys").join(name), records[n]["record"].as_str().unwrap()).unwrap();
    };
    put("first", 0);
    node.serve().stop();
    let older = node.path("older");
    let copied =
        Command::new("cp").args(["-a", text(&node.path("keys/.kms")), text(&older)]).status().unwrap();
    assert!(copied.success());
    put("second", 1);
    put("deleted", 2);
    let server = node.serve();
    let client = node.client_of(&server);
    let dek = client.run(&["key", "dek", "second"]).ok();
    client.run(&["key", "rm", "deleted"]).ok();
    server.stop();
    let opens = |client: &Shell| {
        let opened = client.run(&["key", "decrypt", "second", &field(&dek, "ciphertext")]).ok();
        assert_eq!(field(&opened, "plaintext"), field(&dek, "plaintext"));
    };

    // The key is damaged in the journal and in the database. The file still has it.
    let journal = node.path("keys/.kms/journal");
    let lines = fs::read_to_string(&journal).unwrap();
    let line = lines.lines().find(|line| line.contains(" + second ")).unwrap();
    fs::write(&journal, lines.replace(line, &format!("{}?", &line[..line.len() - 1]))).unwrap();
    fs::remove_dir_all(node.path("keys/.kms/sled")).unwrap();
    let server = node.serve();
    opens(&node.client_of(&server));
    let told = server.stderr();
    assert!(told.contains("key is served from its file") && told.contains("second"), "{told}");
    server.stop();

    // After `discard` the key comes back from its file. A deleted key does not.
    let config = node.path("config.yml");
    let discard = ["key", "discard", "second", "--config", text(&config)];
    Shell::default().run_with(&discard, b"second\n").ok();
    let server = node.serve();
    opens(&node.client_of(&server));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(listed(&node.client_of(&server)), names(&["first", "second"]));
    server.stop();

    // Keys that are missing in a backup of the store come back as well.
    for part in ["sled", "journal", "last"] {
        let gone = node.path("keys/.kms").join(part);
        let _ = fs::remove_dir_all(&gone);
        let _ = fs::remove_file(&gone);
        let copied = Command::new("cp").args(["-a", text(&older.join(part)), text(&gone)]).status().unwrap();
        assert!(copied.success());
    }
    let server = node.serve();
    opens(&node.client_of(&server));
    assert_eq!(listed(&node.client_of(&server)), names(&["first", "second"]));
}

#[test]
fn a_broken_key_file_is_named_and_the_rest_served() {
    let node = Node::new();
    let record = vectors("records", "records.json")[0]["record"].as_str().unwrap().to_owned();
    for (name, content) in [
        ("good", record.as_str()),
        ("with-line-end", &format!("{record}\n")),
        ("empty", ""),
        ("broken", "nonsense"),
        ("half", &record[..record.len() / 2]),
        ("no name", &record),
        (".hidden", &record),
    ] {
        fs::write(node.path("keys").join(name), content).unwrap();
    }
    let server = node.serve();
    let expected = ["good", "with-line-end", "empty", "broken", "half"].map(str::to_owned);
    assert_eq!(listed(&node.client_of(&server)), BTreeSet::from(expected));
    let told = server.stderr();
    for name in ["empty", "broken", "half", "no name"] {
        let file = node.path("keys").join(name).display().to_string();
        let is_told = |line: &str| line.contains("its key is not served") && line.contains(&file);
        assert!(told.lines().any(is_told), "{name} in {told}");
    }
    let check = Shell::default().run(&["check", "--config", text(&node.path("config.yml"))]);
    assert_eq!(check.status.code(), Some(1));
    assert!(check.stdout.contains("keys/empty"), "{check:?}");
}

/// Sends a request for which there is no command, and returns the status and the text of the answer.
pub fn ask(admin: &TestIdentity, server: &Serving, method: &str, path: &str, body: &str) -> (u16, String) {
    let stdout = server.stdout();
    let endpoint = stdout.split_whitespace().find_map(|word| word.strip_prefix("https://")).unwrap();
    let mut client = Client::new(endpoint.parse().unwrap(), Protocol::Http1, admin);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(kms_tests::spoilt::ask(&mut client, method, path, body))
}

/// Returns another user for the server if the test runs as root. Root can read every file.
fn other_user() -> Option<u32> {
    rustix::process::geteuid().is_root().then_some(65534)
}

/// Gives a directory to the other user. The test takes single files away later.
fn give_to(user: Option<u32>, dir: &Path) {
    let Some(user) = user else { return };
    let given = Command::new("chown").args(["-R", &format!("{user}:{user}"), text(dir)]).status().unwrap();
    assert!(given.success());
}

#[test]
fn what_has_a_name_and_cannot_be_used_is_not_absent() {
    let (node, admin) = (Node::new(), TestIdentity::new());
    let config = fs::read_to_string(node.path("config.yml")).unwrap();
    let line = config.lines().find(|line| line.contains("identity:")).unwrap().to_owned();
    let config = config.replace(&line, &format!("  identity: {}", admin.identity()));
    fs::write(node.path("config.yml"), config).unwrap();

    let record = vectors("records", "records.json")[0]["record"].as_str().unwrap().to_owned();
    let key = |name: &str| node.path("keys").join(name);
    for name in ["good", "unreadable"] {
        fs::write(key(name), &record).unwrap();
    }
    fs::create_dir(key("directory")).unwrap();
    assert!(Command::new("mkfifo").arg(key("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(key("socket")).unwrap();
    std::os::unix::fs::symlink("nowhere", key("dangling")).unwrap();
    std::os::unix::fs::symlink("loop", key("loop")).unwrap();
    fs::write(key("undecodable"), "nonsense").unwrap();
    fs::write(key("empty"), "").unwrap();
    fs::write(key("endless"), "a".repeat(100_000)).unwrap();
    let user = other_user();
    give_to(user, node.dir.path());
    fs::set_permissions(
        key("unreadable"),
        fs::Permissions::from_mode(if user.is_some() { 0o600 } else { 0 }),
    )
    .unwrap();
    if user.is_some() {
        assert!(Command::new("chown").args(["0:0", text(&key("unreadable"))]).status().unwrap().success());
    }
    let binary = node.path("kms");
    fs::copy(kms_tests::shell::kms(), &binary).unwrap();
    fs::set_permissions(node.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let config = node.path("config.yml");
    let server = Shell::default().serve_as(user, &binary, &["--config", text(&config)]);
    let bad =
        ["unreadable", "directory", "pipe", "socket", "dangling", "loop", "undecodable", "empty", "endless"];
    let check_all = |server: &Serving, bad: &[&str]| {
        for name in bad {
            let ask = |method: &str, path: &str, body: &str| {
                let (status, answer) = ask(&admin, server, method, &format!("/v1/key/{path}/{name}"), body);
                (status, answer.contains("already exists"), answer.contains("failed to read key"))
            };
            for (method, path, body) in [
                ("GET", "describe", ""),
                ("POST", "generate", "{}"),
                ("POST", "encrypt", r#"{"plaintext":"aGVsbG8="}"#),
                ("POST", "decrypt", r#"{"ciphertext":"aGVsbG8="}"#),
            ] {
                let answer = ask(method, path, body);
                assert!(answer == (502, false, true), "{path} {name}: {answer:?}");
            }
            assert_eq!(ask("POST", "create", ""), (400, true, false), "create {name}");
            let import = format!(r#"{{"key":"{}=","cipher":"AES256"}}"#, "A".repeat(43));
            assert_eq!(ask("POST", "import", &import), (400, true, false), "import {name}");
            assert_eq!(ask("DELETE", "delete", "").0, 502, "delete {name}");
            assert!(key(name).symlink_metadata().is_ok(), "{name} was removed");
            let told = server.stderr();
            let is_told = |line: &str| line.contains(text(&key(name))) && line.contains("cannot be used");
            assert!(told.lines().any(is_told), "{name} in {told}");
        }
    };
    check_all(&server, &bad);
    let (status, all) = ask(&admin, &server, "GET", "/v1/key/list/", "");
    assert!(status == 200 && bad.iter().all(|name| all.contains(&format!("\"{name}\""))), "{all}");
    let (status, ready) = ask(&admin, &server, "GET", "/v1/ready", "");
    assert_eq!(status, 200);
    assert!(ready.contains("9 key files") && ready.contains("dangling"), "{ready}");
    assert_eq!(ask(&admin, &server, "POST", "/v1/key/generate/good", "{}").0, 200);
    assert_eq!(ask(&admin, &server, "GET", "/v1/key/describe/absent", "").0, 404);

    // The server sees new files while it runs, and serves files that were repaired.
    fs::write(key("late"), "nonsense").unwrap();
    check_all(&server, &["late"]);
    fs::remove_file(key("dangling")).unwrap();
    assert_eq!(ask(&admin, &server, "POST", "/v1/key/create/dangling", "").0, 200);
    fs::set_permissions(key("unreadable"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(ask(&admin, &server, "POST", "/v1/key/generate/unreadable", "{}").0, 200);
    assert_eq!(ask(&admin, &server, "POST", "/v1/key/create/unreadable", "").0, 400);
    server.stop();
    let check = Shell::default().run(&["check", "--config", text(&config)]);
    assert_eq!(check.status.code(), Some(1));
    for name in bad.iter().filter(|name| !["dangling", "unreadable"].contains(name)) {
        let is_told = |line: &str| line.contains(text(&key(name))) && line.contains("cannot be used");
        assert!(check.stdout.lines().any(is_told), "{name} in {check:?}");
    }
}

#[test]
fn a_store_without_its_root_key_refuses_to_start() {
    let node = Node::new();
    node.serve().stop();
    let root_key = node.path("keys.root-key");
    let content = fs::read(&root_key).unwrap();
    fs::remove_file(&root_key).unwrap();
    let told = node.refused();
    assert!(told.contains(text(&root_key)) && told.contains("missing"), "{told}");
    assert!(!root_key.exists(), "another one was made");
    fs::write(&root_key, content).unwrap();
    fs::set_permissions(&root_key, fs::Permissions::from_mode(0o600)).unwrap();
    node.serve().stop();
    Shell::default().run(&["root-key", "rotate", "--config", text(&node.path("config.yml"))]).ok();
    node.serve();
}

/// A real KES. It is killed when it is dropped.
struct Kes(Child);

impl Drop for Kes {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_directory_that_kes_0_24_wrote_is_served_with_its_own_config() {
    let node = Node::new();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = node.path("config.yml");
    let text_before = fs::read_to_string(&config).unwrap();
    fs::write(&config, text_before.replace("127.0.0.1:0", &address.to_string())).unwrap();
    let running = Command::new(program("kes"))
        .args(["server", "--config", text(&config)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Kes)
        .unwrap();
    let client = node.client(&format!("https://{address}"));
    let began = Instant::now();
    while !client.run(&["status", "--short"]).status.success() {
        assert!(began.elapsed() < Duration::from_secs(60), "KES does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let key = "B".repeat(43) + "A=";
    assert_eq!(key.len(), 45);
    client.run(&["key", "create", "made"]).ok();
    client.run(&["key", "import", "imported", &key[1..]]).ok();
    let deks: Vec<_> = ["made", "imported"]
        .map(|name| (name, client.run(&["key", "dek", name, "Y29udGV4dA=="]).ok()))
        .into();
    let hmac = client.run(&["key", "hmac", "made", "hello"]).ok();
    let info = client.run(&["key", "info", "made", "--json"]).ok();
    drop(running);

    let server = Shell::default().serve(&["--config", text(&config)]);
    for (name, dek) in &deks {
        let opened = client.run(&["key", "decrypt", name, &field(dek, "ciphertext"), "Y29udGV4dA=="]).ok();
        assert_eq!(field(&opened, "plaintext"), field(dek, "plaintext"), "{name}");
    }
    assert_eq!(client.run(&["key", "hmac", "made", "hello"]).ok(), hmac);
    let ours = client.run(&["key", "info", "made", "--json"]).ok();
    for member in ["created_at", "created_by", "algorithm"] {
        assert_eq!(field(&ours, member), field(&info, member));
    }
    drop(server);
}

#[test]
fn pipes_in_the_place_of_files_hold_up_no_start() {
    let node = Node::new();
    node.serve().stop();
    let pipe = |name: &str| {
        let path = node.path("keys").join(name);
        let _ = fs::remove_file(&path);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
    };
    for name in ["my-key", ".kms/imported", ".kms/deleted"] {
        pipe(name);
    }
    let server = node.serve();
    assert!(server.stderr().contains("it is a pipe, expected the file of a key"), "{}", server.stderr());
    let client = node.client_of(&server);
    client.run(&["key", "create", "other"]).ok();
    client.run(&["key", "rm", "other"]).ok();
    server.stop();
}
