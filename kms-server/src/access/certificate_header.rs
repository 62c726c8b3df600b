//! The header in which a proxy passes the client's certificates on, in the forms of the common proxies.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Why the header with a client's certificates cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// It occurs more than once.
    #[error("it is there more than once, or its value was put together from several")]
    Repeated,
    /// It has characters outside ASCII.
    #[error("its value is not ASCII")]
    NotAscii,
    /// It is neither PEM nor base64.
    #[error("its value is neither PEM nor base64")]
    NeitherForm,
    /// Its PEM is damaged.
    #[error("the PEM in its value is damaged")]
    DamagedPem,
    /// Its content is not an X.509 certificate.
    #[error("what its value holds is no X.509 certificate")]
    NoCertificate,
}

/// Reads the certificates in the value of the header, the client's own first. There is at least one.
///
/// - Percent-encoded PEM: nginx's `$ssl_client_escaped_cert`, AWS ALB, Envoy. It may be encoded as a form, with `+` for
///   a space (Go's `url.QueryEscape`), or be one line with spaces as line ends (Apache's `SSL_CLIENT_CERT`).
/// - Base64 of the DER: HAProxy's `%[ssl_c_der,base64]`, Caddy's `{tls_client_certificate_der_base64}`, between colons
///   (RFC 9440), or percent-encoded with commas between several certificates (Traefik).
pub fn read(value: &str) -> Result<Vec<CertificateDer<'static>>, HeaderFault> {
    // A list was joined from several values: the client's own header, and the one that the proxy added. But a list of base64
    // without spaces is a chain of Traefik.
    let is_list = if value.contains("BEGIN") { value.contains(',') } else { value.contains(", ") };
    if is_list {
        return Err(HeaderFault::Repeated);
    }
    // Otherwise a '+' belongs to base64.
    let is_form = value.contains("BEGIN+CERTIFICATE");
    let text = if is_form { Cow::Owned(value.replace('+', " ")) } else { Cow::Borrowed(value) };
    let text = percent_decode_str(&text).decode_utf8().map_err(|_| HeaderFault::NotAscii)?;
    let chain = if text.contains("-----BEGIN") { of_pem(&text)? } else { of_base64(&text)? };
    let is_certificate =
        |der: &CertificateDer<'_>| matches!(X509Certificate::from_der(der), Ok((rest, _)) if rest.is_empty());
    if chain.is_empty() || !chain.iter().all(is_certificate) {
        return Err(HeaderFault::NoCertificate);
    }
    Ok(chain)
}

/// Reads PEM. Spaces count as line ends.
fn of_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, HeaderFault> {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let lines = words
        .join("\n")
        .replace("-----BEGIN\nCERTIFICATE-----", "-----BEGIN CERTIFICATE-----")
        .replace("-----END\nCERTIFICATE-----", "-----END CERTIFICATE-----");
    if has_more_than_pem(&lines) {
        return Err(HeaderFault::DamagedPem);
    }
    let chain = CertificateDer::pem_slice_iter(lines.as_bytes());
    chain.collect::<Result<_, _>>().map_err(|_| HeaderFault::DamagedPem)
}

/// Returns whether there is text outside the certificates, which a parser would skip.
fn has_more_than_pem(lines: &str) -> bool {
    let mut is_inside = false;
    !lines.lines().all(|line| {
        let is_edge =
            line == if is_inside { "-----END CERTIFICATE-----" } else { "-----BEGIN CERTIFICATE-----" };
        let is_part = is_inside || is_edge;
        is_inside ^= is_edge;
        is_part
    })
}

