//! A server without credentials starts, refuses requests, and recovers by itself.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kms_tests::STATUS_KEPT;
use kms_tests::localstack::{Aws, Fault};
use kms_tests::programs::until;
use serde_json::json;

use super::mock::{Mock, credentials};
use super::place::{Keys, Place, ROLE, assert_told};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_credentials_starts_answers_502_and_takes_them_when_they_come() {
    for keys in [Keys::Kms, Keys::Secrets, Keys::Wrapped] {
        let aws = Aws::start().await;
        if keys == Keys::Wrapped {
            let cmk = aws.ask("CreateKey", json!({})).await;
            let alias = json!({"AliasName": "alias/root", "TargetKeyId": cmk["KeyMetadata"]["KeyId"]});
            aws.ask("CreateAlias", alias).await;
        }
        let place = Place::new(keys, &aws.endpoint()).without_instance();
        let token = place.path("token");
        let place = place
            .with("AWS_ROLE_ARN", ROLE)
            .with("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap())
            .with("AWS_ENDPOINT_URL_STS", aws.endpoint());
        let _server = place.serve().await;
        let began = Instant::now();
        let (code, text) = place.ask("PUT", "/v1/key/create/my-key").await;
        assert!(code == 502 && text.contains("failed to create key"), "{keys:?}: {code} {text}");
        if keys != Keys::Wrapped {
            let (code, text) = place.ask("PUT", "/v1/key/generate/my-key").await;
            assert!(code == 502 && text.contains("failed to read key"), "{keys:?}: {code} {text}");
        }
        let (code, text) = place.ask("GET", "/v1/ready").await;
        assert!(code == 502 && text.contains("key store is unavailable"), "{keys:?}: {code} {text}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_told(&format!("{keys:?}"), &place.log(), &[&format!("'{}'", token.display()), "is missing"]);
        assert!(aws.take_seen().is_empty(), "nothing was asked of AWS");

        fs::write(&token, "a.b.c").unwrap();
        let create = async || place.ask("PUT", "/v1/key/create/my-key").await.0 == 200;
        until("the token is taken", create).await;
        assert_eq!(place.ask("PUT", "/v1/key/generate/my-key").await.0, 200, "{keys:?}");
        tokio::time::sleep(STATUS_KEPT).await;
        assert_eq!(place.ask("GET", "/v1/ready").await.0, 200, "{keys:?}");
        let seen = aws.take_seen();
        let of_sts = seen.iter().filter(|(operation, _)| operation.is_empty()).count();
        assert_eq!(of_sts, 1, "{keys:?}: one question to STS for all calls");
        let log = place.log();
        assert!(!log.contains("a.b.c"), "the log holds the token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_comes_late_or_is_replaced_is_taken() {
    let aws = Aws::start().await;
    let place = Place::new(Keys::Secrets, &aws.endpoint()).without_instance();
    let _server = place.serve().await;
    assert_eq!(place.ask("PUT", "/v1/key/create/my-key").await.0, 502);
    let profile =
        |key: &str| format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = s3cr3t\n");
    place.write(".aws/credentials", &profile("AKIAFIRST"));
    until("the profile is taken", async || place.ask("PUT", "/v1/key/create/my-key").await.0 == 200).await;
    // AWS refuses the first key. The server takes the second one from the file, and all calls go on with
    // that.
    aws.fail(Fault::Error(400, "UnrecognizedClientException"));
    until("the refusal is told", async || place.ask("PUT", "/v1/key/create/other").await.0 == 502).await;
    assert!(place.log().contains("the credentials are those of the profile 'default'"));
    place.write(".aws/credentials", &profile("AKIASECOND"));
    aws.only_for("AKIASECOND");
    until("the new one is taken", async || place.ask("PUT", "/v1/key/create/other").await.0 == 200).await;
}

/// Credentials that have expired and cannot be renewed are no outage. The offline copy does not serve then.
#[tokio::test(flavor = "multi_thread")]
async fn an_offline_copy_does_not_stand_in_for_credentials() {
    for keys in [Keys::Kms, Keys::Secrets] {
        let aws = Aws::start().await;
        let answers = Arc::new(Mutex::new((200, credentials(Duration::from_secs(2)))));
        let answer = Arc::clone(&answers);
        let container = Mock::start(move |_| Some(answer.lock().unwrap().clone()));
        let place = Place::new(keys, &aws.endpoint())
            .without_instance()
            .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", container.url()));
        let _server = place.serve().await;
        assert_eq!(place.ask("PUT", "/v1/key/create/my-key").await.0, 200, "{keys:?}: {}", place.log());
        assert_eq!(place.ask("PUT", "/v1/key/generate/my-key").await.0, 200);
        assert_eq!(container.seen.lock().unwrap().len(), 1, "one question for all calls");
        *answers.lock().unwrap() = (403, String::new());
        // In an outage of AWS this copy would serve for an hour.
        until("the server has no credentials", async || {
            place.ask("PUT", "/v1/key/generate/my-key").await.0 == 502
        })
        .await;
        assert_told(&format!("{keys:?}"), &place.log(), &["it answers with status 403"]);
        *answers.lock().unwrap() = (200, credentials(Duration::from_secs(3600)));
        until("they are back", async || place.ask("PUT", "/v1/key/generate/my-key").await.0 == 200).await;
        // With credentials, the copy serves while AWS is away.
        aws.fail(Fault::Reset);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            assert_eq!(place.ask("PUT", "/v1/key/generate/my-key").await.0, 200, "{keys:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
