//! The two names of the program. As `kms` it serves its own scripts, and as `kes` the scripts of KES.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use kms_tests::shell::{Done, Serving, Shell, kms, text};
use serde_json::Value;
use tempfile::TempDir;

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

    /// Starts an endless command, runs `kms EVENT`, and returns the first line that the endless command then prints.
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
    // KES takes this for a URL without a port, as a load balancer has.
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
    // Without a flag `kms log` still shows the error log.
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

#[test]
fn an_option_whose_value_is_empty_is_not_given() {
    let names = Names::new();
    let file = |name: &str| names.dir.path().join(name);
    names.kms(&["key", "create", "a"]).ok();
    for program in [kms(), &file("kes")] {
        let run = |arguments: &[&str]| names.server.exports().run_binary(program, arguments, b"");
        for arguments in [
            &["ls", "-a", ""] as &[&str],
            &["ls", "-s", ""],
            &["ls", "-ka", ""],
            &["ls", "-k", "--api-key="],
            &["ls", "--server", "", "--ca-cert", ""],
            &["key", "ls", "--color", ""],
            &["ls", "-s", "", "a"],
        ] {
            assert_eq!(run(arguments).ok(), "Key\na\n", "{arguments:?}");
        }
        // The program drops the flag with its empty value, and nothing else.
        let told = run(&["ls", "-s", "127.0.0.1:1", "-a", ""]);
        assert!(told.error().contains("127.0.0.1:1"));
        assert!(run(&["key", "info", ""]).status.code() != Some(0));
        assert!(run(&["ls", "--", "-a", ""]).status.code() != Some(0));
        assert!(run(&["metric", "--rate", ""]).status.code() != Some(0));

        assert!(run(&["identity", "new", "--key", "", "--cert", ""]).ok().contains("kes:v1:"));
        let (key, cert) = (file("n.key"), file("n.crt"));
        let new = ["identity", "new", "-f", "--key", text(&key), "--cert", text(&cert)];
        for (flags, expected) in [
            (&["--ip", "", "--dns", ""] as &[&str], "No extensions"),
            (&["--dns", "a,", "--dns="], "DNS:a\n"),
            (
                &["--dns", "a, b", "--ip", "127.0.0.1, 10.0.0.1"],
                "DNS:a, DNS:b, IP Address:127.0.0.1, IP Address:10.0.0.1\n",
            ),
        ] {
            run(&[&new, flags].concat()).ok();
            let show = ["x509", "-noout", "-ext", "subjectAltName", "-in", text(&cert)];
            let shown = Command::new("openssl").args(show).output().unwrap();
            let shown = String::from_utf8([shown.stdout, shown.stderr].concat()).unwrap();
            assert!(shown.contains(expected), "{flags:?}: {shown}");
        }
    }
}

#[test]
fn a_server_starts_with_options_that_are_empty() {
    let names = Names::new();
    let dir = names.dir.path();
    let (key, cert, config) = (dir.join("s.key"), dir.join("s.crt"), dir.join("c.toml"));
    Shell::default()
        .run(&["identity", "new", "--key", text(&key), "--cert", text(&cert), "--ip", "127.0.0.1"])
        .ok();
    let content = format!(
        "address = '127.0.0.1:0'\nadmin.identity = 'disabled'\ntls = {{key = '{}', cert = '{}'}}\n[keystore.memory]\n",
        key.display(),
        cert.display()
    );
    std::fs::write(&config, content).unwrap();
    drop(Shell::default().serve(&["--config", text(&config), "--addr", "", "--key", "", "--cert="]));
    let state = dir.join("other");
    let dev = ["--dev", "--config", "", "--addr", "127.0.0.1:0", "--dir", text(&state)];
    drop(Shell::default().serve(&dev));
}

#[test]
fn a_flag_has_a_value_by_all_of_its_names() {
    let names = Names::new();
    names.kms(&["key", "create", "a"]).ok();
    for (arguments, title) in [
        (["ls", "--identity=true"], "Identity\n"),
        (["ls", "--identities=true"], "Identity\n"),
        (["ls", "--identity=false"], "Key\n"),
        (["ls", "--policy=false"], "Key\n"),
        (["ls", "-i=true"], "Identity\n"),
    ] {
        for done in [names.kms(&arguments), names.kes(&arguments)] {
            let shown = done.ok();
            assert!(shown.starts_with(title), "{arguments:?}: {shown}");
        }
    }
    names.kes(&["ls", "--policy=true"]).ok();
}

