use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A moment in 2030, the time of every check here.
fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_893_500_000))
}

fn params(name: &str, is_ca: bool, last_year: i32) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 12, 31);
    params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
    params
}

/// The holder of a self-signed certificate.
struct Maker {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
    der: CertificateDer<'static>,
}

impl Maker {
    fn new(params: CertificateParams) -> Self {
        Self::with_key(params, KeyPair::generate().unwrap())
    }

    fn with_key(params: CertificateParams, key: KeyPair) -> Self {
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), params, key }
    }

    fn signs(&self) -> CertificateDer<'static> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params("signed", false, 2040).signed_by(&KeyPair::generate().unwrap(), &issuer);
        certificate.unwrap().der().clone()
    }
}

fn trust(makers: &[&Maker]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let text: Vec<_> = makers.iter().map(|maker| maker.pem.as_str()).collect();
    std::fs::write(&file, text.concat()).unwrap();
    (directory, file)
}

fn is_server(makers: &[&Maker], shown: &CertificateDer<'_>) -> bool {
    let (_directory, file) = trust(makers);
    let verifier = ServerVerifier::new(Trusted::of(&file).unwrap(), &provider());
    let name = ServerName::try_from("localhost").unwrap();
    // Twice: the second check uses the verifier that the first one made.
    let verify = || verifier.verify_server_cert(shown, &[], &name, &[], now()).is_ok();
    let first = verify();
    assert_eq!(first, verify());
    first
}

fn is_client(makers: &[&Maker], shown: &CertificateDer<'_>) -> bool {
    let (_directory, file) = trust(makers);
    let verifier = ClientVerifier::new(Trusted::of(&file).unwrap(), true, &provider());
    assert!(verifier.root_hint_subjects().len() >= makers.len() - 1);
    verifier.verify_client_cert(shown, &[], now()).is_ok()
}

/// A certificate in the same file as the CA.
struct Beside<'a> {
    which: &'static str,
    maker: &'a Maker,
    is_believed: bool,
}

#[test]
fn what_lies_beside_the_ca_vouches_for_nobody_unless_it_is_one_in_its_time() {
    let ca = Maker::new(params("ca", true, 2040));
    let expired = Maker::new(params("expired", true, 2021));
    let other = Maker::new(params("other", false, 2040));
    let mut signs_nothing = params("signs nothing", true, 2040);
    signs_nothing.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let signs_nothing = Maker::new(signs_nothing);
    for Beside { which, maker, is_believed } in [
        Beside { which: "the CA", maker: &ca, is_believed: true },
        Beside { which: "an expired CA", maker: &expired, is_believed: false },
        Beside { which: "no CA", maker: &other, is_believed: false },
        Beside { which: "a CA that may not sign certificates", maker: &signs_nothing, is_believed: false },
    ] {
        assert_eq!(is_server(&[&ca, maker], &maker.signs()), is_believed, "{which}, to whom asks a server");
        assert_eq!(is_client(&[&ca, maker], &maker.signs()), is_believed, "{which}, to a server");
    }
    assert!(!is_server(&[&expired], &expired.signs()), "also alone");
}

#[test]
fn a_listed_client_is_accepted_in_its_time_and_makes_itself_no_other_certificate() {
    let ca = Maker::new(params("ca", true, 2040));
    for is_ca in [false, true] {
        let client = Maker::new(params("client", is_ca, 2040));
        assert!(is_client(&[&ca, &client], &client.der), "CA: {is_ca}");
    }
    for (usage, accepted) in
        [(ExtendedKeyUsagePurpose::ClientAuth, true), (ExtendedKeyUsagePurpose::ServerAuth, false)]
    {
        let mut params = params("client", false, 2040);
        params.extended_key_usages = vec![usage];
        let client = Maker::new(params);
        assert_eq!(is_client(&[&ca, &client], &client.der), accepted, "what it is for");
    }
    let expired = Maker::new(params("client", false, 2021));
    assert!(!is_client(&[&ca, &expired], &expired.der));
    let key = KeyPair::from_pem(&expired.key.serialize_pem()).unwrap();
    let renewed = Maker::with_key(params("client", false, 2040), key);
    assert!(!is_client(&[&ca, &expired], &renewed.der), "by the same key");
}

#[test]
fn a_client_of_version_1_needs_the_signature_of_an_authority_itself() {
    use rustls_pki_types::pem::PemObject as _;
    let read = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    let root = include_str!("certificates/v1_root.pem");
    let leaf = read(include_str!("certificates/v1_leaf.pem"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let is_client = |trusted: &str, leaf: &[u8], now: UnixTime| {
        std::fs::write(&file, trusted).unwrap();
        let verifier = ClientVerifier::new(Trusted::of(&file).unwrap(), true, &provider());
        verifier.verify_client_cert(&CertificateDer::from(leaf), &[], now).is_ok()
    };
    assert!(is_client(root, &leaf, now()));
    // Another CA with the name of the root.
    let mut other = CertificateParams::default();
    other.distinguished_name = rcgen::DistinguishedName::new();
    other.distinguished_name.push(DnType::CommonName, rcgen::DnValue::Utf8String("root".to_owned()));
    other.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert!(!is_client(&Maker::new(other).pem, &leaf, now()));
    // A CA that may sign for some names only: nobody checks which.
    let bounded = read(include_str!("certificates/v1_bounded_leaf.pem"));
    assert!(!is_client(include_str!("certificates/v1_bounded_ca.pem"), &bounded, now()));
    // A certificate that ends in 2027, long before its CA.
    let short = read(include_str!("certificates/v1_short_leaf.pem"));
    let ca = include_str!("certificates/v1_ca.pem");
    assert!(is_client(ca, &short, UnixTime::since_unix_epoch(Duration::from_secs(1_798_761_600))));
    assert!(!is_client(ca, &short, now()));
    let century = Duration::from_secs(100 * 366 * 24 * 3600);
    assert!(!is_client(
        root,
        &leaf,
        UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs()) + century)
    ));
    assert!(!is_client(root, &leaf, UnixTime::since_unix_epoch(Duration::from_secs(1_000_000_000))));
    for at in [leaf.len() / 3, leaf.len() / 2, leaf.len() - 20] {
        let mut changed = leaf.to_vec();
        changed[at] ^= 1;
        assert!(!is_client(root, &changed, now()), "byte {at}");
    }
}
