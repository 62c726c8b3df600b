//! `kms key` and `kms status` against a server, and their errors.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::symlink;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_tests::shell::{Serving, Shell, field, kms, text};

fn server() -> Serving {
    Shell::default().serve(&["--dev", "--in-memory", "--addr", "127.0.0.1:0"])
}

#[test]
fn a_key_is_made_used_and_deleted() {
    let server = server();
    let shell = server.exports();
    assert_eq!(shell.run(&["key", "create", "my-key"]).ok(), "");

    let dek = shell.run(&["key", "dek", "my-key", "Y29udGV4dA=="]).ok();
    assert_eq!(STANDARD.decode(field(&dek, "plaintext")).unwrap().len(), 32);
    assert!(dek.starts_with(r#"{"plaintext":""#), "the order of KES: {dek}");
    let ciphertext = field(&dek, "ciphertext");
    let opened = shell.run(&["key", "decrypt", "my-key", &ciphertext, "Y29udGV4dA=="]).ok();
    assert_eq!(field(&opened, "plaintext"), field(&dek, "plaintext"));
    let error = shell.run(&["key", "decrypt", "my-key", &ciphertext]).error();
    assert!(error.contains("decryption failed: ciphertext is not authentic"), "{error}");

    let sealed = shell.run(&["key", "encrypt", "my-key", "hello"]).ok();
    let opened =
        shell.run_with(&["key", "decrypt", "my-key", "-"], field(&sealed, "ciphertext").as_bytes()).ok();
    assert_eq!(STANDARD.decode(field(&opened, "plaintext")).unwrap(), b"hello");
    let mac = shell.run(&["key", "hmac", "my-key", "hello"]).ok();
    assert_eq!(shell.run_with(&["key", "hmac", "my-key", "-"], b"hello").ok(), mac);

    let info = shell.run(&["key", "info", "my-key"]).ok();
    let words: Vec<Vec<_>> = info.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((words[0][..2].to_vec(), words[1][0]), (vec!["Name", "my-key"], "Algorithm"));
    assert_eq!((words[2][0], words[3][0], words[3][1].len()), ("Date", "Owner", 64));
    let json = shell.run(&["key", "info", "my-key", "--json"]).ok();
    assert_eq!(field(&json, "created_by"), words[3][1]);

    let done = shell.run(&["key", "rm", "my-key"]);
    assert!(done.stderr.contains("cache.expiry.any"), "{done:?}");
    assert_eq!(done.ok(), "");
    assert!(shell.run(&["key", "rm", "my-key"]).error().contains("\"my-key\": key is deleted"));
    assert!(
        shell.run(&["key", "info", "my-key"]).error().contains("'kms key restore my-key' brings it back")
    );
}

#[test]
fn a_key_is_rotated_rewrapped_retired_and_enabled() {
    let server = server();
    let shell = server.exports();
    shell.run(&["key", "create", "my-key"]).ok();
    let sealed = field(&shell.run(&["key", "encrypt", "my-key", "hello", "Yw=="]).ok(), "ciphertext");
    let made = shell.run(&["key", "rotate", "my-key"]);
    assert!(made.stderr.contains("KES"), "{made:?}");
    assert_eq!(made.ok(), "Version 2 of key 'my-key' opens now and seals in 5m0s\n");
    let json = shell.run(&["key", "rotate", "my-key", "--json"]).ok();
    assert_eq!(json, "{\"version\":3,\"seals_after_ms\":300000}\n");
    let rewrapped = shell.run(&["key", "rewrap", "my-key", &sealed, "Yw=="]).ok();
    let opened = shell.run(&["key", "decrypt", "my-key", &field(&rewrapped, "ciphertext"), "Yw=="]).ok();
    assert_eq!(STANDARD.decode(field(&opened, "plaintext")).unwrap(), b"hello");
    let line = format!("{{\"ciphertext\":\"{sealed}\",\"context\":\"Yw==\"}}\n");
    let lines = shell.run_with(&["key", "rewrap", "my-key", "-"], line.repeat(3).as_bytes()).ok();
    assert_eq!(lines.lines().count(), 3);
    for line in lines.lines() {
        assert_eq!(field(line, "context"), "Yw==");
        let opened = shell.run(&["key", "decrypt", "my-key", &field(line, "ciphertext"), "Yw=="]).ok();
        assert_eq!(STANDARD.decode(field(&opened, "plaintext")).unwrap(), b"hello");
    }
    let error = shell.run_with(&["key", "rewrap", "my-key", "-"], format!("{line}nonsense\n").as_bytes());
    assert!(error.stderr.contains("stdin, line 2: expected an object"), "{error:?}");

    let info = shell.run(&["key", "info", "my-key"]).ok();
    let versions: Vec<_> = info.lines().filter(|line| line.starts_with("Version ")).collect();
    assert!(versions.len() == 3 && versions[0].contains("opened "), "{info}");
    let retire =
        |more: &[&str]| shell.run(&[&["key", "retire", "my-key", "--version", "1"], more].concat()).error();
    assert!(
        retire(&[]).contains("was opened at") && retire(&[]).contains("within the last 30d"),
        "{}",
        retire(&[])
    );
    let quiet = retire(&["--unused-for", "0s"]);
    assert!(quiet.contains("may still seal"), "its successor is younger than any server may be: {quiet}");
    let unproven = shell.run(&["key", "retire", "my-key", "--version", "2"]).error();
    assert!(unproven.contains("has counted only since") && unproven.contains("--unproven"), "{unproven}");
    let closed = format!("{},127.0.0.1:1", server.export("KES_SERVER"));
    let away = shell
        .run(&["key", "retire", "my-key", "--version", "2", "--server", &closed, "--unused-for", "0s"])
        .error();
    assert!(away.contains("127.0.0.1:1 did not tell"), "{away}");
    let enabled = shell.run(&["key", "enable", "my-key", "--version", "1"]).ok();
    assert_eq!(enabled, "Version 1 of key 'my-key' is enabled\n");
    let error = shell.run(&["key", "enable", "my-key", "--version", "9"]).error();
    assert!(error.contains("key 'my-key' has no version 9; the newest is 3"), "{error}");
}

#[test]
fn several_keys_are_made_listed_and_deleted_at_once() {
    let server = server();
    let shell = server.exports();
    assert_eq!(shell.run(&["key", "ls"]).ok(), "");
    shell.run(&["key", "create", "b", "a", "c-1"]).ok();
    assert_eq!(shell.run(&["key", "ls"]).ok(), "Key\na\nb\nc-1\n");
    assert_eq!(shell.run(&["key", "ls", "--json", "c-*"]).ok(), "[\"c-1\"]\n");
    assert_eq!(shell.run(&["key", "ls", "nothing*", "--json"]).ok(), "[]\n");
    let error = shell.run(&["key", "create", "d", "a"]).error();
    assert!(error.contains("\"a\": key already exists"), "{error}");
    let error = shell.run(&["key", "create", "a b"]).error();
    assert!(error.contains("key name 'a b' is empty, too long or contains invalid characters"), "{error}");
    shell.run(&["key", "rm", "a", "b", "d"]).ok();
    assert_eq!(shell.run(&["key", "ls"]).ok(), "Key\nc-1\n");
}

#[test]
fn listings_go_on_after_the_first_page() {
    let server = server();
    let shell = server.exports();
    let names: Vec<_> = (0..1030).map(|n| format!("k{n:04}")).collect();
    let arguments: Vec<_> = ["key", "create"].into_iter().chain(names.iter().map(String::as_str)).collect();
    shell.run(&arguments).ok();
    let listed: Vec<String> = serde_json::from_str(&shell.run(&["key", "ls", "k*", "--json"]).ok()).unwrap();
    assert_eq!(listed, names);
}

#[test]
fn a_key_is_imported_from_an_argument_or_from_stdin() {
    let server = server();
    let shell = server.exports();
    let key = STANDARD.encode([7; 32]);
    shell.run(&["key", "import", "by-argument", &key]).ok();
    shell.run_with(&["key", "import", "by-stdin", "-"], format!("{key}\n").as_bytes()).ok();
    shell.run(&["key", "create", "as-in-2020", &key]).ok();
    let sealed = field(&shell.run(&["key", "encrypt", "by-argument", "hello"]).ok(), "ciphertext");
    for name in ["by-stdin", "as-in-2020"] {
        let opened = shell.run(&["key", "decrypt", name, &sealed]).ok();
        assert_eq!(STANDARD.decode(field(&opened, "plaintext")).unwrap(), b"hello");
    }
    shell.run(&["key", "import", "other-cipher", &key, "--cipher", "ChaCha20"]).ok();
    assert!(shell.run(&["key", "decrypt", "other-cipher", &sealed]).error().contains("not authentic"));

    for wrong in ["xyz", "AAAA", &STANDARD.encode([7; 31]), ""] {
        let error = shell.run_with(&["key", "import", "new", "-"], wrong.as_bytes()).error();
        assert!(error.contains("expected 32 bytes in standard base64"), "{error}");
    }
    assert!(
        shell
            .run(&["key", "import", "new", &key, "--cipher", "DES"])
            .error()
            .contains("'DES' is not supported")
    );
    assert!(shell.run(&["key", "import", "by-stdin", &key]).error().contains("key already exists"));
}

#[test]
fn the_words_and_variables_of_2020_are_understood() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let kes = dir.path().join("kes");
    symlink(kms(), &kes).unwrap();
    let shell = server.exports();
    shell.run_binary(&kes, &["key", "create", "my-key", "-k"], b"").ok();
    let dek = shell.run_binary(&kes, &["key", "derive", "my-key"], b"").ok();
    shell.run_binary(&kes, &["key", "decrypt", "my-key", &field(&dek, "ciphertext")], b"").ok();

    // The client takes the identity of a certificate. Releases of KES had different variables for its files.
    let (key, cert) = (dir.path().join("client.key"), dir.path().join("client.crt"));
    shell.run(&["identity", "new", "--key", text(&key), "--cert", text(&cert)]).ok();
    let identity = shell.run(&["identity", "of", text(&cert)]).ok();
    for (key_name, cert_name) in [
        ("MINIO_KES_KEY_FILE", "MINIO_KES_CERT_FILE"),
        ("KES_CLIENT_KEY", "KES_CLIENT_CERT"),
        ("MINIO_KES_CLIENT_KEY", "MINIO_KES_CLIENT_CERT"),
        ("KES_CLIENT_TLS_KEY_FILE", "KES_CLIENT_TLS_CERT_FILE"),
    ] {
        let stranger = server.exports().set("KES_API_KEY", "").set("MINIO_KMS_KES_API_KEY", "");
        let stranger = stranger.set(key_name, key.display()).set(cert_name, cert.display());
        let error = stranger.run(&["key", "delete", "my-key"]).error();
        assert!(error.contains(identity.trim_end()) && error.contains("/v1/key/delete/my-key"), "{error}");
        let half = Shell::default().set(cert_name, cert.display());
        assert!(half.run(&["key", "ls"]).error().contains("KES_CLIENT_KEY"));
    }
}

#[test]
fn the_first_variable_that_is_set_wins() {
    let server = server();
    let (endpoint, api_key) = (server.export("KES_SERVER"), server.export("KES_API_KEY"));
    let nowhere = "https://127.0.0.1:1";
    let shell = Shell::default().set("KES_CA_CERT", server.export("KES_CA_CERT"));

    let servers = ["MINIO_KES_SERVER", "KES_SERVER", "MINIO_KMS_KES_ENDPOINT"];
    let api_keys = ["MINIO_KES_API_KEY", "KES_API_KEY", "MINIO_KMS_KES_API_KEY"];
    for first in 0..3 {
        let mut shell = shell.clone().set(servers[first], &endpoint).set(api_keys[first], &api_key);
        for later in first + 1..3 {
            shell = shell.set(servers[later], nowhere).set(api_keys[later], "kes:v1:wrong");
        }
        shell.run(&["key", "ls"]).ok();
    }
    let shell = shell.set("KES_SERVER", nowhere).set("KES_API_KEY", "kes:v1:wrong");
    shell.run(&["key", "ls", "-s", &endpoint, "-a", &api_key]).ok();
    let authority = endpoint.strip_prefix("https://").unwrap();
    shell.run(&["key", "ls", "--server", authority, "--api-key", &api_key]).ok();
}

#[test]
fn the_next_of_several_servers_is_asked_when_one_is_away() {
    let server = server();
    let shell = server.exports();
    let servers = format!("https://127.0.0.1:1, {}", server.export("KES_SERVER"));
    shell.clone().set("KES_SERVER", &servers).run(&["key", "create", "my-key"]).ok();
    let error =
        shell.set("KES_SERVER", "https://127.0.0.1:1,https://127.0.0.1:2").run(&["key", "ls"]).error();
    assert!(error.contains("cannot connect to 127.0.0.1:2: connection refused"), "{error}");
}

#[test]
fn what_is_wrong_with_a_connection_is_told_in_one_line() {
    let server = server();
    let shell = server.exports();
    let error = |shell: Shell| shell.run(&["key", "ls"]).error();

    let refused = error(shell.clone().set("KES_SERVER", "https://127.0.0.1:1"));
    assert!(refused.contains("cannot connect to 127.0.0.1:1: connection refused"), "{refused}");

    let other_ca = tempfile::tempdir().unwrap();
    let (key, cert) = (other_ca.path().join("key"), other_ca.path().join("cert"));
    shell.run(&["identity", "new", "--key", text(&key), "--cert", text(&cert)]).ok();
    let unknown = shell.clone().set("KES_CA_CERT", cert.display());
    let told = error(unknown.clone());
    assert!(
        told.contains("unknown authority") && told.contains("--ca-cert") && told.contains("-k"),
        "{told}"
    );
    unknown.run(&["key", "ls", "-k"]).ok();
    unknown.run(&["key", "ls", "--ca-cert", &server.export("KES_CA_CERT")]).ok();
    let missing = error(shell.clone().set("KES_CA_CERT", "/missing.crt"));
    assert!(missing.contains("/missing.crt: no such file"), "{missing}");

    // KES takes this URL for https, so this client uses TLS as well.
    let http = server.export("KES_SERVER").replace("https://", "http://");
    shell.clone().set("KES_SERVER", http).run(&["key", "ls"]).ok();
    let by_name = server.export("KES_SERVER").replace("127.0.0.1", "localhost");
    shell.clone().set("KES_SERVER", by_name).run(&["key", "ls"]).ok();

    let stranger = field(&shell.run(&["identity", "new", "--json"]).ok(), "api_key");
    let denied = error(shell.clone().set("KES_API_KEY", &stranger));
    let identity = shell.run(&["identity", "of", &stranger]).ok();
    assert!(denied.contains("not authorized: insufficient permissions"), "{denied}");
    assert!(denied.contains(identity.trim_end()) && denied.contains("/v1/key/list/"), "{denied}");

    let nobody = error(shell.clone().set("KES_API_KEY", "").set("MINIO_KMS_KES_API_KEY", ""));
    assert!(nobody.contains("KES_API_KEY"), "{nobody}");
    let invalid = error(shell.clone().set("KES_API_KEY", "kes:v1:secret"));
    assert!(invalid.contains("invalid API key") && !invalid.contains("secret"), "{invalid}");
    let scheme = error(shell.clone().set("KES_SERVER", "ftp://127.0.0.1:7373"));
    assert!(scheme.contains("expected https://"), "{scheme}");

    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        plain.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let told = error(shell.set("KES_SERVER", format!("https://{address}")));
    assert!(told.contains("does not speak TLS"), "{told}");
    answers.join().unwrap();
}

#[test]
fn a_server_tells_how_it_is() {
    let server = server();
    let shell = server.exports();
    let authority = server.export("KES_SERVER").trim_start_matches("https://").to_owned();
    assert_eq!(shell.run(&["status", "--short"]).ok(), format!("● {authority}\n"));
    let told = shell.run(&["status"]).ok();
    for label in [authority.as_str(), "Version", "Uptime", "Latency", "OS", "CPUs", "Heap", "Stack"] {
        assert!(told.contains(label), "{label} in {told}");
    }
    assert!(!told.contains('\x1b'), "no colours into a pipe");
    let json: serde_json::Value = serde_json::from_str(&shell.run(&["status", "--json"]).ok()).unwrap();
    assert_eq!(json["os"], "linux");
    assert!(json["num_cpu"].as_u64().unwrap() > 0);
    assert_eq!(Shell::default().run(&["status", "--json"]).status.code(), Some(1));
}
