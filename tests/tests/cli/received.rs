//! The command line shows what a server sends, and the terminal does not obey it.

use super::fake::{Fake, Pair};
use kms_tests::shell::{Done, Shell, kms, text};

/// A text that clears the screen in three ways, forges a line in four, changes the direction of text, and has
/// real text.
const HOSTILE: &str = "ü\u{1b}[2J\u{9b}2J\u{7f}\nforged\rforged\u{85}forged\u{2028}forged\u{202e}\u{2066}";

fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed([super::fake::ADDRESS.to_owned()]).unwrap();
    Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

/// Returns an answer with every member of any answer. Each value is hostile.
fn answer(line: &str) -> String {
    let hostile = HOSTILE;
    if line.contains("metrics") {
        return format!("kes_{} 1\n", hostile.replace('\n', ""));
    }
    if line.contains("/v1/api") {
        return serde_json::json!([{ "method": hostile, "path": hostile }]).to_string();
    }
    let mut answer = serde_json::json!({});
    for member in [
        "name",
        "algorithm",
        "created_at",
        "created_by",
        "identity",
        "policy",
        "version",
        "os",
        "arch",
        "message",
        "plaintext",
        "ciphertext",
        "hmac",
    ] {
        answer[member] = hostile.into();
    }
    for member in ["allow", "deny"] {
        answer[member] = serde_json::json!({ hostile: {} });
    }
    let list = if line.contains("identity/list") { "identities" } else { "names" };
    answer[list] = serde_json::json!([hostile]);
    answer.to_string() + "\n"
}

#[track_caller]
fn obeys_nothing(what: &str, done: &Done) {
    let told = format!("{}{}", done.stdout, done.stderr);
    let obeyed = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!told.chars().any(obeyed), "{what}: {done:?}");
    assert!(!told.lines().any(|line| line.trim_start().starts_with("forged")), "{what}: {done:?}");
    assert!(told.contains('ü') && told.contains("forged"), "{what}: {done:?}");
}

const COMMANDS: [&[&str]; 14] = [
    &["key", "info", "my-key"],
    &["key", "ls"],
    &["key", "dek", "my-key"],
    &["key", "encrypt", "my-key", "text"],
    &["key", "hmac", "my-key", "text"],
    &["identity", "info"],
    &["identity", "ls"],
    &["policy", "info", "my-policy"],
    &["policy", "show", "my-policy"],
    &["policy", "ls"],
    &["status", "--api"],
    &["metric"],
    &["log", "--audit"],
    &["log", "--error"],
];

/// Removes the colours of this program.
fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        let end = after.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap();
        assert_eq!(&after[end..=end], "m", "{text:?}");
        plain.push_str(before);
        rest = &after[end + 1..];
    }
    plain + rest
}

#[test]
fn answers_of_a_server_are_escaped() {
    let pair = pair();
    let fake = Fake::start(&pair, |line| (200, answer(line)));
    let directory = tempfile::tempdir().unwrap();
    let shell = shell(&fake, &pair, directory.path());
    let kes = directory.path().join("kes");
    std::os::unix::fs::symlink(kms(), &kes).unwrap();
    for command in COMMANDS {
        let done = shell.run(command);
        obeys_nothing(&command.join(" "), &done);
        done.ok();
        // As `kes` the command `metric` does not end, and its output has no texts.
        if command != ["metric"] {
            let done = shell.run_binary(&kes, command, b"");
            obeys_nothing(&format!("kes {}", command.join(" ")), &done);
            done.ok();
            let coloured = shell.run_binary(&kes, &[command, &["--color", "always"]].concat(), b"");
            let plain = without_colours(&coloured.stdout);
            obeys_nothing(
                &format!("kes {} --color always", command.join(" ")),
                &Done { stdout: plain, ..coloured },
            );
        }
        let json = shell.run(&[command, &["--json"]].concat());
        obeys_nothing(&format!("{} --json", command.join(" ")), &json);
        let json: serde_json::Value = serde_json::from_str(&json.ok()).unwrap();
        let members = ["name", "ciphertext", "hmac", "policy", "version", "message"];
        let exact = members.iter().any(|member| json[member] == HOSTILE)
            || json[0] == HOSTILE
            || json[0]["path"] == HOSTILE;
        assert!(exact || command == ["metric"], "{command:?}: {json}");
    }
}

#[test]
fn what_a_server_refuses_with_is_escaped() {
    let pair = pair();
    let directory = tempfile::tempdir().unwrap();
    for status in [400, 403, 404, 500] {
        let fake = Fake::start(&pair, move |line| (status, answer(line)));
        let shell = shell(&fake, &pair, directory.path());
        for command in COMMANDS.iter().filter(|command| **command != ["metric"]) {
            let done = shell.run(command);
            obeys_nothing(&format!("{} ({status})", command.join(" ")), &done);
            done.error();
        }
    }
}

#[test]
fn what_is_no_answer_of_a_key_server_is_told_in_words() {
    let pair = pair();
    let directory = tempfile::tempdir().unwrap();
    let kes = directory.path().join("kes");
    std::os::unix::fs::symlink(kms(), &kes).unwrap();
    for answer in ["<html></html>", "null", "", "1", "other_family 1\n", "\"text\""] {
        let fake = Fake::start(&pair, move |_| (200, answer.to_owned()));
        let shell = shell(&fake, &pair, directory.path());
        for program in [kms(), &kes] {
            let told = shell.run_binary(program, &["metric"], b"").error();
            assert!(told.starts_with("Error: failed to fetch metrics: "), "{answer:?}: {told}");
            for command in [
                &["status"] as &[&str],
                &["key", "info", "a"],
                &["identity", "info"],
                &["policy", "info", "a"],
            ] {
                let told = shell.run_binary(program, command, b"").error();
                assert!(
                    told.ends_with("the server's answer is not the JSON that was expected"),
                    "{command:?} {answer:?}: {told}"
                );
            }
        }
    }
}

#[test]
fn what_vault_says_is_escaped_in_the_check() {
    let pair = pair();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, &pair.certificate).unwrap();
    let health = r#"{"initialized":true,"sealed":false,"standby":false}"#;
    let fake = Fake::start(&pair, move |line| {
        if line.contains("sys/health") {
            return (200, health.to_owned());
        }
        (400, serde_json::json!({ "errors": [HOSTILE] }).to_string())
    });
    let config = directory.path().join("config.toml");
    let content = format!(
        "admin.identity = 'disabled'\ntls.cert = 'none'\ntls.key = 'none'\n[keystore.vault]\n\
         endpoint = 'https://{}'\ntoken.value = 'the token'\ntls.ca = '{}'\n",
        fake.address,
        ca.display()
    );
    std::fs::write(&config, content).unwrap();
    for flags in [&[][..], &["--json"]] {
        let done = Shell::default().run(&[&["check", "--config", text(&config)], flags].concat());
        obeys_nothing("check", &done);
    }
}

fn shell(fake: &Fake, pair: &Pair, directory: &std::path::Path) -> Shell {
    let ca = directory.join("ca.crt");
    std::fs::write(&ca, &pair.certificate).unwrap();
    let api_key = kms_server::credentials::apikey::ApiKey::generate().unwrap().to_text();
    Shell::default()
        .set("KES_SERVER", fake.address)
        .set("KES_CA_CERT", ca.display())
        .set("KES_API_KEY", &*api_key)
}