#[test]
fn colours_are_forced_into_a_pipe_where_kes_has_them() {
    let names = Names::new();
    names.kms(&["key", "create", "a"]).ok();
    let kes = names.dir.path().join("kes");
    let forced = names.server.exports().set("CLICOLOR_FORCE", 1);
    let run = |shell: &Shell, arguments: &[&str]| shell.run_binary(&kes, arguments, b"");
    assert_eq!(run(&forced, &["ls"]).ok(), "\x1b[1;4mKey\x1b[0m\na\n");
    assert_eq!(run(&forced, &["key", "ls"]).ok(), "Key\na\n");
    assert_eq!(run(&forced, &["ls", "--color", "never"]).ok(), "Key\na\n");
    let told = run(&forced, &["key", "info", "b"]);
    assert!(told.stderr.starts_with("\x1b[31mError:\x1b[0m "), "{told:?}");
    let plain = forced.set("NO_COLOR", 1);
    assert_eq!(run(&plain, &["ls"]).ok(), "Key\na\n");
    run(&plain, &["key", "info", "b"]).error();
}

#[test]
fn the_log_has_its_titles_when_it_is_open() {
    let names = Names::new();
    let kes = names.dir.path().join("kes");
    let stranger = Shell::default().run(&["identity"]).ok();
    for (flags, reason) in [
        (["-s", "127.0.0.1:1"], "127.0.0.1:1"),
        (["-a", stranger.trim_end()], "not authorized: insufficient permissions"),
    ] {
        for log in ["--audit", "--error"] {
            let done = names.server.exports().run_binary(&kes, &[&["log", log], &flags[..]].concat(), b"");
            assert_eq!(done.stdout, "");
            let told = done.error();
            assert!(told.starts_with("Error: failed to connect to error log: "), "{told}");
            assert!(told.contains(reason), "{told}");
        }
    }
}

#[test]
fn a_server_without_a_host_is_on_this_machine() {
    let names = Names::new();
    names.kms(&["key", "create", "a"]).ok();
    let port = names.server.export("KES_SERVER").rsplit_once(':').unwrap().1.to_owned();
    let server = format!(":{port}");
    for done in [names.kms(&["ls", "-k", "-s", &server]), names.kes(&["ls", "-k", "-s", &server])] {
        assert_eq!(done.ok(), "Key\na\n");
    }
    let shell = names.server.exports().set("KES_SERVER", format!("https://{server}"));
    assert_eq!(shell.run(&["ls", "-k"]).ok(), "Key\na\n");
}

#[test]
fn a_variable_that_is_no_text_is_told() {
    for variable in ["MINIO_KES_SERVER", "MINIO_KES_API_KEY", "KES_CA_CERT", "KMS_ADDRESS"] {
        let mut command = Command::new(kms());
        command.args(["ls", "-k"]).env_clear().env(variable, OsStr::from_bytes(b"127.0.0.1:1\xff"));
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert_eq!(told, format!("Error: environment variable {variable}: the value is not UTF-8\n"));
    }
}

#[test]
fn mistakes_are_told_in_words_of_the_name() {
    let names = Names::new();
    let file = |name: &str| names.dir.path().join(name);
    for (arguments, expected) in [
        (&["foo", "status"] as &[&str], "\"foo\" is not a kes command. See 'kes --help'"),
        (&["key", "foo", "ls"], "\"foo\" is not a key command. See 'kes key --help'"),
        (&["log", "extra"], "too many arguments. See 'kes log --help'"),
        (&["ls", "-s", "key", "a", "b"], "too many arguments. See 'kes ls --help'"),
    ] {
        assert_eq!(names.kes(arguments).error(), format!("Error: {expected}"));
    }
    let without = Shell::default();
    let told = without.run_binary(&file("kes"), &["ls"], b"").error();
    assert!(told.contains("MINIO_KES_API_KEY"), "{told}");
    let told = without.run(&["ls"]).error();
    assert!(told.contains("KES_CLIENT_CERT"), "{told}");
    let told = names.kes(&["identity", "info", &names.server.export("KES_API_KEY")]).error();
    assert!(told.contains("'identity of'"), "{told}");
    for name in ["a", "b"] {
        let (key, cert) = (file(&format!("{name}.key")), file(&format!("{name}.crt")));
        without.run(&["identity", "new", "--key", text(&key), "--cert", text(&cert)]).ok();
    }
    let mixed =
        without.set("KES_CLIENT_KEY", text(&file("a.key"))).set("KES_CLIENT_CERT", text(&file("b.crt")));
    let told = mixed.run(&["ls", "-k"]).error();
    assert!(told.ends_with("the client's private key is not that of its certificate"), "{told}");
}
