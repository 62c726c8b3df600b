//! The SDK that MinIO links, `github.com/minio/kms-go/kes` v0.3.1.
use kms_tests::programs::program;

use super::aws;
use super::postgres::{self, Store};
use super::setup::{KeyServer, attempt, text};

const APP_ALLOW: [&str; 11] = [
    "/v1/status",
    "/v1/key/create/my-*",
    "/v1/key/import/my-*",
    "/v1/key/describe/my-*",
    "/v1/key/generate/my-*",
    "/v1/key/encrypt/my-*",
    "/v1/key/decrypt/my-*",
    "/v1/key/hmac/my-*",
    "/v1/key/delete/my-*",
    "/v1/key/list/my-*",
    "/v1/key/generate/other-*",
];

const APP_DENY: [&str; 1] = ["/v1/key/generate/my-internal*"];

#[test]
fn the_official_sdk_is_served() {
    // As in a config of KES.
    let server = KeyServer::start_with("[deletion]\ngrace = \"0s\"\n", &APP_ALLOW, &APP_DENY);
    the_sdk_is_served(&server, &[("KES_TEST_MANY", "2500")]);
}

/// With as many keys as several pages of the iterators have.
#[test]
fn the_official_sdk_is_served_from_postgresql() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::start_blocking());
    let sections = format!("[deletion]\ngrace = \"0s\"\n{}", store.sections());
    let server = KeyServer::start_on(dir, &sections, postgres::TOLD, &APP_ALLOW, &APP_DENY);
    the_sdk_is_served(&server, &[("KES_TEST_MANY", "5000")]);
}

#[test]
fn the_official_sdk_is_served_from_aws_kms_but_for_imports() {
    let (dir, (key_store, told)) = (tempfile::tempdir().unwrap(), aws::kms());
    let server = KeyServer::start_on(dir, &key_store, told, &APP_ALLOW, &APP_DENY);
    let how = [("KES_TEST_MANY", "1100"), ("KES_TEST_NO_IMPORT", "1"), ("KES_TEST_KEEPS_DELETED", "1")];
    the_sdk_is_served(&server, &how);
}

fn the_sdk_is_served(server: &KeyServer, how: &[(&str, &str)]) {
    let program = program("kes-go");
    let file = |name: &str| server.dir.path().join(name).display().to_string();
    let (endpoint, ca, cert, key) =
        (server.endpoint(), file("server.crt"), file("client.crt"), file("client.key"));
    let mut env = vec![
        ("KES_TEST_ENDPOINT", endpoint.as_str()),
        ("KES_TEST_CA", &ca),
        ("KES_TEST_ADMIN_KEY", &server.admin_key),
        ("KES_TEST_APP_KEY", &server.app_key),
        ("KES_TEST_CERT", &cert),
        ("KES_TEST_KEY", &key),
    ];
    env.extend(how);
    let output = attempt(&program, &[], &env);
    let text = text(&output);
    assert!(output.status.success() && text.contains("all cases passed"), "{text}");
}
