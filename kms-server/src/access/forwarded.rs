//! Reads what a TLS-terminating proxy says about its client.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderMap;
use kms_trust::ClientVerifier;
use rustls::server::danger::ClientCertVerifier as _;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate_header::{self, HeaderFault};
use super::expiry::Expiry;
use super::identify::{self, Peer, Refusal, TOLD, TOLD_PER};
use super::policy::Proxies;
use crate::telemetry::log_limit::{LeftOut, LogLimit};

/// The header to which each proxy appends the address of its own peer.
const ADDRESSES: &str = "x-forwarded-for";

/// Returns the client for whom the proxy at `proxy` requests `path`, and its address.
///
/// The address is the proxy's own if none can be read.
pub fn client(headers: &HeaderMap, path: &str, proxies: &Proxies, proxy: IpAddr) -> (Peer, IpAddr) {
    let ip = address(headers).unwrap_or(proxy);
    let peer = certificates(headers, &proxies.settings.cert_header)
        .and_then(|chain| accept(&chain, proxies.verifier.as_deref(), proxy));
    let peer = peer.unwrap_or_else(|refusal| Peer { identity: Err(refusal), expiry: None });
    match peer.identity {
        Ok(_) => {}
        Err(Refusal::UnreadableHeader(why)) => tell_header(&proxies.settings.cert_header, why, path, proxy),
        Err(Refusal::NoCertificate) => tell_missing(&proxies.settings.cert_header, proxy),
        Err(refusal) => refusal.tell(ip),
    }
    (peer, ip)
}

/// Reads the certificates in the header.
fn certificates(headers: &HeaderMap, name: &str) -> Result<Vec<CertificateDer<'static>>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(Refusal::NoCertificate),
        (Some(value), None) if value.is_empty() => return Err(Refusal::NoCertificate),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(Refusal::UnreadableHeader(HeaderFault::Repeated)),
    };
    let text = value.to_str().map_err(|_| Refusal::UnreadableHeader(HeaderFault::NotAscii))?;
    certificate_header::read(text).map_err(Refusal::UnreadableHeader)
}

/// Identifies the client by its certificates. Where clients are verified, `verifier` has to accept the certificates too.
fn accept(
    chain: &[CertificateDer<'_>],
    verifier: Option<&ClientVerifier>,
    proxy: IpAddr,
) -> Result<Peer, Refusal> {
    let (leaf, others) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    let verify = |verifier: &ClientVerifier| {
        verifier.verify_client_cert(leaf, others, UnixTime::now())?;
        Expiry::of(verifier, leaf, others)
    };
    let expiry = verifier.map(verify).transpose().map_err(|error| {
        if let Some(left_out) = CHAINS.allow().map(LeftOut) {
            tracing::warn!(%proxy, "refused: the client's certificate that the proxy hands on: {error}{left_out}");
        }
        Refusal::NotAccepted
    })?;
    Ok(Peer { identity: identify::identify(chain), expiry })
}

static CHAINS: LogLimit = LogLimit::new(TOLD_PER, TOLD);
/// Only configured proxies can cause these lines. The limit leaves room for the faults of each kind of request.
static HEADERS: LogLimit = LogLimit::new(HEADERS_TOLD.0, HEADERS_TOLD.1);
const HEADERS_TOLD: (Duration, u32) = (TOLD_PER, 20);

/// Proxies may send requests of their own, or have clients without a certificate. A line a minute is enough to notice.
static MISSING: LogLimit = LogLimit::new(Duration::from_secs(60), 1);

/// Logs how many lines about proxies' headers were left out last.
pub fn tell_left_out(at_the_end: bool) {
    let kinds = [
        (&CHAINS, "certificates that proxies hand on"),
        (&HEADERS, "headers of proxies that cannot be read"),
        (&MISSING, "requests of proxies without a client's certificate"),
    ];
    for (limit, what) in kinds {
        if let Some(count) = limit.ended(at_the_end) {
            tracing::warn!("refused: {count} more {what}");
        }
    }
}

fn tell_missing(name: &str, proxy: IpAddr) {
    if let Some(left_out) = MISSING.allow().map(LeftOut) {
        tracing::warn!(
            %proxy,
            "the proxy sent no header '{name}', or an empty one: its client has no identity{left_out}"
        );
    }
}

fn tell_header(name: &str, why: HeaderFault, path: &str, proxy: IpAddr) {
    if let Some(left_out) = HEADERS.allow().map(LeftOut) {
        tracing::warn!(
            %proxy,
            path,
            "refused: the header '{name}' of the proxy cannot be read: {why}; expected the client's certificate as \
             percent-encoded PEM, such as nginx's $ssl_client_escaped_cert, or as base64 of its DER, such as HAProxy's \
             %[ssl_c_der,base64]{left_out}"
        );
    }
}

/// Returns the client's address: the last entry, which the proxy itself added. Clients can forge all entries before it.
fn address(headers: &HeaderMap) -> Option<IpAddr> {
    let last_line = headers.get_all(ADDRESSES).iter().next_back()?.to_str().ok()?;
    parse_address(last_line.rsplit(',').next()?.trim()).map(|ip| ip.to_canonical())
}

/// Reads an address as proxies write it: with or without a port, and IPv6 with or without brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    bare.parse().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_proxies_write_it_or_not_at_all() {
        for (text, expected) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7:4711", Some("192.0.2.7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("[2001:db8::7]", Some("2001:db8::7")),
            ("[2001:db8::7]:4711", Some("2001:db8::7")),
            // This is ambiguous. It is a valid IPv6 address, and so it is read as one.
            ("2001:db8::7:4711", Some("2001:db8::7:4711")),
            ("", None),
            ("unknown", None),
            ("_hidden", None),
            ("192.0.2.7:", None),
            ("192.0.2.7:99999", None),
            ("192.0.2.007", None),
            ("[192.0.2.7]", None),
            ("[2001:db8::7", None),
            ("\"[2001:db8::7]\"", None),
            ("192.0.2.7 198.51.100.1", None),
        ] {
            assert_eq!(parse_address(text), expected.map(|ip| ip.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn the_last_entry_of_the_last_line_is_the_proxys() {
        for (lines, expected) in [
            (&["192.0.2.7"][..], Some("192.0.2.7")),
            (&["198.51.100.1, 192.0.2.7"], Some("192.0.2.7")),
            (&["198.51.100.1", "203.0.113.1,192.0.2.7:1"], Some("192.0.2.7")),
            (&["::ffff:192.0.2.7"], Some("192.0.2.7")),
            (&["198.51.100.1, "], None),
            (&["198.51.100.1", "unknown"], None),
            (&["198.51.100.1", ""], None),
            (&["198.51.100.1", "\u{e4}"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(ADDRESSES, http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            assert_eq!(address(&headers), expected.map(|ip| ip.parse().unwrap()), "{lines:?}");
        }
    }
}
