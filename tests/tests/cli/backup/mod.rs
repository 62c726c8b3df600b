//! Backups of the embedded store, from the server to a store that serves the keys again.

mod under_creates;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_tests::recipient::{OTHER, OWNER};
use kms_tests::shell::{Done, Serving, Shell, field, kms, text};
use serde_json::Value;
use tempfile::TempDir;

/// A directory that `kms init` made, whose server seals backups to [`OWNER`].
pub struct Node {
    dir: TempDir,
    made: String,
}

impl Node {
    pub fn init() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Shell::default().run(&["init", text(&dir.path().join("node")), "--json"]).ok();
        let node = Self { dir, made };
        node.append(&format!("\n[backup]\nrecipients = [\"{}\"]\n", OWNER.public));
        node
    }

    fn append(&self, lines: &str) {
        let config = self.config();
        let content = fs::read_to_string(&config).unwrap();
        fs::write(&config, content + lines).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("node/config.toml")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns whether a file is there that is not whole.
    fn has_partial(&self) -> bool {
        let mut files = fs::read_dir(self.dir.path()).unwrap();
        files.any(|file| file.unwrap().file_name().to_string_lossy().ends_with(".partial"))
    }

    pub fn api_key(&self) -> String {
        field(&self.made, "api_key")
    }

    pub fn serve(&self) -> (Serving, Shell) {
        let server = Shell::default().serve(&["--config", text(&self.config()), "--addr", "127.0.0.1:0"]);
        let stdout = server.stdout();
        let endpoint = stdout.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
        let shell = Shell::default()
            .set("KES_SERVER", endpoint)
            .set("KES_CA_CERT", self.dir.path().join("node/server.crt").display())
            .set("KES_API_KEY", self.api_key());
        (server, shell)
    }

    /// Restores an archive into the stopped store of this node.
    pub fn restore(&self, archive: &Path, identity: &Path) -> Done {
        let (archive, identity, config) = (text(archive), text(identity), self.config());
        Shell::default().run(&[
            "backup",
            "restore",
            archive,
            "--identity",
            identity,
            "--to",
            text(&config),
            "--json",
        ])
    }
}

fn seal(shell: &Shell, key: &str) -> String {
    field(&shell.run(&["key", "encrypt", key, "hello"]).ok(), "ciphertext")
}

fn opens(shell: &Shell, key: &str, ciphertext: &str) {
    let opened = shell.run(&["key", "decrypt", key, ciphertext]).ok();
    assert_eq!(field(&opened, "plaintext"), "aGVsbG8=", "{key}");
}

/// Runs a command on a terminal, on which these lines are typed.
fn on_a_terminal(command: &str, typed: &str) -> Done {
    let command = format!("{} {command}", kms().display());
    let arguments = ["-q", "-e", "-c", &command, "/dev/null"];
    Shell::default().run_binary(Path::new("/usr/bin/script"), &arguments, typed.as_bytes())
}

