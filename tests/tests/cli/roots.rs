//! Several roots of one store, by the commands of operators.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_tests::shell::{Serving, Shell, field, text};
use serde_json::Value;
use tempfile::TempDir;

/// The variables of two further root keys.
const VARIABLES: [&str; 2] = ["FIRST", "SECOND"];

/// A node whose store has several roots.
struct Node {
    dir: TempDir,
    made: String,
    shell: Shell,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Shell::default().run(&["init", text(&dir.path().join("node")), "--json"]).ok();
        let shell = VARIABLES.into_iter().zip([1, 2]).fold(Shell::default(), |shell, (variable, byte)| {
            shell.set(variable, STANDARD.encode([byte; 32]))
        });
        let node = Self { dir, made, shell };
        fs::copy(node.path("config.toml"), node.path("own.toml")).unwrap();
        node
    }

    /// A node on a store without a root key of its own.
    fn without_own_root() -> Self {
        let node = Self::new();
        fs::remove_dir_all(node.path("data")).unwrap();
        let config = fs::read_to_string(node.path("config.toml")).unwrap();
        let lines = config.lines().filter(|line| !line.starts_with("root_key_file"));
        let config: Vec<_> = lines.collect();
        fs::write(node.path("own.toml"), config.join("\n")).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("node").join(name)
    }

    /// Writes a config with root keys from these variables.
    fn config(&self, variables: &[&str]) -> PathBuf {
        let mut config = fs::read_to_string(self.path("own.toml")).unwrap();
        for variable in variables {
            writeln!(config, "\n[[kms]]\nlocal.root_key_env = \"{variable}\"").unwrap();
        }
        let file = self.path("config.toml");
        fs::write(&file, config).unwrap();
        file
    }

    fn serve(&self, config: &Path) -> Serving {
        self.shell.serve(&["--config", text(config), "--addr", "127.0.0.1:0"])
    }

    /// Runs a command of a client against a server with this config.
    fn client(&self, config: &Path, commands: &[&[&str]]) -> (Vec<String>, String) {
        let server = self.serve(config);
        let stdout = server.stdout();
        let endpoint = stdout.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
        let client = Shell::default()
            .set("KES_SERVER", endpoint)
            .set("KES_CA_CERT", self.path("server.crt").display())
            .set("KES_API_KEY", field(&self.made, "api_key"));
        let told = commands.iter().map(|command| client.run(command).ok()).collect();
        let stderr = server.stderr();
        assert!(server.stop().success());
        (told, stderr)
    }

    fn root(&self, config: &Path, command: &[&str]) -> kms_tests::shell::Done {
        self.shell.run(&[&["root"], command, &["--config", text(config)]].concat())
    }

    /// Expects that a command fails with this word, after notes.
    fn fails(&self, config: &Path, command: &[&str], word: &str) {
        let done = self.root(config, command);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        assert!(done.stderr.lines().last().is_some_and(|line| line.contains(word)), "{done:?}");
    }

    fn status(&self, config: &Path) -> Value {
        serde_json::from_str(&self.root(config, &["status", "--json"]).ok()).unwrap()
    }

    fn ids(&self, config: &Path) -> Vec<String> {
        let status = self.status(config);
        status["roots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|root| root["id"].as_str().unwrap().to_owned())
            .collect()
    }

    fn opens(&self, config: &Path) -> Vec<bool> {
        let status = self.status(config);
        status["roots"].as_array().unwrap().iter().map(|root| root["opens"].as_bool().unwrap()).collect()
    }

    fn check(&self, config: &Path) -> String {
        self.shell.run(&["check", "--config", text(config)]).stdout
    }

    /// Expects that a start with this config is refused with these words.
    fn refused(&self, config: &Path, words: &[&str]) {
        let told = self.shell.run(&["server", "--config", text(config), "--addr", "127.0.0.1:0"]).error();
        for word in words {
            assert!(told.contains(word), "'{word}' is not in: {told}");
        }
    }
}

