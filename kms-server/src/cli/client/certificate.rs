//! The certificate that a client shows to servers.

use std::path::Path;

use kms_trust::describe_io_error;
use zeroize::Zeroizing;

use super::error::ClientError;
use crate::credentials::certificate::{self, CertifiedKey};
use crate::credentials::private_key;

/// Reads a certificate chain and its private key from two files, for a client to show to servers.
///
/// If the private key is encrypted, `ask` is called for its password.
pub fn certificate_from_files<E: From<ClientError>>(
    cert: &Path,
    key: &Path,
    ask: impl FnOnce(&Path) -> Result<Zeroizing<String>, E>,
) -> Result<CertifiedKey, E> {
    let chain = certificate::read_chain(cert).map_err(ClientError::Setup)?;
    let unusable = |why: String| ClientError::Setup(format!("{}: {why}", key.display()));
    let content = kms_trust::read_file(key).map_err(|error| unusable(describe_io_error(&error)))?;
    let password = if private_key::is_encrypted(&content) { Some(ask(key)?) } else { None };
    let key = private_key::read(&content, password.as_deref().map(String::as_str))
        .map_err(|why| unusable(why.with_password_asked()))?;
    Ok(CertifiedKey { chain, key })
}