#[test]
fn a_backup_of_a_server_is_verified_and_restored_elsewhere() {
    let node = Node::init();
    let (server, shell) = node.serve();
    shell.run(&["key", "create", "rotated", "plain", "deleted"]).ok();
    let mut sealed = vec![("rotated", seal(&shell, "rotated")), ("plain", seal(&shell, "plain"))];
    shell.run(&["key", "rotate", "rotated"]).ok();
    sealed.push(("deleted", seal(&shell, "deleted")));
    shell.run(&["key", "rm", "deleted"]).ok();

    let (archive, identity) = (node.path("keys.backup"), OWNER.file(node.dir.path(), "identity"));
    let made = shell.run(&["backup", "create", "-o", text(&archive)]).ok();
    let (told, sha256) = made.split_once("\nSHA-256 ").unwrap();
    assert_eq!(told, format!("3 keys with 4 versions are in {}, for 1 recipient.", archive.display()));
    let sha256 = sha256.trim_end();
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let again = shell.run(&["backup", "create", "-o", text(&archive)]).error();
    assert!(again.contains("nothing is overwritten"), "{again}");
    server.stop();

    let verify =
        |more: &[&str]| Shell::default().run(&[&["backup", "verify", text(&archive)], more].concat());
    let told = verify(&["--identity", text(&identity)]).ok();
    assert!(told.contains("whole; 3 keys with 4 versions of the key store fs"), "{told}");
    assert!(told.contains("1 key: deleted, restorable"), "{told}");
    let told: Value = serde_json::from_str(&verify(&["--identity", text(&identity), "--json"]).ok()).unwrap();
    assert_eq!((&told["manifest"]["keys"], &told["manifest"]["store"]), (&3.into(), &"fs".into()));
    assert_eq!(told["sha256"], sha256);
    // Anybody can seal to a recipient, so an archive of another hash is refused.
    let of_another = "0".repeat(64);
    verify(&["--identity", text(&identity), "--sha256", &sha256.to_uppercase()]).ok();
    let error = verify(&["--identity", text(&identity), "--sha256", &of_another]).error();
    assert!(error.contains(sha256) && error.contains("another backup"), "{error}");
    let done = verify(&["--identity", text(&identity), "--sha256", "abc"]);
    assert!(done.status.code() == Some(2) && done.stderr.contains("64 hexadecimal digits"), "{done:?}");
    let error = {
        let (archive, identity, config) = (text(&archive), text(&identity), node.config());
        let arguments =
            ["backup", "restore", archive, "--identity", identity, "--sha256", &of_another, "--to"];
        Shell::default().run(&[&arguments[..], &[text(&config)]].concat()).error()
    };
    assert!(error.contains("another backup"), "{error}");
    let other = OTHER.file(node.dir.path(), "other");
    let error = verify(&["--identity", text(&other)]).error();
    assert!(error.contains("it is sealed to others"), "{error}");

    let elsewhere = Node::init();
    // A store that was made anew has no root key yet, or an empty store: the config decides, as at a start.
    let restored: Value = serde_json::from_str(&elsewhere.restore(&archive, &identity).ok()).unwrap();
    assert_eq!((&restored["stored"], &restored["proven"]), (&3.into(), &3.into()));
    let (server, shell) = elsewhere.serve();
    opens(&shell, "rotated", &sealed[0].1);
    opens(&shell, "plain", &sealed[1].1);
    assert!(shell.run(&["key", "info", "deleted"]).error().contains("key is deleted"));
    shell.run(&["key", "restore", "deleted"]).ok();
    opens(&shell, "deleted", &sealed[2].1);
    let error = elsewhere.restore(&archive, &identity).error();
    assert!(error.contains("stop its server first"), "{error}");
    server.stop();

    // The same again changes nothing, tells what is different, and does not call that whole.
    let done = elsewhere.restore(&archive, &identity);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let restored: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(
        (&restored["stored"], &restored["there"], &restored["proven"]),
        (&0.into(), &3.into(), &3.into())
    );
    assert_eq!(restored["differs"][0]["key"], "deleted");
}

#[test]
fn a_restore_overwrites_nothing_and_names_what_is_in_the_way() {
    let node = Node::init();
    let (server, shell) = node.serve();
    shell.run(&["key", "create", "a", "b"]).ok();
    let archive = node.path("keys.backup");
    shell.run(&["backup", "create", "-o", text(&archive)]).ok();
    server.stop();

    let other = Node::init();
    let (server, shell) = other.serve();
    shell.run(&["key", "create", "a"]).ok();
    let sealed = seal(&shell, "a");
    server.stop();
    let identity = OWNER.file(other.dir.path(), "identity");
    let done = other.restore(&archive, &identity);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let restored: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&restored["stored"], &restored["proven"]), (&1.into(), &1.into()));
    assert_eq!(restored["conflicts"][0]["key"], "a");
    assert!(restored["conflicts"][0]["why"].as_str().unwrap().contains("another key has this name"));
    let (_server, shell) = other.serve();
    opens(&shell, "a", &sealed);
}

#[test]
fn a_key_that_is_deleted_at_the_target_is_not_called_restored() {
    let node = Node::init();
    let (server, shell) = node.serve();
    shell.run(&["key", "create", "a", "b"]).ok();
    let archive = node.path("keys.backup");
    shell.run(&["backup", "create", "-o", text(&archive)]).ok();
    shell.run(&["key", "rm", "a"]).ok();
    shell.run(&["key", "rotate", "b"]).ok();
    server.stop();
    let identity = OWNER.file(node.dir.path(), "identity");
    let done = node.restore(&archive, &identity);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let restored: Value = serde_json::from_str(&done.stdout).unwrap();
    let told: Vec<_> = ["differs", "conflicts"]
        .iter()
        .flat_map(|list| restored[list].as_array().unwrap().clone())
        .map(|note| (note["key"].clone(), note["why"].as_str().unwrap().contains("deleted")))
        .collect();
    assert_eq!(told, [("a".into(), true)], "{restored}");

    let (server, shell) = node.serve();
    shell.run(&["key", "restore", "a"]).ok();
    server.stop();
    node.restore(&archive, &identity).ok();
}

