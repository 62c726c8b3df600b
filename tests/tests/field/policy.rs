//! `kms policy test`, also with the globs of 2020.

use std::fs;
use std::path::PathBuf;

use kms_tests::shell::{Shell, field, text};
use serde_json::Value;
use tempfile::TempDir;

const ADMIN: &str = "0000000000000000000000000000000000000000000000000000000000000001";
const APP: &str = "0000000000000000000000000000000000000000000000000000000000000002";
const OLD: &str = "0000000000000000000000000000000000000000000000000000000000000003";

fn config() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kes.yml");
    let content = format!(
        "admin: {{identity: {ADMIN}}}\ntls: {{key: k, cert: c}}\nkeystore: {{fs: {{path: p}}}}\npolicy:\n  app:\n    \
         allow: [/v1/key/create/my-*, /v1/key/generate/*, /v1/key/bulk/decrypt/*, /v1/log/*]\n    \
         deny: [/v1/key/generate/my-secret, /v1/key/decrypt/my-secret, /v1/log/audit]\n    \
         identities: [{APP}]\n  old:\n    paths: [/v1/key/*, /v1/key/create/o?d*]\n    identities: [{OLD}]\n"
    );
    fs::write(&file, content).unwrap();
    (dir, file)
}

#[test]
fn a_decision_is_explained_from_the_config_alone() {
    let (_dir, file) = config();
    for (identity, path, allowed, reason) in [
        (ADMIN, "/v1/anything", true, "the admin"),
        (APP, "/v1/key/create/my-key", true, "policy 'app' allows '/v1/key/create/my-*'"),
        (APP, "/v1/key/generate/my-secret", false, "policy 'app' denies '/v1/key/generate/my-secret'"),
        (APP, "/v1/key/delete/my-key", false, "no rule of policy 'app' allows the path"),
        (APP, "/v1/key/%67enerate/my-%73ecret?x", false, "denies '/v1/key/generate/my-secret'"),
        // A deny of one path denies all paths to the same handler. An allow counts for its own path only.
        (
            APP,
            "/v1/key/bulk/decrypt/my-secret",
            false,
            "denies '/v1/key/decrypt/my-secret', which leads to the same",
        ),
        (APP, "/v1/key/bulk/decrypt/my-secret2", true, "allows '/v1/key/bulk/decrypt/*'"),
        (APP, "/v1/key/decrypt/my-key", false, "no rule of policy 'app' allows the path"),
        (APP, "/v1/log/audit/trace", false, "denies '/v1/log/audit', which leads to the same"),
        (APP, "/version", true, "no policy is asked"),
        (OLD, "/v1/key%2Fcreate/old-key", false, "no rule of policy 'old'"),
        (&"f".repeat(64), "/v1/status", false, "no policy"),
        // The `*` of a glob of 2020 ends at a slash.
        (OLD, "/v1/key/create/old-key", true, "policy 'old' allows '/v1/key/create/o?d*'"),
        (OLD, "/v1/key/create/new-key", false, "no rule of policy 'old'"),
        (OLD, "/v1/key/x", true, "policy 'old' allows '/v1/key/*'"),
    ] {
        let arguments = ["policy", "test", "--config", text(&file), "--identity", identity, path];
        let done = Shell::default().run(&arguments);
        assert_eq!(done.status.code(), Some(i32::from(!allowed)), "{identity} {path} {done:?}");
        let verdict = if allowed { "allowed: " } else { "denied: " };
        assert!(done.stdout.starts_with(verdict) && done.stdout.contains(reason), "{done:?}");
        assert_eq!(done.stderr, "");
        let json = Shell::default().run(&[&arguments as &[&str], &["--json"]].concat());
        let json: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(json["allowed"], allowed);
    }
}

