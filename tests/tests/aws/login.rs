//! A server that has no credentials: what `kms check`, the log and clients are told, and that it recovers by itself.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kms_server::credentials::certificate::NewCertificate;
use kms_tests::localstack::{Aws, Fault};
use kms_tests::process::kms_binary;
use kms_tests::programs::until;
use kms_tests::{Client, Protocol, STATUS_KEPT, TestIdentity};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// An endpoint at which nobody listens: whoever asks there has credentials.
const NOBODY: &str = "http://127.0.0.1:9";
const ROLE: &str = "arn:aws:iam::000000000000:role/kms";

/// A directory with a config that names AWS, and the environment of a server in it.
struct Place {
    directory: TempDir,
    address: SocketAddr,
    admin: TestIdentity,
    environment: Vec<(&'static str, String)>,
}

/// Where the keys are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Keys {
    Kms,
    Secrets,
    Wrapped,
}

impl Place {
    fn new(keys: Keys, endpoint: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let pair = NewCertificate {
            common_name: "localhost".to_owned(),
            dns_names: vec!["localhost".to_owned()],
            ip_addresses: vec![[127, 0, 0, 1].into()],
            validity: Duration::from_secs(3600),
            server: true,
        };
        let pair = pair.with_new_key().unwrap();
        fs::write(file("server.crt"), pair.chain_pem()).unwrap();
        fs::write(file("server.key"), pair.key_pem().as_bytes()).unwrap();
        let admin = TestIdentity::new();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let aws = format!("region = \"eu-central-1\"\nendpoint = \"{endpoint}\"\n");
        let section = match keys {
            Keys::Kms => format!("[keystore.aws.kms]\n{aws}"),
            Keys::Secrets => format!("[keystore.aws.secretsmanager]\n{aws}"),
            Keys::Wrapped => {
                format!("[keystore.fs]\npath = \"store\"\n[kms.aws]\nkey = \"alias/root\"\n{aws}")
            }
        };
        let config = format!(
            "address = \"{address}\"\n[admin]\nidentity = \"{}\"\n[tls]\ncert = \"server.crt\"\nkey = \"server.key\"\n\
             [cache.expiry]\nany = \"1s\"\noffline = \"1h\"\n{section}",
            admin.identity()
        );
        fs::write(file("config.toml"), config).unwrap();
        Self { directory, address, admin, environment: Vec::new() }
    }

    /// Sets a variable.
    fn with(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((variable, value.into()));
        self
    }

    /// Leaves instance metadata out, for which a machine that has some would answer.
    fn without_instance(self) -> Self {
        self.with("AWS_EC2_METADATA_DISABLED", "true")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(kms_binary());
        command
            .args(arguments)
            .args(["--config", "config.toml"])
            .current_dir(self.directory.path())
            .env_clear()
            .env("HOME", self.directory.path())
            .envs(self.environment.iter().map(|(variable, value)| (variable, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs `kms check`, which has to find a problem; returns what it prints, and how long it took.
    async fn check(&self) -> (String, Duration) {
        tokio::task::spawn_blocking(kms_binary).await.unwrap();
        let began = Instant::now();
        let output = self.command(&["check"]).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{text}");
        (text, began.elapsed())
    }

    async fn serve(&self) -> Child {
        tokio::task::spawn_blocking(kms_binary).await.unwrap();
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = self.command(&["server"]);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        until("the server is up", async || self.log().contains("Server is up and running")).await;
        child
    }

    fn log(&self) -> String {
        kms_tests::process::settled(&self.path("log"))
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut client = Client::new(self.address, Protocol::Http1, &self.admin);
        let answer = client.send(method, path, "").await.unwrap();
        (answer.code(), answer.text().to_owned())
    }
}

/// Fails unless a text is for operators: about credentials, in words, and not about an outage.
fn assert_told(what: &str, text: &str, parts: &[&str]) {
    for part in ["login failed", "credentials"].iter().chain(parts) {
        assert!(text.contains(part), "{what}: '{part}' in\n{text}");
    }
    for jargon in [
        "not reachable:",
        "deadline exceeded",
        "dispatch failure",
        "DispatchFailure",
        "ProviderError",
        "SdkError",
        "Some(",
    ] {
        assert!(!text.contains(jargon), "{what}: '{jargon}' in\n{text}");
    }
}

/// A mock of the endpoints on a machine of AWS: answers by method and path, or keeps silent.
struct Mock {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Mock {
    fn start(answer: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, all) = (Arc::clone(&answer), Arc::clone(&all));
                std::thread::spawn(move || Self::respond(&stream.unwrap(), &*answer, &all));
            }
        });
        Self { address, seen }
    }

    fn respond(
        stream: &TcpStream,
        answer: &(impl Fn(&str) -> Option<(u16, String)> + ?Sized),
        seen: &Mutex<Vec<String>>,
    ) {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut length = 0;
        for line in reader.by_ref().lines().map_while(Result::ok) {
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let line = first.rsplit_once(' ').unwrap().0.to_owned();
        seen.lock().unwrap().push(line.clone());
        let Some((status, body)) = answer(&line) else {
            std::thread::sleep(Duration::from_secs(60));
            return;
        };
        let mut stream = stream;
        let _ = write!(
            stream,
            "HTTP/1.1 {status} x\r\ncontent-type: text/plain\r\nx-aws-ec2-metadata-token-ttl-seconds: 60\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Credentials as an endpoint of a container gives them.
fn credentials(valid: Duration) -> String {
    let end = Timestamp::now() + valid;
    json!({"AccessKeyId": "ASIAX", "SecretAccessKey": "s3cr3t", "Token": "t", "Expiration": end.to_string()})
        .to_string()
}

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
    // As behind a hop limit: what is sent arrives, and no answer comes back.
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

    // And where there are credentials it is AWS that is away.
    let there = Place::new(Keys::Kms, NOBODY).without_instance();
    let there = there.with("AWS_ACCESS_KEY_ID", "AKIA").with("AWS_SECRET_ACCESS_KEY", "s");
    let (text, _) = there.check().await;
    assert!(text.contains("key store is not available") && !text.contains("login failed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_aws_refuses_are_told_with_their_place() {
    let aws = Aws::start().await;
    // STS, which speaks another protocol, has no name for its operations here.
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
    // AWS refuses it; another one is in the file, and everybody else's call goes on with that.
    aws.fail(Fault::Error(400, "UnrecognizedClientException"));
    until("the refusal is told", async || place.ask("PUT", "/v1/key/create/other").await.0 == 502).await;
    assert!(place.log().contains("the credentials are those of the profile 'default'"));
    place.write(".aws/credentials", &profile("AKIASECOND"));
    aws.only_for("AKIASECOND");
    until("the new one is taken", async || place.ask("PUT", "/v1/key/create/other").await.0 == 200).await;
}

/// Credentials that ended, and cannot be had anew, are no outage: nothing is served on its grounds.
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
        // A copy that AWS's being away would let serve for an hour.
        until("the server has no credentials", async || {
            place.ask("PUT", "/v1/key/generate/my-key").await.0 == 502
        })
        .await;
        assert_told(&format!("{keys:?}"), &place.log(), &["it answers with status 403"]);
        *answers.lock().unwrap() = (200, credentials(Duration::from_secs(3600)));
        until("they are back", async || place.ask("PUT", "/v1/key/generate/my-key").await.0 == 200).await;
        // While AWS itself is away the copy serves, with these credentials.
        aws.fail(Fault::Reset);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            assert_eq!(place.ask("PUT", "/v1/key/generate/my-key").await.0, 200, "{keys:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