const LIST: &[&str] = &["key", "ls", "--json"];

#[test]
fn a_store_with_its_own_root_key_is_adopted_and_survives_its_loss() {
    let node = Node::new();
    node.client(&node.path("own.toml"), &[&["key", "create", "before"]]);
    let config = node.config(&["FIRST"]);
    let (_, log) = node.client(&config, &[&["key", "dek", "before"]]);
    assert!(log.contains("kms root adopt"), "{log}");
    assert!(node.check(&config).contains("kms root adopt"));
    assert_eq!(node.status(&config)["store_key"], Value::Null);

    let adopted = node.root(&config, &["adopt"]).ok();
    assert!(
        adopted.contains("which each of its roots opens") && !adopted.contains("one by one"),
        "{adopted}"
    );
    assert!(node.root(&config, &["adopt"]).error().contains("already"));
    assert_eq!(node.opens(&config), [true, true]);
    assert_eq!(node.status(&config)["records"]["one_root_only"], 0);
    let checked = node.check(&config);
    assert!(checked.contains("builds before roots read this store"), "{checked}");
    node.client(&config, &[&["key", "create", "after"]]);
    // Without the list, and to builds before roots, the store is as it was.
    let (told, _) = node.client(&node.path("own.toml"), &[LIST, &["key", "dek", "after"]]);
    assert!(told[0].contains("before") && told[0].contains("after") && !told[0].contains(".r"), "{told:?}");

    fs::rename(node.path("root.key"), node.path("lost.key")).unwrap();
    node.refused(&node.path("own.toml"), &["root.key", "missing"]);
    let (told, log) = node.client(&config, &[LIST, &["key", "dek", "before"], &["key", "create", "later"]]);
    assert!(told[0].contains("before") && told[0].contains("after"), "{told:?}");
    assert!(log.contains("keystore.fs: this root does not open"), "{log}");
    let checked = node.check(&config);
    assert!(checked.contains("this root does not open") && checked.contains("3 keys read"), "{checked}");
}

#[test]
fn the_own_root_key_of_a_store_can_be_removed_and_nothing_older_opens_the_store_then() {
    let node = Node::new();
    node.client(&node.path("own.toml"), &[&["key", "create", "my-key"]]);
    let config = node.config(&["FIRST"]);
    node.root(&config, &["adopt"]).ok();
    let ids = node.ids(&config);
    assert!(ids.iter().all(|id| id.starts_with("local-")), "{ids:?}");
    assert!(node.root(&config, &["remove", "local-00"]).ok().contains("local-00 is not in the store"));
    assert!(node.root(&config, &["remove", &ids[0]]).ok().contains("opens the store no more"));
    assert!(node.root(&config, &["remove", &ids[0]]).ok().contains("is not in the store"));
    node.refused(&node.path("own.toml"), &["no local root key in its header any more", "'kms'"]);
    assert_eq!(node.opens(&config), [false, true]);
    let checked = node.check(&config);
    assert!(checked.contains("oldest release that reads this store"), "{checked}");
    assert!(node.root(&config, &["remove", &ids[1]]).error().contains("never removed"));
    node.client(&config, &[&["key", "dek", "my-key"], &["key", "create", "later"]]);
    // The removed root key comes back as any other root.
    node.root(&config, &["add", &ids[0]]).ok();
    assert_eq!(node.opens(&config), [true, true]);
    node.root(&config, &["remove", &ids[1]]).ok();
    let alone = node.shell.run(&["root", "status", "--config", text(&config)]).ok();
    assert!(alone.contains("has no entry"), "{alone}");
    node.client(&config, &[&["key", "dek", "my-key"], &["key", "dek", "later"]]);
}

