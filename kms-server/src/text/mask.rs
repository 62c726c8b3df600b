//! Masks secrets that were entered in place of an identity.

use std::borrow::Cow;
use std::fmt;

use kms_core::Identity;
use zeroize::Zeroizing;

use super::terminal::Escaped;
use crate::credentials::apikey::{ApiKey, PREFIX};

/// The text in place of a secret.
const HIDDEN: &str = "(not shown)";

/// The beginning of an API key, as it is and as it is escaped in the path of a request.
const BEGINNINGS: [&str; 2] = [PREFIX, "kes%3av1%3a"];

/// A text shorter than this is not masked because of its characters.
const SUSPICIOUS_LEN: usize = 24;

/// The most characters of an invalid identity that are shown.
const MAX_SHOWN: usize = 100;

/// A text that is not an identity, as a message may show it.
///
/// An API key is a likely mistake, because it is printed beside its identity wherever one is made.
pub struct NoIdentity<'a>(pub &'a str);

impl fmt::Display for NoIdentity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Secret::in_text(self.0) {
            Some(secret) => secret.fmt(f),
            None if self.0.contains("-----BEGIN") => f.write_str("a text in PEM"),
            None => {
                let shown: String = self.0.chars().take(MAX_SHOWN).collect();
                let more = if shown.len() < self.0.len() { "…" } else { "" };
                write!(f, "'{}{more}'", Escaped(shown))
            }
        }
    }
}

/// A secret that was recognised in a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Secret {
    /// An API key, with its identity if the key is complete.
    ApiKey(Option<Identity>),
    /// A private key in PEM.
    PrivateKey,
    /// Something in base64 with this many characters.
    Unknown(usize),
}

