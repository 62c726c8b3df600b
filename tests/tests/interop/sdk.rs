//! The SDK that MinIO links, `github.com/minio/kms-go/kes` v0.3.1.

use super::setup::{KeyServer, attempt, text, tools};

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

#[test]
fn the_official_sdk_is_served() {
    let program = tools(&["kes-go"]).join("kes-go");
    let server = KeyServer::start(&APP_ALLOW, &["/v1/key/generate/my-internal*"]);
    let file = |name: &str| server.dir.path().join(name).display().to_string();
    let (endpoint, ca, cert, key) =
        (server.endpoint(), file("server.crt"), file("client.crt"), file("client.key"));
    let env = [
        ("KES_TEST_ENDPOINT", endpoint.as_str()),
        ("KES_TEST_CA", &ca),
        ("KES_TEST_ADMIN_KEY", &server.admin_key),
        ("KES_TEST_APP_KEY", &server.app_key),
        ("KES_TEST_CERT", &cert),
        ("KES_TEST_KEY", &key),
        ("KES_TEST_MANY", "2500"),
    ];
    let output = attempt(&program, &[], &env);
    let text = text(&output);
    assert!(output.status.success() && text.contains("all cases passed"), "{text}");
}