fn of_base64(text: &str) -> Result<Vec<CertificateDer<'static>>, HeaderFault> {
    let of_one = |text: &str| {
        let text = text.trim();
        let text = text.strip_prefix(':').and_then(|text| text.strip_suffix(':')).unwrap_or(text);
        let text: String = text.split_ascii_whitespace().collect();
        STANDARD.decode(text).map(CertificateDer::from)
    };
    text.split(',').map(of_one).collect::<Result<_, _>>().map_err(|_| HeaderFault::NeitherForm)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate() -> CertificateDer<'static> {
        CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    fn pem(der: &CertificateDer<'_>, line_end: &str) -> String {
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        let lines = lines.join(line_end);
        format!("-----BEGIN CERTIFICATE-----{line_end}{lines}{line_end}-----END CERTIFICATE-----{line_end}")
    }

    fn escaped(text: &str, blank: &str) -> String {
        let encode = |c: char| match c {
            ' ' => blank.to_owned(),
            c if c.is_ascii_alphanumeric() || c == '-' => c.to_string(),
            c => format!("%{:02X}", u32::from(c)),
        };
        text.chars().map(encode).collect()
    }

    #[test]
    fn each_form_of_the_field_is_read() {
        let (client, ca) = (certificate(), certificate());
        let base64 = STANDARD.encode(&client);
        let both = format!("{}{}", pem(&client, "\n"), pem(&ca, "\n"));
        for (what, value, count) in [
            ("nginx", escaped(&pem(&client, "\n"), "%20"), 1),
            ("CRLF", escaped(&pem(&client, "\r\n"), "%20"), 1),
            (
                "ALB: some characters are not escaped",
                pem(&client, "\n").replace(' ', "%20").replace('\n', "%0A"),
                1,
            ),
            ("Go's QueryEscape", escaped(&pem(&client, "\n"), "+"), 1),
            ("a chain in it", escaped(&both, "+"), 2),
            ("Envoy: a chain", escaped(&both, "%20"), 2),
            ("Apache", pem(&client, " "), 1),
            ("HAProxy, Caddy", base64.clone(), 1),
            ("RFC 9440", format!(":{base64}:"), 1),
            ("Traefik", escaped(&base64, "+"), 1),
            (
                "Traefik: a chain",
                format!("{},{}", escaped(&base64, "+"), escaped(&STANDARD.encode(&ca), "+")),
                2,
            ),
        ] {
            let read = read(&value).unwrap_or_else(|why| panic!("{what}: {why}"));
            assert_eq!((read.len(), &read[0]), (count, &client), "{what}");
        }
    }

    #[test]
    fn whatever_else_is_told_by_what_is_wrong_with_it() {
        let der = certificate();
        let text = pem(&der, "\n");
        for (value, expected) in [
            ("nonsense".to_owned(), HeaderFault::NoCertificate),
            ("no-base64".to_owned(), HeaderFault::NeitherForm),
            ("%FF".to_owned(), HeaderFault::NotAscii),
            ("%".to_owned(), HeaderFault::NeitherForm),
            (String::new(), HeaderFault::NoCertificate),
            (",".to_owned(), HeaderFault::NoCertificate),
            (escaped(&text[..text.len() - 30], "%20"), HeaderFault::DamagedPem),
            (escaped(&text.replace("CERTIFICATE", "PRIVATE KEY"), "%20"), HeaderFault::DamagedPem),
            (format!("{}, (null)", escaped(&text, "%20")), HeaderFault::Repeated),
            (format!("{},{}", escaped(&text, "%20"), escaped(&text, "%20")), HeaderFault::Repeated),
            (format!("{}, {}", escaped(&text, "%20"), STANDARD.encode(&der)), HeaderFault::Repeated),
            (format!("{}, {}", STANDARD.encode(&der), STANDARD.encode(&der)), HeaderFault::Repeated),
            (escaped(&format!("{text}{}", STANDARD.encode(&der)), "%20"), HeaderFault::DamagedPem),
            (escaped(&format!("(null)\n{text}"), "%20"), HeaderFault::DamagedPem),
            (STANDARD.encode(&der[..der.len() - 1]), HeaderFault::NoCertificate),
            (STANDARD.encode([&der[..], &[0]].concat()), HeaderFault::NoCertificate),
        ] {
            assert_eq!(read(&value), Err(expected), "{value}");
        }
    }
}