impl Secret {
    /// Looks for a secret in a text that should be an identity in hex.
    pub fn in_text(text: &str) -> Option<Self> {
        if text.contains("PRIVATE KEY") {
            return Some(Self::PrivateKey);
        }
        let text = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`'));
        let lower = Zeroizing::new(text.to_ascii_lowercase());
        if lower.starts_with("kes:") || BEGINNINGS.iter().any(|beginning| lower.contains(beginning)) {
            return Some(Self::ApiKey(ApiKey::parse(text).ok().map(|key| key.identity())));
        }
        // It may have lost its beginning.
        if let Ok(key) = ApiKey::parse(&Zeroizing::new(format!("{PREFIX}{text}"))) {
            return Some(Self::ApiKey(Some(key.identity())));
        }
        let mut runs = text.split(|c: char| !is_base64(c));
        runs.any(is_suspicious).then(|| Self::Unknown(text.chars().count()))
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey(Some(identity)) => write!(f, "an API key (not shown; its identity is {identity})"),
            Self::ApiKey(None) => write!(f, "what looks like an API key {HIDDEN}"),
            Self::PrivateKey => write!(f, "a private key {HIDDEN}"),
            Self::Unknown(len) => write!(f, "a text of {len} characters that may be a secret {HIDDEN}"),
        }
    }
}

/// Masks the API keys and private keys anywhere in a message.
pub fn mask(message: &str) -> Cow<'_, str> {
    let mut masked = Cow::Borrowed(message);
    if let Some((before, after)) = message.split_once("PRIVATE KEY-----") {
        // Up to the end: a key that was cut off has no end line.
        let start = before.rfind("-----BEGIN").unwrap_or(before.len());
        let end = after.rfind("PRIVATE KEY-----").and_then(|end| after.get(end + "PRIVATE KEY-----".len()..));
        let before = before.get(..start).unwrap_or_default();
        masked = Cow::Owned(format!("{before}a private key {HIDDEN}{}", end.unwrap_or_default()));
    }
    for beginning in BEGINNINGS {
        masked = match mask_after(&masked, beginning) {
            Some(hidden) => Cow::Owned(hidden),
            None => masked,
        };
    }
    masked
}

/// Masks the text after each `beginning`. Returns `None` if there is nothing to mask.
fn mask_after(message: &str, beginning: &str) -> Option<String> {
    let lower = message.to_ascii_lowercase();
    let (mut masked, mut done) = (String::new(), 0);
    for (start, _) in lower.match_indices(beginning) {
        let after = start + beginning.len();
        let Some(rest) = message.get(after..) else { continue };
        let end = rest.find(|c| !is_base64(c) && !matches!(c, '=' | '-' | '_' | '%')).unwrap_or(rest.len());
        if end > 0 && start >= done {
            masked.push_str(message.get(done..after).unwrap_or_default());
            masked.push_str(HIDDEN);
            done = after + end;
        }
    }
    (done > 0).then(|| masked + message.get(done..).unwrap_or_default())
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/')
}

/// Returns whether this is a long text with every kind of base64 character, which is rare for a name.
fn is_suspicious(run: &str) -> bool {
    let has = |kind: fn(&u8) -> bool| run.bytes().any(|byte| kind(&byte));
    run.len() >= SUSPICIOUS_LEN
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_digit)
        && has(|byte| byte.is_ascii_alphabetic() && !byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "kes:v1:ADoyz5jvBx2JOblmzuQnnV7AP79nWRi5UkU1qCGKACyh";
    const IDENTITY: &str = "0a1df7f479f3c22075d1a9d4fe65e19db38e9da8ecdbd4e7264ba665aaa16a84";

    #[test]
    fn a_secret_in_the_place_of_an_identity_is_not_shown() {
        let (_, seed) = KEY.rsplit_once(':').unwrap();
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAB\n-----END PRIVATE KEY-----\n";
        for text in [KEY, &format!(" {KEY}\n"), &format!("\"{KEY}\""), seed, &format!("{seed}\n")] {
            let told = NoIdentity(text).to_string();
            assert!(told.contains(IDENTITY) && !told.contains("ADoyz5jv"), "{told}");
        }
        for len in 4..KEY.len() {
            let cut = &KEY[..len];
            assert_eq!(NoIdentity(cut).to_string(), "what looks like an API key (not shown)", "{cut}");
            let cut = &KEY[KEY.len() - len..];
            let told = NoIdentity(cut).to_string();
            assert!(
                len < SUSPICIOUS_LEN || told.ends_with("(not shown)") || told.contains(IDENTITY),
                "{cut}"
            );
        }
        assert_eq!(NoIdentity(pem).to_string(), "a private key (not shown)");
        let body = "MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
        assert_eq!(NoIdentity(body).to_string(), "a text of 64 characters that may be a secret (not shown)");
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        let mistyped = &IDENTITY[..63];
        for text in ["", "nobody", "${MINIO_IDENTITY}", mistyped, "/etc/kms/clients/application.crt", "a b"] {
            assert_eq!(NoIdentity(text).to_string(), format!("'{text}'"));
            assert_eq!(mask(text), text);
        }
        assert_eq!(NoIdentity("a\x1b[2Jb\n").to_string(), r"'a\u{1b}[2Jb\n'");
        assert!(NoIdentity(&"x".repeat(1000)).to_string().len() < 120);
        for text in ["expected it to begin with 'kes:v1:'", "PRIVATE KEY", "kes:v1: and more"] {
            assert_eq!(mask(text), text);
        }
    }

    #[test]
    fn secrets_within_a_message_are_hidden() {
        assert_eq!(mask(&format!("a {KEY}: b '{KEY}'")), "a kes:v1:(not shown): b 'kes:v1:(not shown)'");
        assert_eq!(mask("GET /x/kes%3Av1%3AAD%2Bz%3D?y"), "GET /x/kes%3Av1%3A(not shown)?y");
        let pem = "-----BEGIN EC PRIVATE KEY-----\nMC4C\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(mask(&format!("a '{pem}'")), "a 'a private key (not shown)\n'");
        assert_eq!(mask("a '-----BEGIN PRIVATE KEY----- MC4C'"), "a 'a private key (not shown)");
    }
}
