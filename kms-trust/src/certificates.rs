//! Trusted certificates, read from a file, a directory or the system.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustls::{DistinguishedName, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Version;

use crate::file::{describe_io_error, read_file};
use crate::pem::{describe_pem_error, wrong_in_pem};

/// The environment variables that name other places than the system's.
const FILE_VARIABLE: &str = "SSL_CERT_FILE";
const DIRECTORY_VARIABLE: &str = "SSL_CERT_DIR";

/// Trusted certificates: at least one, and each can be read.
#[derive(Debug)]
pub struct Trusted {
    certificates: Vec<CertificateDer<'static>>,
    /// Whether one file that was named holds all of them.
    from_one_file: bool,
}

impl Trusted {
    /// Reads the certificates of a PEM file, or of all PEM files in a directory.
    ///
    /// A directory of CAs may hold other files. A file without a certificate is skipped there.
    ///
    /// # Errors
    ///
    /// - [`Unusable`]: `path` cannot be read, holds no certificate, or holds a damaged one.
    pub fn of(path: &Path) -> Result<Self, Unusable> {
        if path.is_dir() {
            let (certificates, passed_over) = certificates_in(path)?;
            if certificates.is_empty() {
                let why = format!("no file in it holds a certificate in PEM{}", because(&passed_over));
                return Err(Unusable::new(path, why));
            }
            return Ok(Self::new(certificates, false));
        }
        match certificates_of(path)? {
            Found::Certificates(certificates) => Ok(Self::new(certificates, true)),
            Found::None(None) => Err(Unusable::new(path, "it holds no certificate, expected PEM")),
            Found::None(Some(damage)) => Err(Unusable::new(path, describe_pem_error(&damage, "certificate"))),
        }
    }

    /// Reads the certificates that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, or else those of the system.
    ///
    /// # Errors
    ///
    /// - [`Unusable`]: none can be read, or the variables name a file or a directory that cannot be used.
    pub fn of_system() -> Result<Self, Unusable> {
        match Named::of_this_process() {
            Some(named) => named.read(),
            None => Self::of_system_itself(),
        }
    }

    /// Returns the subjects of all certificates.
    pub(crate) fn subjects(&self) -> Vec<DistinguishedName> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.certificates.iter().cloned());
        roots.subjects()
    }

    /// Returns the certificates that may sign others.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = CertificateDer<'static>> {
        self.certificates.iter().filter(|der| is_authority(der)).cloned()
    }

    /// Returns whether this very certificate is trusted.
    pub(crate) fn holds(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|trusted| trusted == certificate)
    }

    /// Returns whether the trust is one named file with one certificate.
    pub(crate) fn is_one_certificate(&self) -> bool {
        self.from_one_file && self.certificates.len() == 1
    }

    fn new(mut certificates: Vec<CertificateDer<'static>>, from_one_file: bool) -> Self {
        certificates.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        certificates.dedup();
        Self { certificates, from_one_file }
    }

    fn of_system_itself() -> Result<Self, Unusable> {
        let mut found = rustls_native_certs::load_native_certs();
        // An unreadable certificate of the system does not matter while others can be read.
        found.certs.retain(|certificate| check(certificate).is_ok());
        if found.certs.is_empty() {
            let why = match found.errors.first() {
                Some(error) => format!("none can be read: {error}"),
                None => "there are none".to_owned(),
            };
            return Err(Unusable { place: "the system's certificate authorities".to_owned(), why });
        }
        Ok(Self::new(found.certs, false))
    }
}

/// Returns the regular files that certificates are read from, in order: those at `path`, or else the system's.
pub fn files_of(path: Option<&Path>) -> Vec<PathBuf> {
    let places = match (path, Named::of_this_process()) {
        (Some(path), _) => vec![path.to_owned()],
        (None, Some(named)) => named.file.into_iter().chain(named.directories).collect(),
        (None, None) => {
            let found = openssl_probe::probe();
            found.cert_file.into_iter().chain(found.cert_dir).collect()
        }
    };
    let files_at = |place: PathBuf| match files_in(&place) {
        Ok(files) => files,
        Err(_) if place.is_file() => vec![place],
        Err(_) => Vec::new(),
    };
    places.into_iter().flat_map(files_at).collect()
}

/// Certificates cannot be used: the place, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Unusable {
    place: String,
    why: String,
}

impl Unusable {
    fn new(path: &Path, why: impl Into<String>) -> Self {
        Self { place: path.display().to_string(), why: why.into() }
    }

    fn named_by(self, variable: &str) -> Self {
        Self { place: format!("{variable}: {}", self.place), why: self.why }
    }
}

