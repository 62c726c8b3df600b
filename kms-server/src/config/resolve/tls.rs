//! The section `tls`.

use std::path::PathBuf;

use kms_core::Identity;
use kms_vault::Secret;

use super::super::problem::Problem;
use super::super::schema::{RawProxy, RawTls};
use super::context::{Context, given};
use crate::settings::{ProxySettings, TlsSettings};
use crate::text::mask::NoIdentity;

/// Checks the section.
pub fn tls(raw: RawTls, context: &mut Context<'_>) -> Result<TlsSettings, Problem> {
    let verify_clients = raw.auth.is_some_and(|auth| auth.0);
    let ca = given(raw.ca);
    if ca.is_none() && verify_clients && context.layers.is_set("tls.ca") {
        context.warn("tls.ca", "it is empty, so clients are verified by the CAs of the system");
    }
    let cert = raw.cert.as_deref();
    Ok(TlsSettings {
        cert: context.required_path(cert, "tls.cert", "a PEM file of the server's certificate")?,
        key: context.required_path(raw.key.as_deref(), "tls.key", "a PEM file of the private key")?,
        password: given(raw.password).map(Secret::from),
        ca: ca.map(PathBuf::from),
        verify_clients,
        proxy: raw.proxy.map_or(Ok(None), |raw| proxy(raw, context))?,
    })
}

/// Returns the key of an element of `tls.proxy.identities`.
pub fn proxy_key(index: usize) -> String {
    format!("tls.proxy.identities.{index}")
}

/// Checks the section of TLS proxies. Without an identity there is no proxy.
///
/// KES does nothing with this section. So a mistake in a config for KES only means that there is no proxy.
fn proxy(raw: RawProxy, context: &mut Context<'_>) -> Result<Option<ProxySettings>, Problem> {
    let mut identities: Vec<Identity> = Vec::new();
    let mut twice = Vec::new();
    for (index, text) in raw.identities.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        match Identity::from_hex(text) {
            Some(identity) if identities.contains(&identity) => twice.push((index, identity)),
            Some(identity) => identities.push(identity),
            None => {
                let message = format!("{} is no identity, expected 64 hex digits", NoIdentity(text));
                refuse(&proxy_key(index), message, context)?;
            }
        }
    }
    for (index, identity) in twice {
        let first = raw.identities.iter().position(|text| Identity::from_hex(text) == Some(identity));
        let first = context.layers.name_of(&proxy_key(first.unwrap_or_default()));
        context.warn(&proxy_key(index), format!("it is there twice, first as {first}"));
    }
    if identities.is_empty() {
        return Ok(None);
    }
    let key = "tls.proxy.header.cert";
    let Some(cert_header) = given(raw.header.cert) else {
        let message = "missing, expected the name of the header with the client's certificate";
        return refuse(key, message.to_owned(), context).map(|()| None);
    };
    if http::HeaderName::try_from(cert_header.as_str()).is_err() {
        let message = format!("'{}' cannot be the name of a header", cert_header.escape_debug());
        return refuse(key, message, context).map(|()| None);
    }
    Ok(Some(ProxySettings { identities, cert_header }))
}

/// Refuses a mistake in the section of proxies, or passes it over in a config for KES.
fn refuse(key: &str, message: String, context: &mut Context<'_>) -> Result<(), Problem> {
    if !context.is_for_kes {
        return Err(context.problem(key, message));
    }
    context.warn_no_effect(key, format!("passed over: {message}"));
    Ok(())
}
