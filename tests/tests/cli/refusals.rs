//! The error log about clients that prove no identity.

use std::net::SocketAddr;

use kms_server::credentials::certificate::CertifiedKey;
use kms_tests::shell::{Serving, Shell, text};
use kms_tests::{Client, Protocol, TestIdentity};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

const HEADER: &str = "x-tls-client-cert";

struct Server {
    process: Serving,
    address: SocketAddr,
    _directory: TempDir,
}

impl Server {
    fn start(proxy: &TestIdentity, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let (key, cert) = (file("server.key"), file("server.crt"));
        let new = ["identity", "new", "--key", text(&key), "--cert", text(&cert), "--ip", "127.0.0.1"];
        Shell::default().run(&new).ok();
        let content = format!(
            "admin.identity = 'disabled'\n[tls]\ncert = '{}'\nkey = '{}'\n{more}\n\
             [tls.proxy]\nidentities = ['{}']\nheader.cert = '{HEADER}'\n[keystore.memory]\n",
            cert.display(),
            key.display(),
            proxy.identity()
        );
        let config = file("config.toml");
        std::fs::write(&config, content).unwrap();
        let arguments = ["--config", text(&config), "--addr", "127.0.0.1:0"];
        let process = Shell::default().serve(&arguments);
        let stdout = process.stdout();
        let address = stdout.split_whitespace().find_map(|word| word.strip_prefix("https://")).unwrap();
        Self { address: address.parse().unwrap(), process, _directory: directory }
    }

    async fn ask(&self, client: &TestIdentity, headers: &[(&str, &str)]) -> u16 {
        let mut client = Client::new(self.address, Protocol::Http1, client);
        client.send_with("GET", "/v1/status", headers, "").await.unwrap().code()
    }

    /// Returns how many new lines of the log contain all of these parts.
    fn told(&self, parts: &[&str]) -> usize {
        self.process.stderr().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }
}

/// Returns a CA that presents these certificates after its own.
fn ca(behind: &[CertificateDer<'static>]) -> TestIdentity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    TestIdentity { chain: [&[own], behind].concat(), key: Some(key) }
}

fn with_behind(own: TestIdentity, behind: &TestIdentity) -> TestIdentity {
    TestIdentity { chain: [own.chain, behind.chain.clone()].concat(), key: own.key }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_the_certificate_of_another_is_told_of_a_few_times() {
    let (victim, proxy) = (TestIdentity::new(), TestIdentity::new());
    let server = Server::start(&proxy, "");
    let attempt = with_behind(TestIdentity::new(), &victim);
    let proven = attempt.identity().to_string();
    assert_eq!(server.ask(&attempt, &[]).await, 400);
    assert_eq!(server.told(&["WARN", "127.0.0.1", &proven, "did not prove its key"]), 1);
    let attempt = ca(&victim.chain);
    let proven = attempt.identity().to_string();
    assert_eq!(server.ask(&attempt, &[]).await, 400);
    assert_eq!(server.told(&["WARN", "127.0.0.1", &proven, "whose keys it did not prove"]), 1);
    let mistake = ca(&[]);
    assert_eq!(server.ask(&mistake, &[]).await, 400);
    assert_eq!(server.told(&["CA:TRUE", "kms identity new", &mistake.identity().to_string()]), 1);
    assert_eq!(server.told(&[&victim.identity().to_string()]), 0, "nobody proved that key");

    for _ in 0..50 {
        server.ask(&attempt, &[]).await;
    }
    // On a slow machine the ten seconds of the limit may begin anew, but not ten times.
    assert!(server.told(&[&proven]) < 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_a_proxy_that_cannot_be_read_is_told_of_with_the_form_that_is_expected() {
    let proxy = TestIdentity::new();
    let server = Server::start(&proxy, "");
    let pem = TestIdentity::new().certificate_pem();
    let escaped = utf8_percent_encode(&pem, NON_ALPHANUMERIC).to_string();
    let expected = ["WARN", "127.0.0.1", HEADER, "percent-encoded PEM", "$ssl_client_escaped_cert"];
    let told = |why: &str| server.told(&[&expected[..], &[why]].concat());
    for (value, why) in [
        ("MIIBszCCAVmgAwIBAgIUE", "its value is neither PEM nor base64"),
        ("nonsense", "no X.509 certificate"),
        ("-----BEGIN%20CERTIFICATE-----%0AMIIB", "is damaged"),
    ] {
        assert_eq!(server.ask(&proxy, &[(HEADER, value)]).await, 400);
        assert_eq!(told(why), 1, "{}", server.process.stderr());
    }
    assert_eq!(server.ask(&proxy, &[(HEADER, &escaped), (HEADER, &escaped)]).await, 400);
    assert_eq!(told("more than once"), 1);
    let before = server.told(&["refused"]);
    for headers in [&[][..], &[(HEADER, "")], &[(HEADER, &*escaped)]] {
        server.ask(&proxy, headers).await;
    }
    assert_eq!(server.told(&["refused"]), before, "a client without a certificate is none of those");
    assert_eq!(
        server.told(&["WARN", "the proxy sent no header", HEADER, "127.0.0.1"]),
        1,
        "and is told of once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_from_a_proxy_that_is_not_accepted_is_told_of_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("ca.crt");
    let own = ca(&[]);
    std::fs::write(&authority, own.certificate_pem()).unwrap();
    let key = own.key.as_ref().map(PrivateKeyDer::clone_key).unwrap();
    let key = KeyPair::try_from(key.secret_der()).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(params, key);
    let own_key = KeyPair::generate().unwrap();
    let signed =
        CertificateParams::new(vec!["proxy".to_owned()]).unwrap().signed_by(&own_key, &issuer).unwrap();
    let proxy: TestIdentity = CertifiedKey {
        chain: vec![signed.der().clone()],
        key: PrivatePkcs8KeyDer::from(own_key.serialize_der()).into(),
    }
    .into();
    let server = Server::start(&proxy, &format!("auth = 'on'\nca = '{}'", authority.display()));
    let stranger = TestIdentity::new().certificate_pem();
    let escaped = utf8_percent_encode(&stranger, NON_ALPHANUMERIC).to_string();
    assert_eq!(server.ask(&proxy, &[(HEADER, &escaped)]).await, 400);
    assert_eq!(
        server.told(&["WARN", "127.0.0.1", "the proxy hands on", "UnknownIssuer"]),
        1,
        "{}",
        server.process.stderr()
    );
}
