//! Names and addresses of servers for certificates, as users give them.

use std::net::{AddrParseError, IpAddr};

use rustls_pki_types::DnsName;

/// Parses a host name, which may begin with the `*.` of a wildcard. Blanks around it and a dot behind it are removed.
pub fn parse_host_name(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let (wildcard, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    match DnsName::try_from(name) {
        Ok(name) => Ok(format!("{wildcard}{}", name.as_ref())),
        Err(_) if parse_ip(text).is_ok() => Err("it is an address, which belongs to --ip"),
        Err(_) => Err("expected a host name such as kms.example.com, without scheme and port"),
    }
}

/// Parses an address with blanks around it, as in `127.0.0.1, ::1`.
pub fn parse_ip(text: &str) -> Result<IpAddr, AddrParseError> {
    text.trim().parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_certificates_may_have() {
        for (text, expected) in [
            ("localhost", "localhost"),
            (" KMS-1.example.com. ", "KMS-1.example.com"),
            ("my_kms", "my_kms"),
            ("*.example.com", "*.example.com"),
            ("1.example.com", "1.example.com"),
        ] {
            assert_eq!(parse_host_name(text).as_deref(), Ok(expected), "{text}");
        }
        let long = "a".repeat(64);
        for text in [
            "",
            ".",
            "*",
            "*.",
            "*a.example.com",
            "a.*.com",
            "**.a",
            "-a",
            "a-",
            "a..b",
            "a b",
            "a\nb",
            "a/b",
            "a:1",
            "https://a",
            "a'b",
            "bücher.example",
            &long,
        ] {
            assert!(parse_host_name(text).is_err_and(|why| why.contains("host name")), "{text}");
        }
        for text in ["10.0.0.1", "::1"] {
            assert!(parse_host_name(text).is_err_and(|why| why.contains("--ip")), "{text}");
        }
    }
}