#[test]
fn a_lost_root_key_is_removed_from_the_header_by_the_id_that_status_showed() {
    let node = Node::new();
    let config = node.config(&["FIRST"]);
    node.client(&config, &[&["key", "create", "my-key"]]);
    assert_eq!(node.opens(&config), [true, true], "an empty store got its entries at the start");
    let ids = node.ids(&config);
    fs::remove_file(node.path("root.key")).unwrap();
    let status = node.root(&config, &["status"]).ok();
    assert!(status.contains("under a local root key that is not here"), "{status}");
    // A typo, the id of another root and a retry without the word remove nothing from the header.
    let digits = format!("local-{}", "0".repeat(32));
    node.fails(&config, &["remove", &ids[0]], "--header");
    node.fails(&config, &["remove", &digits], "has no entry");
    node.fails(&config, &["remove", &ids[1], "--header"], "configured");
    assert!(node.root(&config, &["status"]).ok().contains("not here"));
    node.root(&config, &["remove", &ids[0], "--header"]).ok();
    let status = node.root(&config, &["status"]).ok();
    assert!(!status.contains("not here"), "{status}");
    let again = node.root(&config, &["remove", &ids[0], "--header"]).ok();
    assert!(again.contains("is not in the store"), "{again}");
    node.fails(&config, &["remove", &ids[1], "--header"], "no store key any more");
    node.client(&config, &[&["key", "dek", "my-key"]]);
}

#[test]
fn the_removal_of_an_entry_leaves_the_header_under_a_root_key_that_is_not_here() {
    let node = Node::new();
    let config = node.config(&VARIABLES);
    node.client(&config, &[&["key", "create", "my-key"]]);
    let ids = node.ids(&config);
    fs::rename(node.path("root.key"), node.path("away.key")).unwrap();
    node.root(&config, &["remove", &ids[1]]).ok();
    // The same command once more, as after a cut that came too late.
    node.fails(&config, &["remove", &ids[1]], "--header");
    fs::rename(node.path("away.key"), node.path("root.key")).unwrap();
    assert_eq!(node.opens(&config), [true, false, true], "the root key of the header opens");
    node.client(&config, &[&["key", "dek", "my-key"]]);
}

#[test]
fn a_root_key_that_cannot_be_read_is_a_root_that_is_away() {
    let node = Node::new();
    let config = node.config(&["FIRST"]);
    node.client(&config, &[&["key", "create", "my-key"]]);
    fs::rename(node.path("root.key"), node.path("away.key")).unwrap();
    let status = node.root(&config, &["status"]).ok();
    assert!(status.contains("unread-header  is away") && status.contains("root.key"), "{status}");
    assert_eq!(node.opens(&config), [false, true]);
    let (_, log) = node.client(&config, &[&["key", "dek", "my-key"]]);
    assert!(log.contains("root 'unread-header' is away"), "{log}");
}

#[test]
fn two_roots_without_a_root_key_of_the_store_each_open_it() {
    let node = Node::without_own_root();
    let both = node.config(&VARIABLES);
    let (_, log) = node.client(&both, &[&["key", "create", "my-key"]]);
    assert!(log.contains("got its store key"), "{log}");
    for alone in [&["FIRST"] as &[_], &["SECOND"], &["SECOND", "FIRST"]] {
        let config = node.config(alone);
        node.client(&config, &[&["key", "dek", "my-key"]]);
        assert!(node.opens(&config).iter().all(|opens| *opens));
        let checked = node.check(&config);
        assert!(checked.contains("1 key read") && checked.contains("oldest release"), "{checked}");
    }
    // A wrong root is refused before anything is written, and one beside a right one is told.
    let wrong = node.shell.set("SECOND", STANDARD.encode([9; 32]));
    let node = Node { shell: wrong, ..node };
    let config = node.config(&["SECOND"]);
    node.refused(&config, &["config.toml", "kms", "no root opens it", "has no entry"]);
    assert!(node.check(&config).contains("has no entry"));
    let config = node.config(&VARIABLES);
    let (_, log) = node.client(&config, &[&["key", "dek", "my-key"]]);
    assert!(log.contains("has no entry") && log.contains("kms root add"), "{log}");
    assert_eq!(node.opens(&config), [true, false]);
    let ids = node.ids(&config);
    assert!(node.root(&config, &["add", &ids[1]]).ok().contains("opens the store key now"));
    assert!(node.root(&config, &["add", &ids[1]]).ok().contains("already"));
    node.root(&config, &["remove", &ids[0]]).ok();
    node.client(&node.config(&["SECOND"]), &[&["key", "dek", "my-key"]]);
    assert!(node.root(&config, &["remove", "store"]).error().contains("invalid id"));
}