#[test]
fn new_powers_need_an_allow_that_is_meant_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kms.yml");
    let operations = ["rotate", "rewrap", "versions", "retire", "enable", "deleted", "restore", "purge"];
    // What is allowed, what is denied, and which of the operations pass.
    let table = [
        ("allow: ['/v1/key/*']", [false, true, true, false, false, true, false, false]),
        ("allow: ['/v1/*']", [false, true, true, false, false, true, false, false]),
        ("allow: ['/*']", [false, true, true, false, false, true, false, false]),
        ("allow: ['*']", [false, true, true, false, false, true, false, false]),
        ("allow: ['/v1/key/r*']", [true, true, false, true, false, false, true, false]),
        ("allow: ['/v1/key/rotate/*']", [true, false, false, false, false, false, false, false]),
        ("allow: ['/v1/key/rotate/my-key']", [true, false, false, false, false, false, false, false]),
        ("allow: ['/v1/key/rotate/other']", [false; 8]),
        ("allow: ['/v1/key/*', '/v1/key/rotate/*']", [true, true, true, false, false, true, false, false]),
        (
            "allow: ['/v1/key/enable/*', '/v1/key/retire/my-*']",
            [false, false, false, true, true, false, false, false],
        ),
        (
            "allow: ['/v1/key/*'], deny: ['/v1/key/decrypt/*']",
            [false, false, true, false, false, true, false, false],
        ),
        (
            "allow: ['/v1/key/*'], deny: ['/v1/key/bulk/decrypt/my-*']",
            [false, false, true, false, false, true, false, false],
        ),
        (
            "allow: ['/v1/key/*'], deny: ['/v1/key/decrypt/other']",
            [false, true, true, false, false, true, false, false],
        ),
        (
            "allow: ['/v1/key/r*'], deny: ['/v1/key/rotate/my-key']",
            [false, true, false, true, false, false, true, false],
        ),
        (
            "allow: ['/v1/key/re*'], deny: ['/v1/key/delete/my-key']",
            [false, true, false, false, false, false, true, false],
        ),
        (
            "allow: ['/v1/key/re*'], deny: ['/v1/key/delete/other']",
            [false, true, false, true, false, false, true, false],
        ),
        (
            "allow: ['/v1/key/*'], deny: ['/v1/key/describe/my-key']",
            [false, true, false, false, false, true, false, false],
        ),
        ("allow: ['/v1/key/r*'], deny: ['/v1/key/*']", [false; 8]),
        ("paths: ['/v1/key/*/*']", [false, true, true, false, false, true, false, false]),
        ("paths: ['/v1/key/?otate/*']", [false; 8]),
        ("paths: ['/v1/key/[rx]*/*']", [false, true, false, false, false, false, false, false]),
        ("paths: ['/v1/key/rot*/*']", [true, false, false, false, false, false, false, false]),
        ("paths: ['/v1/key/rotate/my-key']", [true, false, false, false, false, false, false, false]),
        ("allow: ['/v1/key/restore/*']", [false, false, false, false, false, false, true, false]),
        (
            "allow: ['/v1/key/restore/my-key', '/v1/key/purge/my-*']",
            [false, false, false, false, false, false, true, true],
        ),
        (
            "allow: ['/v1/key/purge/*'], deny: ['/v1/key/delete/*']",
            [false, false, false, false, false, false, false, false],
        ),
        (
            "allow: ['/v1/key/purge/*'], deny: ['/v1/key/delete/other']",
            [false, false, false, false, false, false, false, true],
        ),
        (
            "allow: ['/v1/key/p*'], deny: ['/v1/key/purge/my-key']",
            [false, false, false, false, false, false, false, false],
        ),
        ("allow: ['/v1/key/p*']", [false, false, false, false, false, false, false, true]),
        ("allow: ['/v1/key/deleted/*']", [false, false, false, false, false, true, false, false]),
        (
            "allow: ['/v1/key/deleted/*'], deny: ['/v1/key/list/*']",
            [false, false, false, false, false, false, false, false],
        ),
        ("allow: ['/v1/key/delete/*']", [false, false, false, false, false, false, false, false]),
        ("paths: ['/v1/key/pur*/*']", [false, false, false, false, false, false, false, true]),
    ];
    for (rules, passes) in table {
        let content = format!(
            "admin: {{identity: {ADMIN}}}\ntls: {{key: k, cert: c}}\nkeystore: {{fs: {{path: p}}}}\n\
             policy: {{app: {{{rules}, identities: [{APP}]}}}}\n"
        );
        fs::write(&file, content).unwrap();
        let seen = operations.map(|operation| {
            let path = format!("/v1/key/{operation}/my-key");
            let arguments = ["policy", "test", "--config", text(&file), "--identity", APP, &path];
            Shell::default().run(&arguments).status.success()
        });
        assert_eq!(seen, passes, "{rules}");
    }
}

#[test]
fn a_check_tells_what_a_deny_denies_beyond_its_words() {
    let (_dir, file) = config();
    let found = Shell::default().run(&["check", "--config", text(&file)]).stdout;
    for line in [
        "warning  policy       policy 'app': '/v1/key/decrypt/my-secret' denies '/v1/key/bulk/decrypt/my-secret', too: \
         it leads to the same, although '/v1/key/bulk/decrypt/*' is allowed",
        "ok       policy       policy 'app': '/v1/log/audit' denies '/v1/log/audit/trace', too: it leads to the same",
    ] {
        assert!(found.lines().any(|other| other == line), "not '{line}' in {found}");
    }
}

#[test]
fn the_identity_may_be_an_api_key_and_mistakes_are_told() {
    let (_dir, file) = config();
    let api_key = field(&Shell::default().run(&["identity", "new", "--json"]).ok(), "api_key");
    let root = Shell::default().run(&["identity", "of", &api_key]).ok();
    let test = |identity: &str, more: &[&str]| {
        let arguments = ["policy", "test", "--config", text(&file), "--identity", identity, "/v1/status"];
        Shell::default().run(&[&arguments as &[&str], more].concat())
    };
    assert_eq!(test(&api_key, &[]).status.code(), Some(1));
    assert!(test(&api_key, &["--root", root.trim()]).ok().contains("the admin"));
    assert!(test("nobody", &[]).error().contains("64 hex digits"));
}
