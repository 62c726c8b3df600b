//! Clients hang up while the server asks AWS.

use std::collections::HashSet;
use std::time::Duration;

use kms_tests::cut_off::CutOff;
use kms_tests::localstack::{Aws, Fault};
use kms_tests::{Protocol, TestServer};
use serde_json::{Value, json};

/// How many calls one identity may have under way.
const CALLS: usize = 16;

/// Returns the ids of all CMKs that have an alias.
async fn with_alias(aws: &Aws) -> HashSet<String> {
    let (mut ids, mut marker) = (HashSet::new(), Value::Null);
    loop {
        let mut parameters = json!({"Limit": 100});
        if marker.is_string() {
            parameters["Marker"] = marker;
        }
        let page = aws.ask("ListAliases", parameters).await;
        let aliases = page["Aliases"].as_array().unwrap();
        ids.extend(aliases.iter().filter_map(|alias| Some(alias["TargetKeyId"].as_str()?.to_owned())));
        marker = page["NextMarker"].clone();
        if !marker.is_string() {
            return ids;
        }
    }
}

async fn state(aws: &Aws, key: &str) -> Option<String> {
    let (status, answer) = aws.try_ask("TrentService.DescribeKey", json!({"KeyId": key})).await;
    (status == 200).then(|| answer["KeyMetadata"]["KeyState"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_in_aws_kms_are_recorded_and_leave_no_cmk_behind_although_the_client_left() {
    let aws = Aws::start().await;
    let mut builder = TestServer::builder();
    let audit_file = builder.path("audit.log");
    builder.settings.log.audit_file = Some(audit_file.clone());
    let server = builder.kms(aws.open().await).start().await;
    aws.count_anew().await;
    let cut_off = CutOff { server: &server, audit_file: &audit_file };
    cut_off
        .check(async |name| {
            state(&aws, &format!("alias/kms/k/{name}")).await.is_some_and(|state| state == "Enabled")
        })
        .await;
    let with_alias = with_alias(&aws).await;
    for key in aws.ask("ListKeys", json!({"Limit": 1000})).await["Keys"].as_array().unwrap() {
        let id = key["KeyId"].as_str().unwrap();
        assert!(with_alias.contains(id) || state(&aws, id).await.unwrap() == "PendingDeletion", "{id}");
    }
    assert!(aws.most_at_once() <= CALLS, "{} calls at once", aws.most_at_once());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_up_has_no_more_calls_under_way_than_others() {
    let aws = Aws::start().await;
    let server = TestServer::builder().kms(aws.open().await).start().await;
    let mut admin = server.admin(Protocol::Http2);
    assert_eq!(admin.send("PUT", "/v1/key/create/my-key", "").await.unwrap().code(), 200);
    let generated = admin.send("PUT", "/v1/key/generate/my-key", "").await.unwrap();
    let ciphertext = generated.member("ciphertext");
    aws.count_anew().await;
    // These calls stay under way after their clients have left.
    aws.fail(Fault::Drop);
    let asks = |n: usize| {
        let foreign = format!(r#"{{"ciphertext":"{}"}}"#, foreign_ciphertext(&ciphertext, n));
        [
            ("PUT", format!("/v1/key/create/other-{n}"), String::new()),
            ("PUT", format!("/v1/key/generate/unknown-{n}"), String::new()),
            ("PUT", "/v1/key/decrypt/my-key".to_owned(), foreign),
            ("PUT", "/v1/key/hmac/my-key".to_owned(), r#"{"message":"bQ=="}"#.to_owned()),
            ("GET", "/v1/key/list/".to_owned(), String::new()),
            ("DELETE", format!("/v1/key/delete/unknown-{n}"), String::new()),
        ]
    };
    for round in 0..20 {
        let mut client = server.admin(Protocol::Http2);
        client.connect().await.unwrap();
        for (method, path, body) in (0..4).flat_map(|n| asks(round * 4 + n)) {
            let cut_off = client.send(method, &path, body);
            let _ = tokio::time::timeout(Duration::from_millis(2), cut_off).await;
        }
    }
    assert!(aws.most_at_once() <= CALLS, "{} calls at once", aws.most_at_once());
    assert!(aws.most_at_once() > CALLS / 2, "only {} calls at once", aws.most_at_once());
}

/// Changes the wrapped key of a ciphertext, so that the server has to ask AWS.
fn foreign_ciphertext(ciphertext: &str, n: usize) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let mut bytes = STANDARD.decode(ciphertext).unwrap();
    let at = 40 + n % 60;
    bytes[at] ^= u8::try_from(1 + n / 60).unwrap();
    STANDARD.encode(bytes)
}