#[test]
fn a_key_that_cannot_be_read_is_left_out_only_if_the_command_says_so() {
    let node = Node::init();
    let (server, shell) = node.serve();
    shell.run(&["key", "create", "a", "b", "c"]).ok();
    server.stop();
    // The journal loses the line of a key, and the database is gone: the name is known, and its record is lost.
    let data = node.path("node/data");
    let journal = fs::read_to_string(data.join("journal")).unwrap();
    let line = journal.lines().find(|line| line.contains(" + b ")).unwrap();
    let at = line.find(" + b ").unwrap() + " + b ".len();
    let damaged = format!("{}{}", &line[..at], "?".repeat(line.len() - at));
    fs::write(data.join("journal"), journal.replace(line, &damaged)).unwrap();
    fs::remove_dir_all(data.join("sled")).unwrap();

    let (server, shell) = node.serve();
    let archive = node.path("keys.backup");
    assert!(!shell.run(&["backup", "create", "-o", text(&archive)]).status.success());
    assert!(!archive.exists() && !node.has_partial());
    let done = shell.run(&["backup", "create", "-o", text(&archive), "--leave-out-unreadable"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(done.stdout.starts_with("2 keys with 2 versions"), "{done:?}");
    assert!(done.stderr.contains("1 key cannot be read"), "{done:?}");
    server.stop();
    let identity = OWNER.file(node.dir.path(), "identity");
    let verify = ["backup", "verify", text(&archive), "--identity", text(&identity)];
    let told = Shell::default().run(&verify).ok();
    assert!(told.contains("not in it: key 'b': it cannot be read"), "{told}");
    let evidence = node.path("evidence.json");
    let drill = ["backup", "drill", text(&archive), "--identity", text(&identity), "-o", text(&evidence)];
    assert!(Shell::default().run(&drill).error().contains("it left out 1 key"));
    Shell::default().run(&[&drill[..], &["--allow-left-out"]].concat()).ok();

    let offline = node.path("offline.backup");
    let config = node.config();
    let create = |more: &[&str]| {
        let arguments = ["backup", "create", "-o", text(&offline), "--config", text(&config), "--json"];
        Shell::default().run(&[&arguments, more].concat())
    };
    assert!(!create(&[]).status.success() && !offline.exists());
    let done = create(&["--leave-out-unreadable"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&told["summary"]["keys"], &told["summary"]["unreadable"]), (&2.into(), &1.into()));
}

#[test]
fn a_damaged_backup_is_refused_before_anything_is_restored() {
    let node = Node::init();
    let (server, shell) = node.serve();
    shell.run(&["key", "create", "a", "b"]).ok();
    let archive = node.path("keys.backup");
    shell.run(&["backup", "create", "-o", text(&archive)]).ok();
    server.stop();
    let identity = OWNER.file(node.dir.path(), "identity");
    let good = fs::read(&archive).unwrap();
    let target = Node::init();
    let evidence = node.path("evidence.json");
    for change in [
        |bytes: &mut Vec<u8>| bytes[0] ^= 1,
        |bytes: &mut Vec<u8>| bytes[40] ^= 1,
        |bytes: &mut Vec<u8>| bytes[300] ^= 1,
        |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1,
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1),
        |bytes: &mut Vec<u8>| bytes.clear(),
        |bytes: &mut Vec<u8>| bytes.push(0),
    ] {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&archive, &bytes).unwrap();
        let verified = Shell::default()
            .run(&["backup", "verify", text(&archive), "--identity", text(&identity)])
            .error();
        assert!(verified.contains(text(&archive)), "the error names the file: {verified}");
        assert!(!target.restore(&archive, &identity).status.success());
        let drill = ["backup", "drill", text(&archive), "--identity", text(&identity), "-o", text(&evidence)];
        assert_eq!(Shell::default().run(&drill).status.code(), Some(1));
        let told: Value = serde_json::from_str(&fs::read_to_string(&evidence).unwrap()).unwrap();
        assert_eq!((&told["verdict"], told.get("last_good")), (&"bad".into(), None));
    }
    let (_server, shell) = target.serve();
    assert_eq!(shell.run(&["key", "ls", "--json"]).ok(), "[]\n", "nothing was restored");
}

