//! The admin's API key and the certificate of a development server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kms_core::primitives::SecretBytes;

use super::state::unusable;
use crate::cli::failure::Failure;
use crate::credentials::apikey::ApiKey;
use crate::credentials::certificate::{self, Facts, NewCertificate};
use crate::host::files;

/// The validity of the server's certificate: five years.
const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// The remaining validity below which a start replaces the certificate.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The most bytes of the file with the API key.
const MAX_KEY_LEN: usize = 1024;

/// Reads the admin's API key, or creates it if it is missing.
pub fn admin_in(directory: &Path) -> Result<ApiKey, Failure> {
    let path = directory.join("api.key");
    create_once(&path, || Ok(format!("{}\n", *ApiKey::generate()?.to_text()).as_bytes().into()))?;
    let content = kms_core::primitives::read_secret_file(&path, MAX_KEY_LEN)
        .map_err(|error| unusable(&path, &error))?;
    let text = std::str::from_utf8(&content)
        .map_err(|_| Failure::new(format!("{}: it is no text, expected an API key", path.display())))?;
    ApiKey::parse(text.trim()).map_err(|error| Failure::from(error).context(&path.display().to_string()))
}

/// Creates a certificate, unless there is a good one.
pub fn certificate_in(cert: &Path, key: &Path, address: IpAddr) -> Result<(), Failure> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if !address.is_unspecified() && !addresses.contains(&address) {
        addresses.push(address);
    }
    if is_good(cert, key, &addresses) {
        return Ok(());
    }
    let made = NewCertificate {
        common_name: "kms development server".to_owned(),
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: addresses,
        validity: CERTIFICATE_VALIDITY,
        server: true,
    }
    .with_new_key()?;
    files::replace(key, made.key_pem().as_bytes(), files::PRIVATE).map_err(|error| unusable(key, &error))?;
    files::replace(cert, made.chain_pem().as_bytes(), files::PUBLIC).map_err(|error| unusable(cert, &error))
}

/// Returns whether a certificate is for all addresses, and is valid for a while yet.
fn is_good(cert: &Path, key: &Path, addresses: &[IpAddr]) -> bool {
    let Ok(pair) = certificate::read_pair(cert, key, None) else { return false };
    let Some(facts) = pair.chain.first().and_then(|der| Facts::of(der).ok()) else { return false };
    let ends_late = facts.not_after.duration_since(Timestamp::now()) > RENEW_BEFORE;
    ends_late
        && addresses.iter().all(|address| facts.ip_addresses.contains(address))
        && pair.matches() == Ok(true)
}

/// Creates a file if it is missing.
fn create_once(path: &Path, content: impl FnOnce() -> Result<SecretBytes, Failure>) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    match files::write_new(path, content()?.expose(), files::PRIVATE) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(unusable(path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_it_ends_soon() {
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("public.crt"), directory.path().join("private.key"));
        let loopback = IpAddr::from([127, 0, 0, 1]);
        certificate_in(&cert, &key, loopback).map_err(|_| "cannot be made").unwrap();
        let first = fs::read(&cert).unwrap();
        certificate_in(&cert, &key, loopback).map_err(|_| "cannot be kept").unwrap();
        assert_eq!(fs::read(&cert).unwrap(), first);

        let mut short = NewCertificate::client("localhost".to_owned(), Duration::from_secs(3600));
        short.ip_addresses = vec![loopback, IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let short = short.with_new_key().unwrap();
        files::replace(&cert, short.chain_pem().as_bytes(), files::PUBLIC).unwrap();
        files::replace(&key, short.key_pem().as_bytes(), files::PRIVATE).unwrap();
        certificate_in(&cert, &key, loopback).map_err(|_| "cannot be renewed").unwrap();
        let facts = Facts::of(&certificate::first_of(&fs::read(&cert).unwrap()).unwrap()).unwrap();
        assert!(facts.not_after.duration_since(Timestamp::now()) > RENEW_BEFORE);
    }
}