/// The file and the directories that the environment names instead of the system's certificates.
struct Named {
    file: Option<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Named {
    fn of_this_process() -> Option<Self> {
        Self::of(std::env::var_os(FILE_VARIABLE), std::env::var_os(DIRECTORY_VARIABLE))
    }

    fn of(file: Option<OsString>, directories: Option<OsString>) -> Option<Self> {
        let file = file.filter(|file| !file.is_empty()).map(PathBuf::from);
        let directories = directories.unwrap_or_default();
        let directories: Vec<_> =
            std::env::split_paths(&directories).filter(|path| !path.as_os_str().is_empty()).collect();
        (file.is_some() || !directories.is_empty()).then_some(Self { file, directories })
    }

    /// Reads the certificates. The file has to hold some. Directories may be missing, as they often are.
    fn read(&self) -> Result<Trusted, Unusable> {
        let file = match &self.file {
            Some(file) => Trusted::of(file).map_err(|error| error.named_by(FILE_VARIABLE))?,
            None => Trusted::new(Vec::new(), false),
        };
        let (mut certificates, mut passed_over) = (file.certificates, Vec::new());
        for directory in &self.directories {
            match certificates_in(directory) {
                Ok((found, others)) => {
                    certificates.extend(found);
                    passed_over.extend(others);
                }
                Err(error) if directory.exists() => return Err(error.named_by(DIRECTORY_VARIABLE)),
                Err(error) => passed_over.push(error),
            }
        }
        if certificates.is_empty() {
            let directories: Vec<_> =
                self.directories.iter().map(|path| path.display().to_string()).collect();
            let why = format!("no file in it holds a certificate in PEM{}", because(&passed_over));
            return Err(Unusable { place: directories.join(":"), why }.named_by(DIRECTORY_VARIABLE));
        }
        Ok(Trusted::new(certificates, file.from_one_file && self.directories.is_empty()))
    }
}

/// The content of a file.
enum Found {
    Certificates(Vec<CertificateDer<'static>>),
    /// No certificate. The error is there if the file looks like PEM and is damaged.
    None(Option<pem::Error>),
}

/// Reads the certificates of a file. A file that holds some may hold nothing damaged beside them.
fn certificates_of(path: &Path) -> Result<Found, Unusable> {
    let content = read_file(path).map_err(|error| Unusable::new(path, describe_io_error(&error)))?;
    let mut certificates = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(&content).enumerate() {
        let certificate = match certificate {
            Ok(certificate) => certificate,
            Err(error) if certificates.is_empty() => return Ok(Found::None(Some(error))),
            Err(error) => {
                return Err(Unusable::new(
                    path,
                    format!("it is damaged behind certificate {index}: {}", wrong_in_pem(&error)),
                ));
            }
        };
        check(&certificate).map_err(|why| {
            Unusable::new(path, format!("certificate {} in it cannot be used: {why}", index + 1))
        })?;
        certificates.push(certificate);
    }
    if certificates.is_empty() { Ok(Found::None(None)) } else { Ok(Found::Certificates(certificates)) }
}

/// Reads the files of a directory. Also returns the files that look like PEM and were skipped.
fn certificates_in(directory: &Path) -> Result<(Vec<CertificateDer<'static>>, Vec<Unusable>), Unusable> {
    let files = files_in(directory).map_err(|error| Unusable::new(directory, describe_io_error(&error)))?;
    let (mut certificates, mut passed_over) = (Vec::new(), Vec::new());
    for file in files {
        match certificates_of(&file)? {
            Found::Certificates(found) => certificates.extend(found),
            Found::None(None) => {}
            Found::None(Some(damage)) => {
                let damaged = Unusable::new(&file, describe_pem_error(&damage, "certificate"));
                tracing::warn!("{damaged}; it is passed over");
                passed_over.push(damaged);
            }
        }
    }
    Ok((certificates, passed_over))
}

/// Returns the regular files in a directory, sorted. Others are skipped, such as links to directories and pipes.
fn files_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn because(passed_over: &[Unusable]) -> String {
    passed_over.first().map(|first| format!(" ({first})")).unwrap_or_default()
}

/// Checks that both parsers can read a certificate, so that none is left out silently later.
fn check(certificate: &CertificateDer<'_>) -> Result<(), String> {
    X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    RootCertStore::empty().add(certificate.clone().into_owned()).map_err(|error| error.to_string())
}

/// Returns whether a certificate may sign others.
///
/// webpki takes every root for an authority. The holder of a server certificate that lies beside the CA could sign one
/// for any name then. Version 1 cannot say whether a certificate is one of an authority. Roots of that age are still
/// in use, and they signed themselves.
fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let may_sign = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    let is_old_root =
        certificate.version() == X509Version::V1 && certificate.subject() == certificate.issuer();
    (certificate.is_ca() && may_sign) || is_old_root
}

#[cfg(test)]
mod tests;
