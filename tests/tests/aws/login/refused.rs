//! `kms check` says where it looked for credentials, and why each place gave none.

use std::fs;
use std::time::Duration;

use kms_tests::localstack::{Aws, Fault};

use super::mock::Mock;
use super::place::{Keys, NOBODY, Place, ROLE, assert_told};

#[tokio::test(flavor = "multi_thread")]
async fn no_credentials_are_told_with_all_places_that_were_looked_at() {
    for keys in [Keys::Kms, Keys::Secrets, Keys::Wrapped] {
        let (text, took) = Place::new(keys, NOBODY).without_instance().check().await;
        let parts = [
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set",
            "profile 'default'",
            ".aws/credentials is missing",
            "AWS_WEB_IDENTITY_TOKEN_FILE is not set",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "switched off by AWS_EC2_METADATA_DISABLED",
            "give the instance, the task or the pod a role",
        ];
        assert_told(&format!("{keys:?}"), &text, &parts);
        assert!(took < Duration::from_secs(5), "{keys:?}: {took:?}");
        let place = Place::new(keys, NOBODY).without_instance();
        let place = place
            .with("AWS_ROLE_ARN", ROLE)
            .with("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/secrets/no-such-token");
        let (text, took) = place.check().await;
        let missing = "the web identity token file '/run/secrets/no-such-token' (AWS_WEB_IDENTITY_TOKEN_FILE) is missing";
        assert_told(&format!("{keys:?}, token"), &text, &[missing]);
        assert!(took < Duration::from_secs(5), "{keys:?}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_place_that_gives_none_is_named_with_the_reason() {
    let place = || Place::new(Keys::Kms, NOBODY).without_instance();
    let told = async |what: &str, place: Place, parts: &[&str]| {
        let (text, took) = place.check().await;
        assert_told(what, &text, parts);
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
    };

    let half = place().with("AWS_ACCESS_KEY_ID", "AKIA");
    told("half an environment", half, &["AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not"]).await;

    let named = place().with("AWS_PROFILE", "nobody");
    named.write(".aws/credentials", "[default]\naws_access_key_id = AKIA\naws_secret_access_key = s\n");
    told("a profile that is not there", named, &["'nobody'", ".aws/credentials does not have it"]).await;

    let people = place().with("AWS_PROFILE", "people");
    people.write(
        ".aws/config",
        "[profile people]\nsso_session = us\nsso_account_id = 1\nsso_role_name = r\n[sso-session us]\n\
         sso_region = eu-central-1\nsso_start_url = https://us.awsapps.com/start\n",
    );
    told("a profile of a person", people, &["'people'", "single sign-on"]).await;

    let helper = place().with("AWS_PROFILE", "helper");
    helper.write(".aws/config", "[profile helper]\ncredential_process = /bin/true\n");
    told("a profile of a helper", helper, &["'helper'", "credential_process"]).await;

    let directory = place();
    let path = directory.path("token").to_str().unwrap().to_owned();
    fs::create_dir(&path).unwrap();
    let directory = directory.with("AWS_ROLE_ARN", ROLE).with("AWS_WEB_IDENTITY_TOKEN_FILE", &path);
    told("a token that is a directory", directory, &[&format!("'{path}'"), "is not a file"]).await;

    let no_role = place();
    let path = no_role.write("token", "jwt");
    let no_role = no_role.with("AWS_WEB_IDENTITY_TOKEN_FILE", path);
    told("a token without a role", no_role, &["AWS_ROLE_ARN, the role for it, is not set"]).await;

    let refusing = place().with("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/role");
    told("a container's endpoint that is away", refusing, &["http://127.0.0.1:9/role"]).await;

    let mock = Mock::start(|_| Some((403, "no".to_owned())));
    let denying = place().with("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", mock.url()));
    told("a container's endpoint that refuses", denying, &["/role: it answers with status 403"]).await;

    let tokenless = place()
        .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", mock.url()))
        .with("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/run/secrets/no-such-pod-token");
    told("a container's token that is missing", tokenless, &["'/run/secrets/no-such-pod-token'"]).await;

    let secret = "t0k3n-of-the-pod";
    let broken = place()
        .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", mock.url()))
        .with("AWS_CONTAINER_AUTHORIZATION_TOKEN", format!("{secret}\n{secret}"))
        .with("KMS_LOG", "trace");
    let (text, _) = broken.check().await;
    assert_told("a container's token that cannot be sent", &text, &["is malformed"]);
    assert!(!text.contains(secret), "a token is told: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_a_role_and_one_that_does_not_answer_are_told_apart() {
    let at =
        |mock: &Mock| Place::new(Keys::Kms, NOBODY).with("AWS_EC2_METADATA_SERVICE_ENDPOINT", mock.url());
    let no_role = Mock::start(|line| {
        Some(if line.starts_with("PUT /latest/api/token") {
            (200, "t".to_owned())
        } else {
            (404, String::new())
        })
    });
    let (text, took) = at(&no_role).check().await;
    assert_told("no role", &text, &["instance metadata (IMDS) says that the instance has no role"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
    // This is the effect of a hop limit: requests arrive, and no answer comes back.
    let silent = Mock::start(|_| None);
    let (text, took) = at(&silent).check().await;
    assert_told("silent", &text, &["instance metadata (IMDS) is not reachable", "too many hops"]);
    assert!(took < Duration::from_secs(10), "{took:?}");
    let closed = Place::new(Keys::Kms, NOBODY).with("AWS_EC2_METADATA_SERVICE_ENDPOINT", NOBODY);
    let (text, took) = closed.check().await;
    assert_told("closed", &text, &["instance metadata (IMDS) is not reachable"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
    let refused = Mock::start(|line| match line {
        "PUT /latest/api/token" => Some((200, "t".to_owned())),
        "GET /latest/meta-data/iam/security-credentials/" => Some((200, "role".to_owned())),
        _ => Some((
            200,
            r#"{"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume it"}"#.to_owned(),
        )),
    });
    let (text, _) = at(&refused).check().await;
    assert_told("refused", &text, &["EC2 cannot assume it"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_sts_refuses_is_a_refused_login_and_an_sts_that_is_away_an_outage() {
    let with_token = |sts: &str| {
        let place = Place::new(Keys::Kms, NOBODY).without_instance();
        let path = place.write("token", "jwt");
        place
            .with("AWS_ROLE_ARN", ROLE)
            .with("AWS_WEB_IDENTITY_TOKEN_FILE", path)
            .with("AWS_ENDPOINT_URL_STS", sts)
    };
    let refusing = Mock::start(|_| {
        let error = "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code>\
                     <Message>No OpenIDConnect provider found</Message></Error></ErrorResponse>";
        Some((400, error.to_owned()))
    });
    let (text, _) = with_token(&refusing.url()).check().await;
    assert_told(
        "refusing",
        &text,
        &["AWS STS does not give us", ROLE, "InvalidIdentityToken: No OpenIDConnect"],
    );

    let (text, took) = with_token(NOBODY).check().await;
    assert!(
        text.contains("AWS STS, which gives the credentials of") && text.contains("is not reachable"),
        "{text}"
    );
    assert!(!text.contains("login failed"), "{text}");
    assert!(took < Duration::from_secs(20), "{took:?}");

    // With credentials, the problem is AWS itself.
    let there = Place::new(Keys::Kms, NOBODY).without_instance();
    let there = there.with("AWS_ACCESS_KEY_ID", "AKIA").with("AWS_SECRET_ACCESS_KEY", "s");
    let (text, _) = there.check().await;
    assert!(text.contains("key store is not available") && !text.contains("login failed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_aws_refuses_are_told_with_their_place() {
    let aws = Aws::start().await;
    // A call to STS has no operation name here, because STS has another protocol.
    aws.fail_if(|operation, _| match operation {
        "" => Fault::None,
        _ => Fault::Says("ExpiredTokenException", "The security token included in the request is expired"),
    });
    let place = || Place::new(Keys::Kms, &aws.endpoint()).without_instance();
    let environment = place()
        .with("AWS_ACCESS_KEY_ID", "ASIAX")
        .with("AWS_SECRET_ACCESS_KEY", "s3cr3t")
        .with("AWS_SESSION_TOKEN", "t0k3n");
    let (text, _) = environment.check().await;
    let parts = ["ExpiredTokenException", "the credentials are those of the environment (AWS_ACCESS_KEY_ID)"];
    assert_told("environment", &text, &parts);
    assert!(!text.contains("s3cr3t") && !text.contains("t0k3n"), "{text}");
    let profile = place().with("AWS_PROFILE", "minio");
    profile.write(".aws/credentials", "[minio]\naws_access_key_id = ASIAX\naws_secret_access_key = s3cr3t\n");
    let (text, _) = profile.check().await;
    assert_told("profile", &text, &["the credentials are those of the profile 'minio'"]);
}
