//! `kms identity` reads what KES made and prints what scripts expect.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use kms_server::credentials::apikey::ApiKey;
use kms_server::credentials::certificate::{Facts, first_of, read_pair};
use kms_tests::shell::{Shell, field, kms, text};
use serde_json::Value;

fn vectors(list: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/apikeys.json");
    let all: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    all[list].as_array().unwrap().clone()
}

/// Returns what `grep -Eo 'kes:v1:[A-Za-z0-9+/=]+'` finds, and the last 64 hex digits.
fn as_scripts_do(output: &str) -> (String, String) {
    let start = output.find("kes:v1:").unwrap();
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=:".contains(c);
    let api_key: String = output[start..].chars().take_while(|c| base64(*c)).collect();
    let mut words = output.split(|c: char| !c.is_ascii_hexdigit());
    (api_key, words.rfind(|word| word.len() == 64).unwrap().to_owned())
}

#[test]
fn api_keys_of_kes_have_the_identity_that_kes_gives_them() {
    let cases = vectors("api_keys");
    assert_eq!(cases.len(), 6);
    for case in &cases {
        let api_key = case["api_key"].as_str().unwrap();
        let of = Shell::default().run(&["identity", "of", api_key]).ok();
        assert_eq!(of.trim_end(), case["identity"].as_str().unwrap());
        let parsed = ApiKey::parse(api_key).map_err(|error| error.to_string()).unwrap();
        assert_eq!(parsed.to_text().as_str(), api_key);
        let certificate = parsed.client_certificate().unwrap();
        assert_eq!(Facts::of(&certificate.chain[0]).unwrap().identity.to_string(), of.trim_end());
    }
}

#[test]
fn what_is_no_api_key_is_refused_with_the_reason() {
    let cases = vectors("invalid_api_keys");
    assert_eq!(cases.len(), 9);
    for case in cases {
        let (name, api_key) = (case["case"].as_str().unwrap(), case["api_key"].as_str().unwrap());
        let error = Shell::default().run(&["identity", "of", api_key]).error();
        let reason = match name {
            "prefix absent" | "prefix kes:v2:" => "begin with 'kes:v1:'",
            "first byte 0x01" => "type 1 is not supported",
            "seed of 31 bytes" => "it holds 32 bytes, expected 33",
            "seed of 33 bytes" => "it holds 34 bytes, expected 33",
            "empty" => "it holds 0 bytes, expected 33",
            "not base64" | "base64url without padding" | "white space at the end" => {
                "expected standard base64"
            }
            other => panic!("a new case: {other}"),
        };
        assert!(error.contains(reason), "{name}: {error}");
        assert!(!error.contains(api_key.trim_start_matches("kes:v1:")) || name == "empty", "{name}: {error}");
    }
}

#[test]
fn certificates_have_the_identity_that_kes_gives_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("certificate");
    let cases = vectors("certificates");
    assert!(cases.len() >= 12);
    for case in cases {
        let pem = case["certificate_pem"].as_str().unwrap();
        let expected = case["kes_0_24"]["identity_of"].as_str().unwrap();
        if case["kes_0_24"]["identity_taken"].is_string() {
            continue; // KES has a defect here: it takes a later certificate than the first one
        }
        let der = first_of(pem.as_bytes()).unwrap();
        for content in [pem.as_bytes(), &der, format!("CONNECTED\n{pem}\n---\n").as_bytes()] {
            fs::write(&file, content).unwrap();
            let of = Shell::default().run(&["identity", "of", text(&file)]).ok();
            assert_eq!(of.trim_end(), expected, "{}", case["case"]);
            let of = Shell::default().run_with(&["tool", "identity", "of", "-"], content).ok();
            assert_eq!(of.trim_end(), expected, "{}", case["case"]);
        }
    }
}

#[test]
fn a_file_without_a_certificate_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("certificate");
    for (content, reason) in [
        (b"nothing here".as_slice(), "it holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it is no X.509 certificate"),
        (b"\x30\x03\x02\x01", "it is no X.509 certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "it is no PEM file"),
    ] {
        fs::write(&file, content).unwrap();
        let error = Shell::default().run(&["identity", "of", text(&file)]).error();
        assert!(error.contains(text(&file)) && error.contains(reason), "{error}");
    }
    let missing = dir.path().join("missing");
    let error = Shell::default().run(&["identity", "of", text(&missing)]).error();
    assert!(error.contains(text(&missing)) && error.contains("no such file"), "{error}");
}

#[test]
fn a_new_identity_is_found_by_scripts() {
    let output = Shell::default().run(&["identity", "new"]).ok();
    let (api_key, identity) = as_scripts_do(&output);
    assert_eq!(Shell::default().run(&["identity", "of", &api_key]).ok(), format!("{identity}\n"));
    let from_stdin =
        Shell::default().run_with(&["identity", "of", "-"], format!("{api_key}\n").as_bytes()).ok();
    assert_eq!(from_stdin, format!("{identity}\n"));

    let json = Shell::default().run(&["identity", "new", "--json"]).ok();
    let of = Shell::default().run(&["identity", "of", "--json", &field(&json, "api_key")]).ok();
    assert_eq!(field(&of, "identity"), field(&json, "identity"));
    assert_ne!(field(&json, "api_key"), api_key);
}

