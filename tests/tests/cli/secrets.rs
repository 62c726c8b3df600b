//! Secrets do not appear in logs, errors, debug output or the files of the store.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_server::config::{Environment, load_text};
use kms_tests::shell::{Shell, field, text};

/// Returns whether `bytes` has the secret in the clear, in hex, in base64 or as Rust prints bytes.
fn shows(bytes: &[u8], secret: &[u8]) -> bool {
    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let base64 = STANDARD.encode(secret);
    let decimal = format!("{secret:?}");
    contains(secret)
        || contains(hex::encode(secret).as_bytes())
        || contains(hex::encode_upper(secret).as_bytes())
        || contains(base64.trim_end_matches('=').as_bytes())
        || contains(decimal.trim_matches(['[', ']']).as_bytes())
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn no_secret_is_logged_even_at_trace_level() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--dev", "--addr", "127.0.0.1:0", "--dir", text(dir.path())];
    let server = Shell::default().set("KMS_LOG", "trace").serve(&arguments);
    let shell = server.exports().set("KMS_LOG", "trace");
    let imported = [0x5a, 0xc3].repeat(16);
    shell.run_with(&["key", "import", "my-key", "-"], STANDARD.encode(&imported).as_bytes()).ok();
    let dek = shell.run(&["key", "dek", "my-key"]);
    let mut told = dek.stderr.clone();
    let dek = dek.ok();
    told += &shell.run(&["key", "decrypt", "my-key", &field(&dek, "ciphertext")]).stderr;
    told += &shell.run(&["key", "decrypt", "my-key", &field(&dek, "plaintext")]).error();
    told += &shell.run(&["key", "import", "my-key", &STANDARD.encode(&imported)]).error();
    told += &server.stderr();
    assert!(told.contains("TRACE"), "nothing was traced");

    let root_key = STANDARD.decode(fs::read_to_string(dir.path().join("root.key")).unwrap().trim()).unwrap();
    let api_key = server.export("KES_API_KEY");
    let seed = STANDARD.decode(api_key.trim_start_matches("kes:v1:")).unwrap()[1..].to_vec();
    let plaintext = STANDARD.decode(field(&dek, "plaintext")).unwrap();
    let private_key = fs::read_to_string(dir.path().join("private.key")).unwrap();
    let private_key = private_key.lines().nth(1).unwrap();

    // Only the banner shows the API key: once to read and once in each block of exports.
    let beside_the_banner = server.stdout().replace(&api_key, "");
    told += &beside_the_banner;
    for (name, secret) in
        [("root key", &root_key), ("seed", &seed), ("imported key", &imported), ("data key", &plaintext)]
    {
        assert!(!shows(told.as_bytes(), secret), "the {name} is in the log");
    }
    assert!(!told.contains(api_key.trim_start_matches("kes:v1:")), "the API key is in the log");
    assert!(!told.contains(private_key), "the private key is in the log");

    server.stop();
    for file in files_below(&dir.path().join("data")) {
        let content = fs::read(&file).unwrap();
        for (name, secret) in [("root key", &root_key), ("imported key", &imported)] {
            assert!(!shows(&content, secret), "the {name} is in {}", file.display());
        }
    }
}

#[test]
fn settings_print_names_of_secrets_and_no_secrets() {
    let secret = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3I=";
    let environment: Environment =
        [("ROOT", secret), ("KMS_ADMIN__IDENTITY", "disabled")].into_iter().collect();
    let text = "tls.key = 'k'\ntls.cert = 'c'\n[keystore.fs]\npath = 'd'\nroot_key_env = 'ROOT'\n";
    let loaded = load_text(text, "f", &environment).unwrap();
    let debug = format!("{loaded:?}");
    assert!(debug.contains("ROOT") && !debug.contains(secret), "{debug}");
}
