//! A MinIO that has the policy of `kms policy for-minio` and nothing more, and what each line of it is for.

use std::path::Path;

use kms_tests::shell::kms;

use super::minio::{Minio, path};
use super::setup::{KeyServer, run, text};

/// The default key of the MinIO here, and a key for SSE-KMS.
const KEYS: [&str; 2] = ["minio-default", "minio-second"];

/// Returns the patterns of the policy for these features.
fn policy(flags: &[&str]) -> Vec<String> {
    let command = ["policy", "for-minio", "--default-key", KEYS[0]];
    let printed = run(kms(), &[&command as &[&str], flags].concat(), &[]);
    let patterns = printed.lines().filter_map(|line| line.trim().strip_prefix("\"/")?.split_once('"'));
    patterns.map(|(pattern, _)| format!("/{pattern}")).collect()
}

fn borrowed(patterns: &[String]) -> Vec<&str> {
    patterns.iter().map(String::as_str).collect()
}

#[test]
fn a_minio_lives_under_the_least_policy_and_misses_each_line_of_it() {
    let all = policy(&["--sse-s3", "--sse-kms", "--iam", "--admin", "--key", KEYS[1]]);
    let mut keys = KeyServer::start(&borrowed(&all), &[]);
    let without = |keys: &mut KeyServer, left_out: &str| {
        let rest: Vec<_> = all.iter().filter(|pattern| *pattern != left_out).cloned().collect();
        assert_eq!(rest.len() + 1, all.len(), "{left_out} is not in {all:?}");
        keys.allow(&borrowed(&rest));
    };

    // The first start makes the key, so it is missed only there.
    without(&mut keys, "/v1/key/create/minio-default");
    let mut minio = Minio::prepared();
    minio.restart_until_told(&keys, "key with given key ID does not exist");
    keys.allow(&borrowed(&all));
    minio.restart(&keys);

    let object = minio.file("object", 1000);
    minio.mc(&["mb", "s3/sse-s3", "s3/sse-kms"]);
    minio.mc(&["encrypt", "set", "sse-s3", "s3/sse-s3"]);
    let create = ["admin", "kms", "key", "create", "s3", KEYS[1]];
    without(&mut keys, "/v1/key/create/minio-second");
    minio.until_works(&["ready", "s3"]);
    let refused = minio.attempt(&create);
    assert!(!refused.status.success(), "{}", text(&refused));
    keys.allow(&borrowed(&all));
    minio.until_works(&create);
    minio.mc(&["encrypt", "set", "sse-kms", KEYS[1], "s3/sse-kms"]);
    minio.mc(&["admin", "user", "add", "s3", "somebody", "some-password"]);
    assert!(minio.mc(&["admin", "kms", "key", "list", "s3"]).contains(KEYS[1]));
    for bucket in ["sse-s3", "sse-kms"] {
        minio.mc(&["cp", &path(&object), &format!("s3/{bucket}/object")]);
        assert!(minio.get(&format!("s3/{bucket}/object")) == std::fs::read(&object).unwrap(), "{bucket}");
    }
    minio.restart(&keys);
    assert!(minio.get("s3/sse-s3/object") == std::fs::read(&object).unwrap(), "after a restart");

    let put = |bucket: &str| vec!["cp".to_owned(), path(Path::new(&object)), format!("s3/{bucket}/other")];
    let get = |bucket: &str| vec!["cat".to_owned(), format!("s3/{bucket}/object")];
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (line, misses) in [
        ("/v1/key/generate/minio-default", put("sse-s3")),
        ("/v1/key/decrypt/minio-default", get("sse-s3")),
        ("/v1/key/generate/minio-second", put("sse-kms")),
        ("/v1/key/decrypt/minio-second", get("sse-kms")),
        ("/v1/key/list/*", words("admin kms key list s3")),
    ] {
        without(&mut keys, line);
        let misses: Vec<_> = misses.iter().map(String::as_str).collect();
        minio.until_works(&["ready", "s3"]);
        let refused = minio.attempt(&misses);
        assert!(!refused.status.success(), "without {line}: {}", text(&refused));
    }
}
