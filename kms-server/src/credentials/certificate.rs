//! X.509 certificates: creates self-signed ones, and reads facts of others.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kms_core::{Error, ErrorKind, Identity};
use kms_trust::{describe_io_error, describe_pem_error, read_file, wrong_in_pem};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SigningKey,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use super::private_key;

/// Certificates are valid from a little before now, because some clocks are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The length of a line of PEM.
const LINE: usize = 64;

/// A certificate chain, leaf first, and the private key of the leaf. The type has no `Debug`.
pub struct CertifiedKey {
    /// The certificates in the order in which they are presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

impl CertifiedKey {
    /// Returns whether the private key belongs to the first certificate. An unusable key belongs to none.
    pub fn matches(&self) -> Result<bool, InvalidCertificate> {
        let first = self.chain.first().ok_or(InvalidCertificate::None)?;
        let facts = Facts::of(first)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = provider.key_provider.load_private_key(self.key.clone_key()).ok();
        Ok(key.and_then(|key| Some(key.public_key()?.as_ref() == facts.public_key)).unwrap_or_default())
    }

    /// Returns the chain as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| certificate_pem(certificate)).collect()
    }

    /// Returns the private key as PEM, which is a secret. The key was made here and so is PKCS #8.
    pub fn key_pem(&self) -> Zeroizing<String> {
        // The crate `pem` is not used here: it leaves the base64 in buffers that it does not wipe.
        let text = Zeroizing::new(STANDARD.encode(self.key.secret_der()));
        let (begin, end) = ("-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n");
        let len = begin.len() + text.len() + text.len().div_ceil(LINE) + end.len();
        let mut pem = Zeroizing::new(String::with_capacity(len));
        pem.push_str(begin);
        for line in text.as_bytes().chunks(LINE) {
            pem.extend(line.iter().map(|byte| char::from(*byte)));
            pem.push('\n');
        }
        pem.push_str(end);
        pem
    }
}

/// The content of a new self-signed certificate.
pub struct NewCertificate {
    /// The common name of subject and issuer.
    pub common_name: String,
    /// The DNS names that it is valid for.
    pub dns_names: Vec<String>,
    /// The addresses that it is valid for.
    pub ip_addresses: Vec<IpAddr>,
    /// The validity from now.
    pub validity: Duration,
    /// Whether a server may use it too.
    pub server: bool,
}

impl NewCertificate {
    /// Creates the description of a certificate for a client alone.
    pub fn client(common_name: String, validity: Duration) -> Self {
        Self { common_name, dns_names: Vec::new(), ip_addresses: Vec::new(), validity, server: false }
    }

    /// Creates the certificate with a new ECDSA P-256 key, which every TLS client supports.
    pub fn with_new_key(&self) -> kms_core::Result<CertifiedKey> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|source| Error::with_source(ErrorKind::Internal, "make an ECDSA key", source))?;
        let chain = vec![self_sign(self, &key)?];
        Ok(CertifiedKey { chain, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())) })
    }
}

/// Creates a self-signed certificate for the key of `signer`. It is not a CA.
///
/// Fails with `InvalidInput` if a name is not allowed in a certificate.
pub fn self_sign(
    new: &NewCertificate,
    signer: &impl SigningKey,
) -> kms_core::Result<CertificateDer<'static>> {
    let invalid = |source| {
        Error::with_source(
            ErrorKind::InvalidInput,
            format!("make a certificate for '{}'", new.common_name),
            source,
        )
    };
    let mut params = CertificateParams::new(new.dns_names.clone()).map_err(invalid)?;
    params.subject_alt_names.extend(new.ip_addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, new.common_name.as_str());
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    let not_after = now.checked_add(new.validity).filter(|end| Timestamp::try_from(*end).is_ok());
    params.not_after = not_after
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "make a certificate that outlives the calendar"))?
        .into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if new.server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    Ok(params.self_signed(signer).map_err(invalid)?.into())
}

/// The facts of a certificate that this program and its operator need.
#[derive(Debug)]
pub struct Facts {
    /// The identity of its key.
    pub identity: Identity,
    /// The subject as text.
    pub subject: String,
    /// The DNS names that it is valid for.
    pub dns_names: Vec<String>,
    /// The addresses that it is valid for.
    pub ip_addresses: Vec<IpAddr>,
    /// The beginning of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// Whether its basic constraints say `CA:TRUE`.
    pub is_ca: bool,
    /// The DER of its `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
}

impl Facts {
    /// Reads the facts from the DER of a certificate.
    pub fn of(der: &[u8]) -> Result<Self, InvalidCertificate> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| InvalidCertificate::Der(error.to_string()))?;
        let validity = certificate.validity();
        let time = |seconds| {
            Timestamp::from_second(seconds).map_err(|error| InvalidCertificate::Der(error.to_string()))
        };
        let mut facts = Self {
            identity: Identity::of_public_key(certificate.public_key().raw),
            subject: certificate.subject().to_string(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            not_before: time(validity.not_before.timestamp())?,
            not_after: time(validity.not_after.timestamp())?,
            is_ca: certificate.is_ca(),
            public_key: certificate.public_key().raw.to_vec(),
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => facts.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => facts.ip_addresses.extend(ip_address(bytes)),
                _ => {}
            }
        }
        Ok(facts)
    }

    /// Returns whether it names neither a host nor an address. Go clients refuse such a certificate.
    pub fn names_nothing(&self) -> bool {
        self.dns_names.is_empty() && self.ip_addresses.is_empty()
    }
}