#[test]
fn status_says_when_a_root_last_opened_that_does_not_open_now() {
    let node = Node::new();
    let config = node.config(&["FIRST"]);
    node.client(&config, &[&["key", "create", "my-key"]]);
    let told = node.root(&config, &["status"]).ok();
    assert_eq!(told.matches("opens now, at 20").count(), 2, "{told}");
    let wrong = node.shell.clone().set("FIRST", STANDARD.encode([9; 32]));
    let node = Node { shell: wrong, ..node };
    let ids = node.ids(&config);
    // Another root key has another id, and never opened this store.
    let told = node.root(&config, &["status"]).ok();
    assert!(told.contains(&format!("{}  is in the config but has no entry", ids[1])), "{told}");
    assert!(told.contains("when it last opened is not known"), "{told}");

    // Under a name of its own, a root whose key is wrong is one that opened before.
    let mut text = fs::read_to_string(&config).unwrap();
    writeln!(text, "\n[[kms]]\nid = \"second\"\nlocal.root_key_env = \"SECOND\"").unwrap();
    fs::write(&config, text.replace("root_key_env = \"FIRST\"", "root_key_env = \"THIRD\"")).unwrap();
    let good = node.shell.clone().set("THIRD", STANDARD.encode([1; 32]));
    let node = Node { shell: good, ..node };
    node.root(&config, &["add", "second"]).ok();
    node.client(&config, &[&["key", "dek", "my-key"]]);
    let time = |root: &Value| root["last_opened"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let opened = time(&node.status(&config)["roots"][2]);
    let node = Node { shell: node.shell.clone().set("SECOND", STANDARD.encode([8; 32])), ..node };
    let status = node.status(&config);
    let lost = &status["roots"][2];
    assert_eq!((&lost["id"], &lost["opens"]), (&"second".into(), &false.into()), "{status}");
    assert!(time(lost) <= opened, "{status}");
    let told = node.root(&config, &["status"]).ok();
    assert!(told.contains("it last opened at 20") && told.contains("roots-opened.json says"), "{told}");
}

#[test]
fn a_removed_root_that_is_left_in_the_config_is_told_by_server_and_check() {
    let node = Node::without_own_root();
    let config = node.config(&VARIABLES);
    node.client(&config, &[&["key", "create", "my-key"]]);
    let ids = node.ids(&config);
    node.root(&config, &["remove", &ids[1]]).ok();
    let (_, log) = node.client(&config, &[&["key", "dek", "my-key"]]);
    let warning = format!("root '{}' is in the config but has no entry in this store", ids[1]);
    let checked = node.check(&config);
    let warned = checked.lines().find(|line| line.contains("is in the config but has no entry"));
    assert!(warned.is_some_and(|line| line.contains(&ids[1])), "{checked}");
    for told in [&log, &checked] {
        assert!(told.contains("it was removed or never added") && told.contains("kms root add"), "{told}");
    }
    assert!(log.contains(&warning), "{log}");
    // Out of the config, nothing is told of it.
    let config = node.config(&VARIABLES[..1]);
    let (_, log) = node.client(&config, &[&["key", "dek", "my-key"]]);
    assert!(!log.contains("has no entry") && !node.check(&config).contains("has no entry"), "{log}");
}

#[test]
fn the_commands_wait_for_the_server_to_stop_and_need_a_list() {
    let node = Node::new();
    let config = node.config(&["FIRST"]);
    let server = node.serve(&config);
    for command in [&["status"] as &[_], &["adopt"], &["init"], &["add", "a"], &["remove", "a"]] {
        let told = node.root(&config, command).error();
        assert!(told.contains("in use by process"), "{told}");
    }
    drop(server);
    let told = node.root(&node.path("own.toml"), &["status"]).error();
    assert!(told.contains("no roots, expected them in a list [[kms]]"), "{told}");
}

#[test]
fn one_root_key_under_two_ids_is_refused_and_an_entry_left_over_is_told() {
    let node = Node::new();
    node.client(&node.path("own.toml"), &[&["key", "create", "my-key"]]);
    // The same file, and the same key from elsewhere.
    let own = fs::read_to_string(node.path("root.key")).unwrap();
    let shell = node.shell.set("FIRST", own.trim());
    let node = Node { shell, ..node };
    let from_file =
        format!("\n[[kms]]\nid = \"second\"\nlocal.root_key_file = {:?}\n", node.path("root.key"));
    let from_variable = "\n[[kms]]\nid = \"second\"\nlocal.root_key_env = \"FIRST\"\n";
    let file = node.path("twice.toml");
    for twice in [from_file.as_str(), from_variable] {
        fs::write(&file, fs::read_to_string(node.path("own.toml")).unwrap() + twice).unwrap();
        for command in ["adopt", "status"] {
            let told = node.root(&file, &[command]).error();
            for word in ["keystore.fs", "kms", "local", "one root"] {
                assert!(told.contains(word), "'{word}' is not in: {told}");
            }
        }
        node.refused(&file, &["one root"]);
        assert!(node.shell.run(&["check", "--config", text(&file)]).status.code() != Some(0));
    }

    let third = node.shell.set("THIRD", STANDARD.encode([3; 32]));
    let node = Node { shell: third, ..node };
    let all = node.config(&["SECOND", "THIRD"]);
    node.root(&all, &["adopt"]).ok();
    assert_eq!(node.status(&all)["not_in_config"], serde_json::json!([]));
    let id = node.ids(&all).remove(2);
    let fewer = node.config(&["SECOND"]);
    let status = node.root(&fewer, &["status"]).ok();
    assert!(status.contains(&format!("{id}  is in the store, not in this config")), "{status}");
    assert_eq!(node.status(&fewer)["not_in_config"], serde_json::json!([id]));
}

#[test]
fn the_root_key_of_the_header_is_known_among_the_other_roots() {
    let node = Node::new();
    let config = node.config(&["FIRST"]);
    node.client(&config, &[&["key", "create", "my-key"]]);
    // The config moves the root key into the list, and gives it another id.
    let own = fs::read_to_string(node.path("own.toml")).unwrap();
    let lines: Vec<_> = own.lines().filter(|line| !line.starts_with("root_key_file")).collect();
    let moved = node.path("moved.toml");
    let root_key = node.path("root.key");
    let roots = format!(
        "\n[[kms]]\nid = \"mine\"\nlocal.root_key_file = {root_key:?}\n[[kms]]\nlocal.root_key_env = \"FIRST\"\n"
    );
    fs::write(&moved, lines.join("\n") + &roots).unwrap();
    assert_eq!(node.opens(&moved), [true, true]);
    assert!(!node.root(&moved, &["status"]).ok().contains("not here"));
    assert!(node.root(&moved, &["remove", "mine"]).ok().contains("opens the store no more"));
    node.refused(&node.path("own.toml"), &["no local root key in its header any more"]);
    assert_eq!(node.opens(&moved), [false, true]);
    node.client(&moved, &[&["key", "dek", "my-key"]]);
}
