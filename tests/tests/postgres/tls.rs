//! Which servers are trusted in which mode, and what the login is bound to.

use std::path::{Path, PathBuf};

use kms_core::ErrorKind;
use kms_core::store::{KeyStore, Level};
use kms_postgres::{ChannelBinding, Host, PostgresConfig, TlsConfig, TlsMode};
use kms_tests::postgres::{Postgres, give_file};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::common::{entry, kind, open, record, told};

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_accepts_what_it_says() {
    let files = Files::new();
    let (ca, issuer) = files.ca("ca");
    let (stranger, _) = files.ca("stranger");
    let (cert, key) = files.signed("server", &["localhost"], &issuer, false);
    let server = with_tls(&cert, &key, None).await;
    let connect = |host: &str, mode: TlsMode, ca: Option<&Path>| {
        let tls = TlsConfig {
            mode,
            ca: ca.map(Path::to_owned),
            channel_binding: ChannelBinding::Require,
            ..TlsConfig::default()
        };
        open(PostgresConfig { hosts: vec![Host::new(host, server.port())], tls, ..server.config() })
    };
    connect("localhost", TlsMode::VerifyFull, Some(&ca)).create(&entry("key"), &record()).await.unwrap();
    for (host, mode, ca, accepts) in [
        ("localhost", TlsMode::VerifyFull, Some(&stranger), false),
        ("localhost", TlsMode::VerifyFull, None, false),
        ("127.0.0.1", TlsMode::VerifyFull, Some(&ca), false),
        ("127.0.0.1", TlsMode::VerifyCa, Some(&ca), true),
        ("127.0.0.1", TlsMode::VerifyCa, Some(&stranger), false),
        ("127.0.0.1", TlsMode::Require, Some(&stranger), false),
        ("127.0.0.1", TlsMode::Require, None, true),
        ("127.0.0.1", TlsMode::Prefer, None, true),
    ] {
        let read = connect(host, mode, ca.map(PathBuf::as_path)).get(&entry("key")).await;
        if accepts {
            assert!(read.unwrap() == record(), "{host} {mode}");
            continue;
        }
        let (kind, text) = told(read);
        assert_eq!(kind, ErrorKind::Unreachable, "{host} {mode}: {text}");
        assert!(text.contains("ertificate"), "the reason is told: {text}");
    }
    // Without TLS nothing can be bound, and the server does not offer it.
    assert_eq!(
        kind(connect("localhost", TlsMode::Disable, None).get(&entry("key")).await),
        Some(ErrorKind::LoginRefused)
    );
    let tls = TlsConfig { ca: Some(ca), ..TlsConfig::default() };
    let config =
        PostgresConfig { hosts: vec![Host::new("localhost", server.port())], tls, ..server.config() };
    let findings = kms_postgres::check(config).await;
    let tls = findings.iter().find(|finding| finding.what == "tls").unwrap();
    assert!(tls.level == Level::Good && tls.detail.contains("TLSv1.3"), "{tls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused_and_a_new_one_is_taken_without_a_restart() {
    let files = Files::new();
    let (ca, issuer) = files.ca("ca");
    let (cert, key) = files.signed("server", &["localhost"], &issuer, true);
    let server = with_tls(&cert, &key, None).await;
    let tls = TlsConfig { ca: Some(ca), ..TlsConfig::default() };
    let store =
        open(PostgresConfig { hosts: vec![Host::new("localhost", server.port())], tls, ..server.config() });
    let (kind, text) = told(store.get(&entry("key")).await);
    assert_eq!(kind, ErrorKind::Unreachable);
    assert!(text.to_lowercase().contains("expired"), "{text}");
    let (new_cert, new_key) = files.signed("renewed", &["localhost"], &issuer, false);
    std::fs::copy(new_cert, cert).unwrap();
    std::fs::copy(new_key, key).unwrap();
    server.sql("SELECT pg_reload_conf()");
    let made = async || store.create(&entry("key"), &record()).await;
    super::common::until_it_works(std::time::Duration::from_secs(5), made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_may_take_the_place_of_the_password() {
    let files = Files::new();
    let (ca, issuer) = files.ca("ca");
    let (cert, key) = files.signed("server", &["localhost"], &issuer, false);
    let server = with_tls(&cert, &key, Some(&ca)).await;
    std::fs::write(server.path().join("data/pg_hba.conf"), "local all all trust\nhostssl all all all cert\n")
        .unwrap();
    server.sql("SELECT pg_reload_conf()");
    let config = |cert: Option<(PathBuf, PathBuf)>| {
        let (cert, key) = cert.unzip();
        let tls = TlsConfig { ca: Some(ca.clone()), cert, key, ..TlsConfig::default() };
        PostgresConfig {
            hosts: vec![Host::new("localhost", server.port())],
            tls,
            password: None,
            ..server.config()
        }
    };
    let ours = files.signed("kms", &[], &issuer, false);
    open(config(Some(ours))).create(&entry("key"), &record()).await.unwrap();
    let others = files.signed("other", &[], &issuer, false);
    for wrong in [config(Some(others)), config(None)] {
        assert_eq!(kind(open(wrong).get(&entry("key")).await), Some(ErrorKind::LoginRefused));
    }
}

async fn with_tls(cert: &Path, key: &Path, ca: Option<&Path>) -> Postgres {
    let mut settings = vec![
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", cert.display()),
        format!("ssl_key_file={}", key.display()),
    ];
    settings.extend(ca.map(|ca| format!("ssl_ca_file={}", ca.display())));
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    Postgres::start_with(&settings).await
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        kms_tests::postgres::give(directory.path());
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.pem"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        give_file(&path);
        path
    }

    fn ca(&self, name: &str) -> (PathBuf, CertifiedIssuer<'static, KeyPair>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        (self.write(name, &issuer.pem()), issuer)
    }

    fn signed(
        &self,
        name: &str,
        hosts: &[&str],
        issuer: &CertifiedIssuer<'static, KeyPair>,
        expired: bool,
    ) -> (PathBuf, PathBuf) {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let cert = self.write(name, &certificate.pem());
        (cert, self.write(&format!("{name}-key"), &key.serialize_pem()))
    }
}
