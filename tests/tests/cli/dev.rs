//! `kms server --dev` needs no settings and keeps its keys. Scripts find what they look for in its output.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use kms_server::credentials::certificate::{Facts, NewCertificate, first_of};
use kms_tests::shell::{Serving, Shell, field, text};

fn dev(dir: &Path) -> Serving {
    Shell::default().serve(&["--dev", "--addr", "127.0.0.1:0", "--dir", text(dir)])
}

fn facts(cert: &Path) -> Facts {
    Facts::of(&first_of(&fs::read(cert).unwrap()).unwrap()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_banner_is_what_scripts_in_the_field_expect() {
    let dir = tempfile::tempdir().unwrap();
    let server = dev(&dir.path().join("state"));
    let stdout = server.stdout();

    let third_word = |line: &str| line.split_whitespace().nth(2).map(str::to_owned);
    let by_grep: Vec<_> =
        stdout.lines().filter(|line| line.contains("API Key")).filter_map(third_word).collect();
    let by_awk: Vec<_> = stdout
        .lines()
        .filter(|line| line.split_whitespace().take(2).eq(["API", "Key"]))
        .filter_map(third_word)
        .collect();
    assert_eq!(by_grep, by_awk);
    assert_eq!(by_grep, [server.export("KES_API_KEY")]);
    assert!(by_grep[0].starts_with("kes:v1:"));

    let endpoint = server.export("MINIO_KMS_KES_ENDPOINT");
    assert_eq!(endpoint, server.export("KES_SERVER"));
    TcpStream::connect(endpoint.strip_prefix("https://").unwrap()).unwrap();
    assert_eq!(server.export("MINIO_KMS_KES_API_KEY"), server.export("KES_API_KEY"));
    assert_eq!(server.export("MINIO_KMS_KES_KEY_NAME"), "minio-default-key");
    for variable in ["MINIO_KMS_KES_CAPATH", "KES_CA_CERT"] {
        assert!(facts(Path::new(&server.export(variable))).dns_names.contains(&"localhost".to_owned()));
    }
    assert!(stdout.contains("new store"), "{stdout}");
    assert!(stdout.contains("root key lies beside the store"), "{stdout}");

    let stderr = server.stderr();
    for of_the_banner in ["kes:v1:", "export", "API Key", "up and running"] {
        assert!(!stderr.contains(of_the_banner), "{stderr}");
    }
}

#[test]
fn the_second_start_finds_what_the_first_left() {
    let dir = tempfile::tempdir().unwrap();
    let first = dev(dir.path());
    let (api_key, cert) = (first.export("KES_API_KEY"), fs::read(first.export("KES_CA_CERT")).unwrap());
    let shell = first.exports();
    shell.run(&["key", "create", "my-key"]).ok();
    let dek = shell.run(&["key", "dek", "my-key"]).ok();
    assert!(first.stop().success());

    let second = dev(dir.path());
    assert_eq!(second.export("KES_API_KEY"), api_key);
    assert_eq!(fs::read(second.export("KES_CA_CERT")).unwrap(), cert);
    assert!(second.stdout().contains("existing store, 1 key,"), "{}", second.stdout());
    let opened = second.exports().run(&["key", "decrypt", "my-key", &field(&dek, "ciphertext")]).ok();
    assert_eq!(field(&opened, "plaintext"), field(&dek, "plaintext"));
}

#[test]
fn the_state_is_private_and_lives_where_the_environment_says() {
    let home = tempfile::tempdir().unwrap();
    let by_home = Shell::default().set("HOME", home.path().display());
    let state = home.path().join("state");
    for (shell, expected) in [
        (by_home.clone(), home.path().join(".local/state/kms-dev")),
        (by_home.clone().set("XDG_STATE_HOME", state.display()), state.join("kms-dev")),
        (by_home.set("KMS_DEV_DIR", state.join("own").display()), state.join("own")),
    ] {
        let server = shell.serve(&["--dev", "--addr", "127.0.0.1:0"]);
        assert!(server.stdout().contains(text(&expected)), "{}", server.stdout());
        assert_eq!(mode(&expected), 0o700);
        assert_eq!(mode(&expected.join("data")), 0o700);
        for secret in ["api.key", "root.key", "private.key"] {
            assert_eq!(mode(&expected.join(secret)), 0o600, "{secret}");
        }
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error_with_two_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // Nobody can write to the first directory, not even root.
    for unusable in ["/proc/kms", text(&file), text(&file.join("below"))] {
        let error =
            Shell::default().run(&["server", "--dev", "--addr", "127.0.0.1:0", "--dir", unusable]).error();
        for part in [unusable, "--dir", "--in-memory"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
    let error = Shell::default().run(&["server", "--dev"]).error();
    assert!(
        error.contains("KMS_DEV_DIR") && error.contains("--dir") && error.contains("--in-memory"),
        "{error}"
    );
}

#[test]
fn a_directory_in_use_is_an_error_with_two_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = dev(dir.path());
    let again = ["server", "--dev", "--addr", "127.0.0.1:0", "--dir", text(dir.path())];
    let error = Shell::default().run(&again).error();
    for part in [text(dir.path()), "in use", &server.pid().to_string(), "--dir", "--in-memory"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    server.exports().run(&["key", "create", "my-key"]).ok();
}

#[test]
fn a_lost_root_key_is_not_replaced_by_another() {
    let dir = tempfile::tempdir().unwrap();
    dev(dir.path()).stop();
    let root_key = dir.path().join("root.key");
    let content = fs::read(&root_key).unwrap();
    fs::remove_file(&root_key).unwrap();
    let start = ["server", "--dev", "--addr", "127.0.0.1:0", "--dir", text(dir.path())];
    let error = Shell::default().run(&start).error();
    assert!(error.contains(text(&root_key)), "{error}");
    assert!(!root_key.exists());
    fs::write(&root_key, content).unwrap();
    fs::set_permissions(&root_key, fs::Permissions::from_mode(0o600)).unwrap();
    dev(dir.path());
}

#[test]
fn in_memory_says_loudly_that_keys_die() {
    let temporary = tempfile::tempdir().unwrap();
    let shell = Shell::default().set("TMPDIR", temporary.path().display());
    let in_memory = ["--dev", "--in-memory", "--addr", "127.0.0.1:0"];
    let server = shell.serve(&in_memory);
    assert!(server.stdout().contains("EVERY KEY DIES WITH THIS PROCESS"), "{}", server.stdout());
    let api_key = server.export("KES_API_KEY");
    server.exports().run(&["key", "create", "my-key"]).ok();
    assert!(server.stop().success());
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "something was left");

    let server = shell.serve(&in_memory);
    assert_ne!(server.export("KES_API_KEY"), api_key);
    assert_eq!(server.exports().run(&["key", "ls"]).ok(), "");
}

#[test]
fn the_certificate_is_for_this_machine_and_renewed_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    dev(dir.path()).stop();
    let (cert, key) = (dir.path().join("public.crt"), dir.path().join("private.key"));
    let made = facts(&cert);
    let addresses: Vec<_> = made.ip_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1", "::1"]);
    assert_eq!(made.dns_names, ["localhost"]);
    assert!(!made.is_ca);

    let ends_soon = NewCertificate {
        common_name: "localhost".into(),
        dns_names: made.dns_names,
        ip_addresses: made.ip_addresses,
        validity: Duration::from_secs(24 * 3600),
        server: true,
    };
    let ends_soon = ends_soon.with_new_key().unwrap();
    fs::write(&cert, ends_soon.chain_pem()).unwrap();
    fs::write(&key, ends_soon.key_pem().as_bytes()).unwrap();
    let server = dev(dir.path());
    assert!(facts(&cert).not_after > made.not_before);
    assert_ne!(fs::read_to_string(&cert).unwrap(), ends_soon.chain_pem());
    server.exports().run(&["key", "ls"]).ok();
}

#[test]
fn a_port_in_use_is_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let done = Shell::default().run(&["server", "--dev", "--addr", &address, "--dir", text(dir.path())]);
    assert_eq!(done.status.code(), Some(1));
    assert_eq!(done.stdout, "", "nothing is told of a server that does not listen");
    let last = done.stderr.lines().last().unwrap();
    assert!(last.starts_with("Error: ") && last.contains(&address), "{last}");
}

#[test]
fn wrong_usage_has_exit_code_2() {
    for arguments in [
        &["server"] as &[&str],
        &["server", "--dir", "x"],
        &["server", "--dev", "--config", "x"],
        &["server", "--dev", "--dir", "x", "--in-memory"],
        &["server", "--dev", "--addr", "nonsense"],
        &["key", "create"],
        &["nonsense"],
        &["key", "dek", "a", "b", "c"],
    ] {
        let done = Shell::default().run(arguments);
        assert_eq!(done.status.code(), Some(2), "{arguments:?} {done:?}");
        assert_eq!(done.stdout, "", "{arguments:?}");
    }
}

#[test]
fn state_that_others_can_change_or_read_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    dev(&state).stop();
    let arguments = ["server", "--dev", "--addr", "127.0.0.1:0", "--dir", text(&state)];
    for (name, open, closed) in [
        ("", 0o720, 0o700),
        ("data", 0o702, 0o700),
        ("api.key", 0o640, 0o600),
        ("private.key", 0o604, 0o600),
        ("public.crt", 0o664, 0o644),
    ] {
        let path = state.join(name);
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set(open);
        let error = Shell::default().run(&arguments).error();
        assert!(error.contains(text(&path)) && error.contains("run: chmod "), "{error}");
        set(closed);
    }
    dev(&state).stop();
}
