//! The text or file that an identity comes from.

use std::io::Read as _;
use std::path::Path;

use kms_core::Identity;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::cli::password;
use crate::credentials::apikey::{self, ApiKey, InvalidApiKey};
use crate::credentials::certificate::{self, Facts};
use crate::credentials::private_key::{self, Unreadable};
use crate::host::files;
use crate::text::mask::Secret;

/// The content of a text or a file.
pub enum Described {
    /// A certificate or an API key, with this identity.
    Identity(Identity),
    /// A private key, which is the same as this API key.
    ApiKey(ApiKey),
}

/// Reads an API key, or a file, of which the first certificate or private key counts.
pub fn describe(of: &str) -> Result<Described, Failure> {
    let from = Source::of(of)?;
    let private_key = |content: &[u8]| {
        let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(content);
        let mut sections = sections.map_while(Result::ok).filter_map(|(kind, der)| match kind {
            SectionKind::Certificate => Some(None),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                Some(Some(Zeroizing::new(der)))
            }
            _ => None,
        });
        sections.next().flatten()
    };
    if let Source::Content { name, content } = &from
        && let Some(der) = encrypted_key(name, content)?.or_else(|| private_key(content))
    {
        let unsupported = || {
            Failure::new(format!(
                "'{name}' contains unsupported private key. Only ed25519 private keys are supported"
            ))
        };
        return ApiKey::of_private_key(&der).map(Described::ApiKey).ok_or_else(unsupported);
    }
    from.identity().map(Described::Identity)
}

/// Decrypts the private key of a file that begins with an encrypted one, with a password that the user types.
fn encrypted_key(name: &str, content: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    // If the file has a certificate, too, the identity is known without a password.
    if !private_key::is_encrypted(content) || CertificateDer::from_pem_slice(content).is_ok() {
        return Ok(None);
    }
    let password = password::ask(Path::new(name))?;
    let unreadable = |why: Unreadable| Failure::new(format!("{name}: {}", why.with_password_asked()));
    let key = private_key::read(content, Some(&password)).map_err(unreadable)?;
    Ok(Some(Zeroizing::new(key.secret_der().to_vec())))
}

/// Returns the identity of an API key, or of the certificate in a file.
pub fn identity_of(text: &str) -> Result<Identity, Failure> {
    Source::of(text)?.identity()
}

/// The text or file that has an identity.
enum Source {
    /// An API key.
    ApiKey(ApiKey),
    /// The content of a file or of stdin.
    Content { name: String, content: Zeroizing<Vec<u8>> },
}

impl Source {
    /// Reads an argument: an API key, the name of a file, or `-` for stdin.
    fn of(text: &str) -> Result<Self, Failure> {
        if text == "-" {
            let mut content = Zeroizing::new(Vec::new());
            std::io::stdin()
                .lock()
                .read_to_end(&mut content)
                .map_err(|error| Failure::new(format!("cannot read stdin: {error}")))?;
            let text = std::str::from_utf8(&content).map(str::trim).unwrap_or_default();
            if text.starts_with(apikey::PREFIX) {
                return Ok(Self::ApiKey(ApiKey::parse(text)?));
            }
            return Ok(Self::Content { name: "stdin".to_owned(), content });
        }
        if text.starts_with(apikey::PREFIX) {
            return Ok(Self::ApiKey(ApiKey::parse(text)?));
        }
        let path = Path::new(text);
        // A secret is no file name, and must not be printed: this may be an API key that lost its prefix.
        if let Some(secret) = Secret::in_text(text).filter(|_| !path.exists()) {
            return Err(match secret {
                Secret::ApiKey(_) => InvalidApiKey::Prefix.into(),
                secret => Failure::new(format!("there is no such file: {secret}")),
            });
        }
        let content = std::fs::read(path).map_err(|error| Failure::new(files::failed(path, &error)))?;
        Ok(Self::Content { name: text.to_owned(), content: Zeroizing::new(content) })
    }

    fn identity(&self) -> Result<Identity, Failure> {
        match self {
            Self::ApiKey(api_key) => Ok(api_key.identity()),
            Self::Content { name, content } => {
                let facts = certificate::first_of(content).and_then(|der| Facts::of(&der));
                Ok(facts.map_err(|error| Failure::new(format!("{name}: {error}")))?.identity)
            }
        }
    }
}
