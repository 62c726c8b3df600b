//! Which certificates of Vault the connection trusts.

use std::path::{Path, PathBuf};

use kms_core::ErrorKind;
use kms_core::store::KeyStore;
use kms_tests::bao::{Bao, Tls};
use kms_vault::{KvVersion, TlsConfig, VaultConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::common::{entry, kind, open, record};

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_as_a_file_and_as_a_directory() {
    let files = Files::new();
    let (ca, issuer) = files.ca("ca");
    let (cert, key) = files.signed("vault", &issuer, true);
    let (stranger, _) = files.ca("stranger");
    let bao = Bao::start_with(Some(Tls { cert: cert.clone(), key, client_ca: None })).await;
    bao.mount_kv("kv", KvVersion::V2).await;
    let connect =
        |ca: &Path| open(config(&bao, TlsConfig { ca: Some(ca.to_owned()), ..TlsConfig::default() }));
    connect(&ca).create(&entry("key"), &record()).await.unwrap();

    let directory = files.0.path().join("cas");
    std::fs::create_dir_all(directory.join("..data")).unwrap();
    std::fs::write(directory.join("readme"), "no certificate").unwrap();
    std::fs::copy(&stranger, directory.join("a.crt")).unwrap();
    std::fs::copy(&ca, directory.join("b.crt")).unwrap();
    connect(&directory).get(&entry("key")).await.unwrap();

    let error = connect(&stranger).get(&entry("key")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.chain().to_string().contains("UnknownIssuer"), "the reason is told: {error:?}");
    let system = open(config(&bao, TlsConfig::default()));
    assert_eq!(kind(system.get(&entry("key")).await), Some(ErrorKind::Unreachable));
}

/// The guide of 2020 has `openssl req -x509 -subj /CN=localhost`. That makes a CA without a subjectAltName.
#[tokio::test(flavor = "multi_thread")]
async fn the_very_certificate_of_the_guide_is_a_pin() {
    let files = Files::new();
    let (cert, key) = files.self_signed("vault");
    let (other, _) = files.self_signed("other");
    let bao = Bao::start_with(Some(Tls { cert: cert.clone(), key, client_ca: None })).await;
    bao.mount_kv("kv", KvVersion::V2).await;
    let pinned = open(config(&bao, TlsConfig { ca: Some(cert), ..TlsConfig::default() }));
    pinned.create(&entry("key"), &record()).await.unwrap();
    let wrong = open(config(&bao, TlsConfig { ca: Some(other), ..TlsConfig::default() }));
    assert_eq!(kind(wrong.get(&entry("key")).await), Some(ErrorKind::Unreachable));
}

/// A server that presents the pinned certificate has to prove its private key. The certificate itself is
/// public.
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_is_no_reason_to_believe_without_proof() {
    let files = Files::new();
    let (cert, _) = files.self_signed("vault");
    let (_, other_key) = files.self_signed("other");
    let address = serve_mismatched(&cert, &other_key).await;
    let tls = TlsConfig { ca: Some(cert), ..TlsConfig::default() };
    let login = kms_vault::Login::Token(kms_vault::SecretSource::Value("token".into()));
    let store = open(VaultConfig { tls, ..VaultConfig::new(format!("https://{address}"), login) });
    let error = store.status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.chain().to_string().contains("BadSignature"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown() {
    let files = Files::new();
    let (ca, issuer) = files.ca("ca");
    let (cert, key) = files.signed("vault", &issuer, true);
    let (client_cert, client_key) = files.signed("client", &issuer, false);
    let bao = Bao::start_with(Some(Tls { cert, key, client_ca: Some(ca.clone()) })).await;
    bao.mount_kv("kv", KvVersion::V2).await;
    let without = open(config(&bao, TlsConfig { ca: Some(ca.clone()), ..TlsConfig::default() }));
    assert_eq!(kind(without.get(&entry("key")).await), Some(ErrorKind::Unreachable));
    let tls = TlsConfig { ca: Some(ca), cert: Some(client_cert), key: Some(client_key) };
    open(config(&bao, tls)).create(&entry("key"), &record()).await.unwrap();
}

#[tokio::test]
async fn files_that_are_missing_or_wrong_are_named_at_once() {
    let files = Files::new();
    let empty = files.0.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let (cert, _) = files.self_signed("a");
    let (_, key_of_another) = files.self_signed("b");
    let nowhere = files.0.path().join("nowhere.pem");
    for (tls, name) in [
        (TlsConfig { ca: Some(nowhere), ..TlsConfig::default() }, "nowhere.pem"),
        (TlsConfig { ca: Some(empty), ..TlsConfig::default() }, "empty.pem"),
        (TlsConfig { cert: Some(cert), key: Some(key_of_another), ca: None }, "a.crt"),
    ] {
        let login = kms_vault::Login::Token(kms_vault::SecretSource::Value("token".into()));
        let error = kms_vault::open(VaultConfig { tls, ..VaultConfig::new("https://127.0.0.1:1", login) })
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.chain().to_string().contains(name), "{error:?}");
    }
}

fn config(bao: &Bao, tls: TlsConfig) -> VaultConfig {
    VaultConfig { tls, endpoint: bao.tls_endpoint(), ..bao.config(KvVersion::V2) }
}

/// Serves TLS with a certificate and the private key of another one.
async fn serve_mismatched(cert: &Path, key: &Path) -> std::net::SocketAddr {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let signer = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
    let shown = rustls::sign::CertifiedKey::new(chain, signer);
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // The task ends with the runtime of the test.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    address
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn ca(&self, name: &str) -> (PathBuf, CertifiedIssuer<'static, KeyPair>) {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let path = self.write(&format!("{name}.crt"), &issuer.pem());
        (path, issuer)
    }

    fn signed(&self, name: &str, issuer: &CertifiedIssuer<'_, KeyPair>, server: bool) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        if server {
            params.subject_alt_names = vec![rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap())];
        } else {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        }
        let cert = params.signed_by(&key, issuer).unwrap();
        (
            self.write(&format!("{name}.crt"), &cert.pem()),
            self.write(&format!("{name}.key"), &key.serialize_pem()),
        )
    }

    fn self_signed(&self, name: &str) -> (PathBuf, PathBuf) {
        let (cert, issuer) = self.ca(name);
        (cert, self.write(&format!("{name}.key"), &issuer.key().serialize_pem()))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
