//! `kms policy for-minio` against what real MinIOs were seen to ask. `interop/least_policy.rs` has one live under it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kms_server::config::{Environment, load_text};
use kms_tests::shell::Shell;

use super::identity;

#[derive(serde::Deserialize)]
struct Seen {
    steps: Vec<Step>,
}

#[derive(serde::Deserialize)]
struct Step {
    feature: String,
    did: String,
    calls: Vec<String>,
}

/// The redirect of a listing without a name asks no policy.
const REDIRECTED: &str = "/v1/key/list";

const ALL: &str = "--sse-s3 --sse-kms --auto-encryption --iam --replication --batch --derived-root --admin";

fn steps() -> Vec<Step> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/minio-calls.json");
    let seen: Seen = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    seen.steps
}

fn policy(flags: &str) -> String {
    let keys = if flags.contains("kms")
        || flags.contains("replication")
        || flags.contains("batch")
        || flags.contains("admin")
    {
        "--key second --key third"
    } else {
        ""
    };
    let line = format!("policy for-minio --default-key default --identity {} {flags} {keys}", identity(2));
    Shell::default().run(&line.split_whitespace().collect::<Vec<_>>()).ok()
}

/// Returns the patterns that a policy allows, as a server reads them.
fn allowed(policy: &str) -> BTreeSet<String> {
    let config = format!(
        "admin.identity = \"disabled\"\ntls = {{ cert = \"c\", key = \"k\" }}\nkeystore.memory = {{}}\n{policy}"
    );
    let loaded = load_text(&config, "c.toml", &Environment::default())
        .unwrap_or_else(|problem| panic!("{problem}\n{config}"));
    let policy = &loaded.settings.policies["minio"];
    assert_eq!(policy.identities[0].to_string(), identity(2));
    policy.allow.iter().cloned().collect()
}

fn matches(pattern: &str, path: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == path, |start| path.starts_with(start))
}

#[test]
fn what_a_feature_asks_is_allowed_and_each_line_is_asked_for() {
    let steps = steps();
    let features: BTreeSet<_> = steps.iter().map(|step| step.feature.as_str()).collect();
    assert_eq!(features.len(), 9, "{features:?}");
    for feature in features {
        let flag =
            if feature == "start" { String::new() } else { format!("--{}", feature.replace('_', "-")) };
        let allowed = allowed(&policy(&flag));
        for Step { did, calls, .. } in
            steps.iter().filter(|step| [feature, "start"].contains(&step.feature.as_str()))
        {
            for call in calls.iter().filter(|call| *call != REDIRECTED) {
                assert!(
                    allowed.iter().any(|pattern| matches(pattern, call)),
                    "{feature}: {did} asks {call}: {allowed:?}"
                );
            }
        }
    }
    for pattern in allowed(&policy(ALL)) {
        let asked = steps.iter().flat_map(|step| &step.calls).any(|call| matches(&pattern, call));
        assert!(asked, "nothing asks for {pattern}");
    }
}

#[test]
fn a_feature_that_is_not_named_gets_nothing() {
    let base = allowed(&policy(""));
    assert_eq!(base.len(), 4);
    for flag in ["--sse-s3", "--iam", "--auto-encryption"] {
        assert_eq!(allowed(&policy(flag)), base, "{flag} works with the default key alone");
    }
    assert!(base.iter().all(|pattern| !pattern.contains('*') && pattern.ends_with("/default")), "{base:?}");
    assert!(allowed(&policy("--derived-root")).contains("/v1/key/hmac/default"));
    assert!(allowed(&policy("--sse-s3 --bulk-decrypt")).contains("/v1/key/bulk/decrypt/default"));
}

#[test]
fn the_same_policy_is_had_as_yaml() {
    let line = format!("policy for-minio --sse-kms --key tenant-* --format yaml --identity {}", identity(2));
    let yaml = Shell::default().run(&line.split_whitespace().collect::<Vec<_>>()).ok();
    let config = format!(
        "admin: {{identity: disabled}}\ntls: {{key: k, cert: c}}\nkeystore: {{fs: {{path: p}}}}\n{yaml}"
    );
    let loaded = load_text(&config, "c.yml", &Environment::default())
        .unwrap_or_else(|problem| panic!("{problem}\n{config}"));
    let allow = &loaded.settings.policies["minio"].allow;
    assert!(allow.contains(&"/v1/key/generate/tenant-*".to_owned()), "{allow:?}");
    assert!(allow.contains(&"/v1/key/create/minio-default-key".to_owned()), "{allow:?}");
}

#[test]
fn a_key_that_cannot_be_one_is_refused() {
    for key in ["a*b", "a/b", "", "*a"] {
        let done = Shell::default().run(&["policy", "for-minio", "--sse-kms", "--key", key]);
        assert!(!done.status.success() || key.is_empty(), "{key}: {done:?}");
    }
    let done = Shell::default().run(&["policy", "for-minio", "--sse-s3", "--key", "a"]);
    assert!(done.error().contains("--sse-kms"));
    // Without a name there is nothing to allow beside the default key.
    for (more, is_told) in [(&[] as &[&str], true), (&["--key", "a"], false)] {
        let done = Shell::default().run(&[&["policy", "for-minio", "--sse-kms"], more].concat());
        assert_eq!(done.stderr.contains("--sse-kms without --key"), is_told, "{done:?}");
    }
}
