//! The two names of the program: as `kms` it stays what its own scripts know, as `kes` it is what those of KES know.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Done, Serving, Shell, kms, text};

struct Names {
    server: Serving,
    dir: TempDir,
}

impl Names {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        symlink(kms(), dir.path().join("kes")).unwrap();
        let state = dir.path().join("dev");
        let server = Shell::default().serve(&["--dev", "--addr", "127.0.0.1:0", "--dir", text(&state)]);
        Self { server, dir }
    }

    fn kms(&self, arguments: &[&str]) -> Done {
        self.server.exports().run(arguments)
    }

    fn kes(&self, arguments: &[&str]) -> Done {
        self.server.exports().run_binary(&self.dir.path().join("kes"), arguments, b"")
    }

    /// Returns the first line of a command that does not end, which comes when `kms ARGUMENTS` was run.
    fn first_line(&self, program: &Path, arguments: &[&str], event: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(arguments).env_clear();
        for name in ["KES_SERVER", "KES_API_KEY", "KES_CA_CERT"] {
            command.env(name, self.server.export(name));
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let line = std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            line
        });
        while !line.is_finished() {
            self.kms(event);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        line.join().unwrap()
    }
}

#[test]
fn wrong_usage_has_the_exit_code_of_the_name() {
    let names = Names::new();
    for arguments in
        [&["key", "create"] as &[&str], &["bogus"], &["key", "ls", "--bogus"], &["status", "extra"]]
    {
        let done = names.kms(arguments);
        assert_eq!(done.status.code(), Some(2), "{done:?}");
        names.kes(arguments).error();
    }
    let secret = names.server.export("KES_API_KEY");
    for done in [names.kes(&["status", &secret]), names.kms(&["status", &secret])] {
        assert!(!done.stderr.contains(&secret), "{done:?}");
    }
}

#[test]
fn results_have_the_form_of_the_name() {
    let names = Names::new();
    let json = |done: Done| serde_json::from_str::<Value>(&done.ok()).unwrap();
    assert_eq!(json(names.kms(&["key", "ls", "--json"])), serde_json::json!([]));
    assert_eq!(json(names.kes(&["key", "ls", "--json"])), Value::Null);
    let routes = json(names.kms(&["status", "--api", "--json"]));
    assert!(routes[0]["path"].is_string(), "{routes}");
    assert_eq!(routes, json(names.kes(&["status", "--api", "--json"])));

    names.kms(&["key", "create", "a", "b"]).ok();
    let removed = names.kms(&["key", "rm", "a"]);
    assert!(removed.status.success() && removed.stderr.contains("note: "), "{removed:?}");
    let removed = names.kes(&["key", "rm", "b"]);
    assert!(removed.status.success() && removed.stderr.is_empty(), "{removed:?}");

    let labels = names.kms(&["status"]).ok();
    assert!(labels.contains("Store") && labels.contains("Keys"), "{labels}");
    let once = names.kms(&["metric"]).ok();
    assert!(once.lines().any(|line| line.starts_with("kes_http_request_success ")), "{once}");
}

#[test]
fn a_server_without_a_port_is_where_the_name_looks_for_it() {
    let names = Names::new();
    let shell = names.server.exports().set("KES_SERVER", "https://127.0.0.2");
    let told = shell.run(&["key", "ls"]).error();
    assert!(told.contains("127.0.0.2:7373"), "{told}");
    // KES takes it for a URL, as behind a load balancer.
    let told = shell.run_binary(&names.dir.path().join("kes"), &["key", "ls"], b"").error();
    assert!(told.contains("127.0.0.2:443"), "{told}");
}

#[test]
fn the_log_is_that_of_the_name() {
    let names = Names::new();
    let kes = names.dir.path().join("kes");
    let audit = names.first_line(&kes, &["log"], &["status"]);
    assert!(audit.starts_with("Time ") && audit.contains("Latency"), "{audit}");
    let audit = names.first_line(kms(), &["log", "--audit"], &["status"]);
    assert!(audit.starts_with("{\"time\":"), "{audit}");
    // The error log unless told, as ever.
    let stranger = Shell::default().run(&["identity"]).ok();
    let errors = names.first_line(kms(), &["log"], &["key", "ls", "-a", stranger.trim_end()]);
    assert!(errors.starts_with("{\"message\":") && errors.contains("not authorized"), "{errors}");
}

#[test]
fn colours_are_where_they_are_asked_for() {
    let names = Names::new();
    names.kms(&["key", "create", "a"]).ok();
    for program in [kms(), &names.dir.path().join("kes")] {
        let run = |arguments: &[&str]| names.server.exports().run_binary(program, arguments, b"").ok();
        assert_eq!(run(&["key", "ls"]), "Key\na\n");
        assert_eq!(run(&["key", "ls", "--color", "never"]), "Key\na\n");
        assert_eq!(run(&["key", "ls", "--color=always"]), "\x1b[1;4mKey\x1b[0m\na\n");
        assert!(run(&["--color", "always", "status"]).contains("\x1b[1;38;5;46m●\x1b[0m"));
    }
}