#[test]
fn a_drill_leaves_dated_evidence() {
    let node = Node::init();
    let evidence = node.path("evidence.json");
    let (_server, shell) = node.serve();
    shell.run(&["key", "create", "a", "b"]).ok();
    shell.run(&["key", "rotate", "a"]).ok();
    let (archive, identity) = (node.path("keys.backup"), OWNER.file(node.dir.path(), "identity"));
    shell.run(&["backup", "create", "-o", text(&archive)]).ok();
    let drill = |archive: &Path| {
        let arguments =
            ["backup", "drill", text(archive), "--identity", text(&identity), "-o", text(&evidence)];
        Shell::default().run(&arguments)
    };
    let told = || serde_json::from_str::<Value>(&fs::read_to_string(&evidence).unwrap()).unwrap();
    let done = drill(&archive).ok();
    assert!(done.starts_with("good: 2 keys with 3 versions restored into memory"), "{done}");
    let good = told();
    assert_eq!((&good["verdict"], &good["keys"], &good["versions"]), (&"good".into(), &2.into(), &3.into()));
    assert_eq!(good["archive"]["bytes"], fs::metadata(&archive).unwrap().len());
    assert_eq!(good["archive"]["sha256"].as_str().unwrap().len(), 64);
    assert!(good["archive"]["age_seconds"].as_i64().unwrap() < 600);
    assert_eq!(good["last_good"], good["ended"]);

    assert_eq!(good["last_good_snapshot"], good["archive"]["manifest"]["began"]);

    // What is whole is not good if it is older than the drill demands, or of another hash.
    let drill_with = |more: &[&str]| {
        let arguments =
            ["backup", "drill", text(&archive), "--identity", text(&identity), "-o", text(&evidence)];
        Shell::default().run(&[&arguments, more].concat())
    };
    let sha256 = good["archive"]["sha256"].as_str().unwrap();
    drill_with(&["--max-age", "1d", "--sha256", sha256]).ok();
    // Ages are in whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    for (flag, value, why) in
        [("--max-age", "1ms", "longer ago than --max-age"), ("--sha256", &"0".repeat(64), "another backup")]
    {
        let done = drill_with(&[flag, value]);
        assert!(done.status.code() == Some(1) && done.stderr.contains(why), "{done:?}");
        assert_eq!(told()["verdict"], "bad");
    }
    let good = {
        drill(&archive).ok();
        told()
    };

    // Only evidence is replaced, and nothing is done where it could not be written.
    let before = fs::read(&archive).unwrap();
    for other in [text(&archive), text(&identity)] {
        let arguments = ["backup", "drill", text(&archive), "--identity", text(&identity), "-o", other];
        let error = Shell::default().run(&arguments).error();
        assert!(error.contains("no evidence of a drill"), "{error}");
    }
    assert!(fs::read(&archive).unwrap() == before);

    // A bad drill does not hide when the last good one was.
    let mut bytes = fs::read(&archive).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&archive, bytes).unwrap();
    assert_eq!(drill(&archive).status.code(), Some(1));
    let bad = told();
    assert_eq!((&bad["verdict"], &bad["last_good"]), (&"bad".into(), &good["last_good"]));
    assert_eq!(bad["last_good_snapshot"], good["last_good_snapshot"]);
    assert!(bad["why"].as_str().unwrap().contains("keys.backup"));
}

#[test]
fn a_drill_of_a_backup_without_keys_is_bad_unless_that_is_expected() {
    let node = Node::init();
    let (_server, shell) = node.serve();
    let (archive, identity) = (node.path("keys.backup"), OWNER.file(node.dir.path(), "identity"));
    shell.run(&["backup", "create", "-o", text(&archive)]).ok();
    let evidence = node.path("evidence.json");
    let drill = ["backup", "drill", text(&archive), "--identity", text(&identity), "-o", text(&evidence)];
    let error = Shell::default().run(&drill).error();
    assert!(error.contains("it has no keys"), "{error}");
    let told: Value = serde_json::from_str(&fs::read_to_string(&evidence).unwrap()).unwrap();
    assert_eq!((&told["verdict"], told.get("last_good")), (&"bad".into(), None));
    Shell::default().run(&[&drill[..], &["--allow-empty"]].concat()).ok();
}