#[test]
fn a_new_certificate_has_the_names_and_the_key_that_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = (dir.path().join("private.key"), dir.path().join("public.crt"));
    let (key_flag, cert_flag) = (format!("--key={}", text(&key)), format!("--cert={}", text(&cert)));
    // Scripts in the field write flags after the subject.
    let arguments =
        ["identity", "new", "--ip", "127.0.0.1", "localhost", "--dns", "kes", &key_flag, &cert_flag];
    let output = Shell::default().run(&[&arguments as &[&str], &["--expiry", "87660h"]].concat()).ok();
    let (api_key, identity) = as_scripts_do(&output);

    let pair = read_pair(&cert, &key, None).map_err(|error| error.clone()).unwrap();
    assert_eq!(pair.matches(), Ok(true));
    let facts = Facts::of(&pair.chain[0]).unwrap();
    assert_eq!(facts.identity.to_string(), identity);
    assert_eq!(
        ApiKey::parse(&api_key).map_err(|error| error.to_string()).unwrap().identity(),
        facts.identity
    );
    assert_eq!((facts.subject.as_str(), facts.is_ca), ("CN=localhost", false));
    assert_eq!(facts.dns_names, ["kes"]);
    let hours = facts.not_after.duration_since(facts.not_before).as_hours();
    assert!((87_660..=87_661).contains(&hours), "{hours}");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

    let before = fs::read(&key).unwrap();
    let error = Shell::default().run(&arguments).error();
    assert!(error.contains(text(&key)) && error.contains("--force"), "{error}");
    assert_eq!(fs::read(&key).unwrap(), before);
    Shell::default().run(&["tool", "identity", "new", "--force", &key_flag, &cert_flag, "localhost"]).ok();
    assert_ne!(fs::read(&key).unwrap(), before);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_name_that_no_client_can_use_is_in_no_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = (dir.path().join("private.key"), dir.path().join("public.crt"));
    let new = ["identity", "new", "--force", "--key", text(&key), "--cert", text(&cert), "--dns"];
    for name in
        ["https://kms.example.com:7373", "kms.example.com:7373", "a b", "a\nb", "*", "a.*.example.com"]
    {
        let refused = Shell::default().run(&[&new as &[&str], &[name]].concat());
        assert_eq!(refused.status.code(), Some(2), "{name}: {refused:?}");
        assert!(refused.stderr.contains(name) && refused.stderr.contains("host name"), "{name}: {refused:?}");
        assert!(!cert.exists(), "{name}");
    }
    // As with KES, an address may be here, too.
    Shell::default().run(&[&new as &[&str], &["*.example.com,kms.example.com.,10.0.0.1"]].concat()).ok();
    let facts = Facts::of(&first_of(&fs::read(&cert).unwrap()).unwrap()).unwrap();
    assert_eq!(facts.dns_names, ["*.example.com", "kms.example.com"]);
    assert_eq!(facts.ip_addresses[0].to_string(), "10.0.0.1");
}

#[test]
fn half_an_order_for_a_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    for (arguments, hint) in [
        (&["--key", text(&file)] as &[&str], "--cert"),
        (&["--cert", text(&file)], "--key"),
        (&["--ip", "127.0.0.1"], "--key"),
        (&["--dns", "localhost"], "--key"),
        (&["--encrypt"], "'--encrypt' requires a private key and certificate file"),
    ] {
        let error = Shell::default().run(&[&["identity", "new"], arguments].concat()).error();
        assert!(error.contains(hint), "{error}");
        assert!(!file.exists());
    }
}

#[test]
fn the_private_key_of_a_file_is_told_to_nobody_who_asks_for_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = (dir.path().join("private.key"), dir.path().join("public.crt"));
    let made =
        Shell::default().run(&["identity", "new", "--json", "--key", text(&key), "--cert", text(&cert)]).ok();
    let of = |file: &Path| Shell::default().run(&["identity", text(file), "--json"]).ok();
    assert_eq!(field(&of(&key), "api_key"), field(&made, "api_key"));
    assert_eq!(field(&of(&key), "identity"), field(&made, "identity"));
    assert_eq!(field(&of(&cert), "identity"), field(&made, "identity"));
    assert!(!of(&cert).contains("api_key"));
    let asked = Shell::default().run(&["identity", "of", text(&key)]);
    assert!(!asked.stdout.contains("kes:v1:") && asked.error().contains("no certificate"));
    let from_stdin = Shell::default().run_with(&["identity", "-"], &fs::read(&key).unwrap()).ok();
    assert_eq!(from_stdin.trim_end(), field(&made, "api_key"));
}

#[test]
fn the_binary_may_be_called_kes() {
    let dir = tempfile::tempdir().unwrap();
    let kes = dir.path().join("kes");
    symlink(kms(), &kes).unwrap();
    let shell = Shell::default();
    let (api_key, identity) = as_scripts_do(&shell.run_binary(&kes, &["identity", "new"], b"").ok());
    assert_eq!(shell.run_binary(&kes, &["identity", "of", &api_key], b"").ok().trim_end(), identity);
    let help = shell.run_binary(&kes, &["key", "dek", "--help"], b"").ok();
    assert!(help.contains("Usage: kes key dek"), "{help}");
    assert!(shell.run_binary(&kes, &["--version"], b"").ok().contains(env!("CARGO_PKG_VERSION")));
}