/// Returns the first certificate of a file, which is PEM or DER. Other text around PEM is skipped.
pub fn first_of(content: &[u8]) -> Result<CertificateDer<'static>, InvalidCertificate> {
    if content.starts_with(&[0x30]) {
        return Ok(CertificateDer::from(content.to_vec()));
    }
    match CertificateDer::from_pem_slice(content) {
        Ok(certificate) => Ok(certificate),
        Err(pem::Error::NoItemsFound) => Err(InvalidCertificate::None),
        Err(error) => Err(InvalidCertificate::Pem(wrong_in_pem(&error).to_owned())),
    }
}

/// Reads a PEM file with a certificate chain, and one with its private key. `password` is for an encrypted key.
///
/// The message of an error names the file.
pub fn read_pair(cert: &Path, key: &Path, password: Option<&str>) -> Result<CertifiedKey, String> {
    let chain = read_chain(cert)?;
    let content =
        read_file(key).map_err(|error| format!("{}: {}", key.display(), describe_io_error(&error)))?;
    let key = private_key::read(&content, password).map_err(|error| format!("{}: {error}", key.display()))?;
    Ok(CertifiedKey { chain, key })
}

/// Reads a PEM file with at least one certificate.
///
/// The message of an error names the file.
pub fn read_chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let file = cert.display();
    let content = read_file(cert).map_err(|error| format!("{file}: {}", describe_io_error(&error)))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{file}: {}", describe_pem_error(&error, "certificate")))?;
    if chain.is_empty() {
        return Err(format!("{file}: it holds no certificate, expected PEM"));
    }
    Ok(chain)
}

/// Why a certificate cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    /// The file holds no certificate.
    #[error("it holds no certificate, expected PEM or DER")]
    None,
    /// The PEM is damaged.
    #[error("it is no PEM file: {0}")]
    Pem(String),
    /// The DER is not an X.509 certificate.
    #[error("it is no X.509 certificate: {0}")]
    Der(String),
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// Returns a certificate as PEM.
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    let lines = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    ::pem::encode_config(&::pem::Pem::new("CERTIFICATE", der), lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn localhost() -> NewCertificate {
        NewCertificate {
            common_name: "localhost".to_owned(),
            dns_names: vec!["localhost".to_owned()],
            ip_addresses: vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])],
            validity: Duration::from_secs(3600),
            server: true,
        }
    }

    #[test]
    fn a_new_certificate_says_what_was_asked_for() {
        let made = localhost().with_new_key().unwrap();
        let facts = Facts::of(&made.chain[0]).unwrap();
        assert_eq!(facts.dns_names, ["localhost"]);
        assert_eq!(facts.ip_addresses, localhost().ip_addresses);
        assert!(!facts.is_ca);
        assert!(!facts.names_nothing());
    }

    #[test]
    fn what_is_written_as_pem_is_read_back() {
        let made = localhost().with_new_key().unwrap();
        let text_around = format!("CONNECTED(00000003)\n{}\nmore\n", made.chain_pem());
        assert_eq!(first_of(text_around.as_bytes()).unwrap(), made.chain[0]);
        assert_eq!(first_of(&made.chain[0]).unwrap(), made.chain[0]);
        let key = PrivateKeyDer::from_pem_slice(made.key_pem().as_bytes()).unwrap();
        assert_eq!(key.secret_der(), made.key.secret_der());
        assert_eq!(first_of(b"nothing").unwrap_err(), InvalidCertificate::None);
    }

    #[test]
    fn what_is_wrong_with_a_private_key_does_not_quote_it() {
        let key = localhost().with_new_key().unwrap().key_pem();
        let (in_one_line, without_end) = (key.replace('\n', ""), &key[..key.len() - 30]);
        let no_base64 = key.replace('\n', "\n*");
        for text in [&in_one_line, without_end, &no_base64] {
            let error = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap_err();
            let told = describe_pem_error(&error, "private key");
            assert!(!told.contains(char::is_numeric) && told.contains("private key: "), "{told}");
            let told = InvalidCertificate::Pem(
                wrong_in_pem(&pem::Error::IllegalSectionStart { line: text.into() }).into(),
            );
            assert!(!told.to_string().contains('['), "{told}");
        }
    }

    #[test]
    fn a_validity_beyond_the_calendar_is_an_error() {
        let forever = NewCertificate { validity: Duration::from_secs(u64::MAX / 4), ..localhost() };
        assert!(forever.with_new_key().is_err());
    }
}