#[test]
fn a_stopped_store_is_backed_up_to_whom_the_command_says() {
    let node = Node::init();
    let (server, shell) = node.serve();
    shell.run(&["key", "create", "a"]).ok();
    let sealed = seal(&shell, "a");
    let config = node.config();
    let create = |file: &Path, more: &[&str]| {
        let arguments = ["backup", "create", "-o", text(file), "--config", text(&config)];
        Shell::default().run(&[&arguments, more].concat())
    };
    let archive = node.path("offline.backup");
    let error = create(&archive, &[]).error();
    assert!(error.contains("stop its server first"), "{error}");
    server.stop();
    create(&archive, &[]).ok();
    let identity = OWNER.file(node.dir.path(), "identity");
    Shell::default().run(&["backup", "verify", text(&archive), "--identity", text(&identity)]).ok();

    let other = node.path("other.backup");
    create(&other, &["--recipient", OTHER.public]).ok();
    assert!(
        !Shell::default()
            .run(&["backup", "verify", text(&other), "--identity", text(&identity)])
            .status
            .success()
    );
    let secret = create(&node.path("none"), &["--recipient", OTHER.secret]).error();
    assert!(secret.contains("a secret key of age") && !secret.contains(OTHER.secret), "{secret}");
    assert!(!node.path("none").exists() && !node.has_partial());

    let sealed_by_words = node.path("words.backup");
    let command =
        format!("backup create -o {} --config {} --passphrase", sealed_by_words.display(), config.display());
    let mismatch = on_a_terminal(&command, "horse\nhose\n");
    assert!(mismatch.stdout.contains("passphrases don't match") && !sealed_by_words.exists(), "{mismatch:?}");
    on_a_terminal(&command, "horse\nhorse\n").ok();
    let verify = format!("backup verify {} --passphrase", sealed_by_words.display());
    assert!(!on_a_terminal(&verify, "hose\n").status.success());
    let told = on_a_terminal(&verify, "horse\n");
    assert!(told.status.success() && told.stdout.contains("1 key"), "{told:?}");
    let no_terminal = Shell::default().run(&["backup", "verify", text(&sealed_by_words), "--passphrase"]);
    assert!(!no_terminal.status.success());

    let target = Node::init();
    assert!(target.restore(&other, &OTHER.file(target.dir.path(), "identity")).status.success());
    let (_server, shell) = target.serve();
    opens(&shell, "a", &sealed);
}

#[test]
fn a_backup_that_breaks_off_leaves_no_file() {
    let node = Node::init();
    let (_server, shell) = node.serve();
    let archive = node.path("keys.backup");
    let stranger = Shell::default().run(&["identity", "new", "--json"]).ok();
    let denied = shell.clone().set("KES_API_KEY", field(&stranger, "api_key"));
    let error = denied.run(&["backup", "create", "-o", text(&archive)]).error();
    assert!(error.contains("/v1/backup/create") && !archive.exists() && !node.has_partial(), "{error}");
    // What another command is writing to the same place stays.
    let other = node.path("keys.backup.partial");
    fs::write(&other, "half").unwrap();
    assert!(!denied.run(&["backup", "create", "-o", text(&archive)]).status.success() && other.exists());
    fs::remove_file(&other).unwrap();
    fs::create_dir(&archive).unwrap();
    assert!(!shell.run(&["backup", "create", "-o", text(&archive)]).status.success());
    let error = shell.run(&["backup", "create", "-o", text(&node.path("none/keys"))]).error();
    assert!(error.contains("none/keys"), "{error}");
    assert!(!node.has_partial());
}

#[test]
fn recipients_are_checked_at_the_start() {
    let node = Node::init();
    let config = node.config();
    let content = fs::read_to_string(&config).unwrap();
    for (recipient, expected) in [
        ("age1nothing", "backup.recipients"),
        (OWNER.secret, "a secret key of age, expected its public half"),
    ] {
        fs::write(&config, content.replace(OWNER.public, recipient)).unwrap();
        let checked = Shell::default().run(&["server", "--config", text(&config)]);
        assert!(!checked.status.success() && checked.stderr.contains(expected), "{checked:?}");
        assert!(!checked.stderr.contains(OWNER.secret), "{checked:?}");
    }
}
