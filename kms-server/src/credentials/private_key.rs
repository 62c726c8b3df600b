//! Private keys in PEM files, encrypted or not.
//!
//! Two forms of encryption are in use. Today's form is PKCS #8 (RFC 5958, RFC 8018). RFC 1423, section 1.1, is the form
//! of `openssl ec -aes256` and of KES. It derives a key from the password by one round of MD5, as OpenSSL does.

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{
    BlockCipherDecrypt, BlockModeDecrypt as _, BlockModeEncrypt as _, KeyInit, KeyIvInit as _,
};
use des::{Des, TdesEde3};
use md5::{Digest as _, Md5};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::pbes2::Kdf;
use pkcs8::pkcs5::{self, EncryptionScheme};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject as _};
use x509_parser::der_parser::asn1_rs::{FromDer as _, Sequence};
use x509_parser::x509::AlgorithmIdentifier;
use zeroize::Zeroizing;

/// The label of an encrypted PKCS #8 key.
const PKCS8: &str = "ENCRYPTED PRIVATE KEY";

/// The part of the initialization vector that is the salt of the password.
const SALT_LEN: usize = 8;

/// Why a private key cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is encrypted, and there is no password.
    #[error("its private key is encrypted, and there is no password: set tls.password")]
    Encrypted,
    /// The password does not decrypt it.
    #[error("its private key is damaged, or encrypted with another password than tls.password")]
    WrongPassword,
    /// It is encrypted by this unsupported algorithm.
    #[error(
        "its private key is encrypted by {0}, expected AES or DES in CBC mode: 'openssl pkcs8 -topk8 -v2 aes-256-cbc' \
         makes such a one"
    )]
    Cipher(String),
    /// Deriving its key from the password would take too much time or memory, for this reason.
    #[error(
        "its private key is encrypted in a way that is too costly to undo ({0}): 'openssl pkcs8 -topk8 -v2 aes-256-cbc' \
         makes another"
    )]
    TooCostly(String),
    /// The PEM is damaged or holds no private key. The error is not a `source`, because it may quote the key.
    #[error("{}", kms_trust::describe_pem_error(.0, "private key"))]
    Pem(pem::Error),
    /// The PEM of an encrypted key is damaged.
    #[error("the PEM of its encrypted private key is damaged")]
    Damaged,
}

impl Unreadable {
    /// Returns the message for a password that a person typed and no config sets.
    pub fn with_password_asked(&self) -> String {
        match self {
            Self::WrongPassword => "the password is wrong, or the private key is damaged".to_owned(),
            Self::Encrypted => "the password is empty".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Reads the first private key of a file. `password` is for an encrypted key.
pub fn read(content: &[u8], password: Option<&str>) -> Result<PrivateKeyDer<'static>, Unreadable> {
    match Encryption::of_first_key(content) {
        None => PrivateKeyDer::from_pem_slice(content).map_err(Unreadable::Pem),
        Some(how) => {
            let password = password.filter(|password| !password.is_empty()).ok_or(Unreadable::Encrypted)?;
            decrypt(content, how, password.as_bytes())
        }
    }
}

/// Returns whether the first private key of a file is encrypted.
pub fn is_encrypted(content: &[u8]) -> bool {
    Encryption::of_first_key(content).is_some()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Pkcs8,
    Rfc1423,
}

impl Encryption {
    /// Reads the lines of the first private key, and nothing after it. A key that is not encrypted is read elsewhere.
    fn of_first_key(content: &[u8]) -> Option<Self> {
        let mut lines = content.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
        let begin =
            lines.find(|line| line.ends_with(b"PRIVATE KEY-----") && !line.starts_with(b"-----END"))?;
        if begin.ends_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            return Some(Self::Pkcs8);
        }
        let mut headers = lines.skip_while(|line| line.is_empty()).take_while(|line| line.contains(&b':'));
        let is_encrypted =
            headers.any(|line| line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED"));
        is_encrypted.then_some(Self::Rfc1423)
    }
}

fn decrypt(content: &[u8], how: Encryption, password: &[u8]) -> Result<PrivateKeyDer<'static>, Unreadable> {
    let blocks = ::pem::parse_many(content).map_err(|_| Unreadable::Damaged)?;
    let block =
        blocks.iter().find(|block| block.tag().ends_with("PRIVATE KEY")).ok_or(Unreadable::Damaged)?;
    let der = match how {
        Encryption::Pkcs8 if block.tag() == PKCS8 => decrypt_pkcs8(block.contents(), password)?,
        Encryption::Rfc1423 => decrypt_rfc1423(block, password)?,
        Encryption::Pkcs8 => return Err(Unreadable::Damaged),
    };
    let key = PrivateKeyDer::try_from(&**der).map_err(|_| Unreadable::WrongPassword)?;
    Ok(key.clone_key())
}

fn decrypt_pkcs8(der: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let unknown = || Unreadable::Cipher(format!("the algorithm {}", algorithm_of(der)));
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|_| unknown())?;
    let EncryptionScheme::Pbes2(parameters) = &encrypted.encryption_algorithm else { return Err(unknown()) };
    check_cost(&parameters.kdf)?;
    let document = encrypted.decrypt(password).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::UnsupportedAlgorithm { oid }) => {
            Unreadable::Cipher(format!("the algorithm {oid}"))
        }
        _ => Unreadable::WrongPassword,
    })?;
    Ok(Zeroizing::new(document.as_bytes().to_vec()))
}

/// Fails if decryption would keep the server busy for long or take its memory. A file must not end a running server.
fn check_cost(kdf: &Kdf) -> Result<(), Unreadable> {
    match kdf {
        Kdf::Pbkdf2(of) if of.iteration_count > MAX_ITERATIONS => {
            Err(Unreadable::TooCostly(format!("{} iterations, at most {MAX_ITERATIONS}", of.iteration_count)))
        }
        Kdf::Scrypt(of) => {
            // RFC 7914, section 2: N blocks of 128 * r bytes, p times.
            let block = 128 * u64::from(of.block_size);
            let memory = of.cost_parameter.checked_mul(block);
            let is_cheap = memory.is_some_and(|memory| memory <= MAX_SCRYPT_MEMORY)
                && of.parallelization <= MAX_SCRYPT_PASSES;
            let how = || {
                format!(
                    "scrypt with N = {}, r = {}, p = {}",
                    of.cost_parameter, of.block_size, of.parallelization
                )
            };
            if is_cheap { Ok(()) } else { Err(Unreadable::TooCostly(how())) }
        }
        _ => Ok(()),
    }
}

/// This many take some seconds. The default of openssl is 2,048.
const MAX_ITERATIONS: u32 = 10_000_000;

/// In bytes. openssl takes 16 MiB in one pass.
const MAX_SCRYPT_MEMORY: u64 = 128 * 1024 * 1024;
const MAX_SCRYPT_PASSES: u16 = 16;

/// Returns a name for the algorithm by which a PKCS #8 key is encrypted: its object identifier if it has no other.
fn algorithm_of(der: &[u8]) -> String {
    let algorithm = Sequence::from_der(der).ok().and_then(|(_, sequence)| {
        let (_, algorithm) = AlgorithmIdentifier::from_der(&sequence.content).ok()?;
        Some(algorithm.algorithm.to_id_string())
    });
    match algorithm.as_deref() {
        Some("1.2.840.113549.1.5.13") => "PBES2, with a cipher or a hash that is not known".to_owned(),
        Some("1.2.840.113549.1.5.3") => "PBE-MD5-DES (PKCS #5 version 1)".to_owned(),
        Some("1.2.840.113549.1.5.10") => "PBE-SHA1-DES (PKCS #5 version 1)".to_owned(),
        Some(algorithm) => algorithm.to_owned(),
        None => "that its PEM does not tell".to_owned(),
    }
}

fn decrypt_rfc1423(block: &::pem::Pem, password: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let info = block.headers().get("DEK-Info").ok_or(Unreadable::Damaged)?;
    let (cipher, iv) = info.split_once(',').ok_or(Unreadable::Damaged)?;
    let iv = hex::decode(iv.trim()).map_err(|_| Unreadable::Damaged)?;
    let data = block.contents();
    match cipher.trim() {
        "AES-128-CBC" => decrypt_cbc::<Aes128>(data, password, &iv),
        "AES-192-CBC" => decrypt_cbc::<Aes192>(data, password, &iv),
        "AES-256-CBC" => decrypt_cbc::<Aes256>(data, password, &iv),
        "DES-EDE3-CBC" => decrypt_cbc::<TdesEde3>(data, password, &iv),
        "DES-CBC" => decrypt_cbc::<Des>(data, password, &iv),
        other => Err(Unreadable::Cipher(other.chars().take(40).collect())),
    }
}

fn decrypt_cbc<C: BlockCipherDecrypt + KeyInit>(
    data: &[u8],
    password: &[u8],
    iv: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let salt = iv.get(..SALT_LEN).ok_or(Unreadable::Damaged)?;
    let key = derive(password, salt, C::key_size());
    let cipher = cbc::Decryptor::<C>::new_from_slices(&key, iv).map_err(|_| Unreadable::Damaged)?;
    let mut plain = Zeroizing::new(data.to_vec());
    let len = cipher.decrypt_padded::<Pkcs7>(&mut plain).map_err(|_| Unreadable::WrongPassword)?.len();
    plain.truncate(len);
    Ok(plain)
}

/// Encrypts a PKCS #8 key as KES does: with AES-256 by RFC 1423, which MinIO reads too. `iv` has to be random.
///
/// The form has no checksum. Whoever can write the file can change the key.
pub fn encrypt(der: &[u8], password: &[u8], iv: [u8; 16]) -> String {
    let key = derive(password, &iv[..SALT_LEN], 32);
    let key: Zeroizing<[u8; 32]> = Zeroizing::new(std::array::from_fn(|at| key[at]));
    let cipher = cbc::Encryptor::<Aes256>::new(&(*key).into(), &iv.into());
    let mut block = ::pem::Pem::new("PRIVATE KEY", cipher.encrypt_padded_vec::<Pkcs7>(der));
    let headers =
        [("Proc-Type", "4,ENCRYPTED".to_owned()), ("DEK-Info", format!("AES-256-CBC,{}", hex::encode(iv)))];
    for (name, value) in headers {
        // Only names with a colon fail.
        let _ = block.headers_mut().add(name, &value);
    }
    ::pem::encode_config(&block, ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF))
}

/// Derives a key of `len` bytes as OpenSSL's `EVP_BytesToKey` does with MD5 and one round.
fn derive(password: &[u8], salt: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(len + 16));
    let mut last = Zeroizing::new(Vec::new());
    while key.len() < len {
        let mut hash = Md5::new();
        for part in [&last, password, salt] {
            hash.update(part);
        }
        *last = hash.finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(len);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "open-sesame";

    /// Made by openssl, then changed to 2,147,483,647 iterations.
    const ITERATIONS: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGdMFkGCSqGSIb3DQEFDTBMMCsGCSqGSIb3DQEFDDAeBAikwYaPzwHMFgIEf///
/zAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQUIymzVJ57rwyZucIAWwyHQRA
RaOf1DFiSCV4VN9wR/WndMCFEOAjXFe4SAQ/shzNvCJvIiMhd8ZC5u90h3EwAlmr
/c5g+jpJ4ibCpsMUwmEkvg==
-----END ENCRYPTED PRIVATE KEY-----
";

    /// Made by openssl, then changed to r = 127, which takes 254 MiB.
    const SCRYPT: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGTME8GCSqGSIb3DQEFDTBCMCEGCSsGAQQB2kcECzAUBAi1mi4dAfdNlQICQAAC
AX8CAQEwHQYJYIZIAWUDBAEqBBCXhpmJrb+nH9FswUQ/ZO2DBEBrmZm9h07A8bVa
+Cqgw42qyy2nU0P8rzZ9ST6U/cN5PsTBTQvUxveR78yIj9702tJsDLt3FixwYg7C
E9M3ToX+
-----END ENCRYPTED PRIVATE KEY-----
";

    /// Made by openssl, in the form of PKCS #5 version 1.
    const VERSION_1: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----
MFcwGwYJKoZIhvcNAQUDMA4ECPZSqQpUl3i3AgIIAAQ4+kwLqCkPCQt8dgokr/ZG
waIlL3EJwbSj1jHZtGLF9D/5IWQ/3wfhG3A78EtfIZDpVWx/TJ9k3Cw=
-----END ENCRYPTED PRIVATE KEY-----
";

    #[test]
    fn what_is_encrypted_is_read_by_its_password_and_no_other() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_der();
        let text = encrypt(&key, PASSWORD.as_bytes(), [7; 16]);
        assert!(is_encrypted(text.as_bytes()));
        for text in [
            text.clone(),
            text.replace('\n', "\r\n"),
            format!("\u{feff}{text}"),
            format!("text\n{text}more\n"),
        ] {
            let read = read(text.as_bytes(), Some(PASSWORD)).unwrap_or_else(|why| panic!("{why}: {text}"));
            assert_eq!(read.secret_der(), key);
        }
        for password in [None, Some(""), Some("open-sesame2")] {
            let told = read(text.as_bytes(), password).unwrap_err().to_string();
            let expected = if password.is_some_and(|text| !text.is_empty()) {
                "another password"
            } else {
                "no password"
            };
            assert!(told.contains(expected) && !told.contains(PASSWORD), "{told}");
        }
        for (from, to, expected) in [
            ("AES-256-CBC", "IDEA-CBC", "encrypted by IDEA-CBC"),
            ("07070707", "0707zz07", "damaged"),
            (",0707", "0707", "damaged"),
            ("-----END", "-----", "damaged"),
        ] {
            let told = read(text.replacen(from, to, 1).as_bytes(), Some(PASSWORD)).unwrap_err().to_string();
            assert!(told.contains(expected), "{to}: {told}");
        }
    }

    #[test]
    fn what_would_take_the_servers_time_or_memory_is_refused_at_once() {
        for (text, expected) in
            [(ITERATIONS, "2147483647 iterations"), (SCRYPT, "scrypt with N = 16384, r = 127, p = 1")]
        {
            let told = read(text.as_bytes(), Some(PASSWORD)).unwrap_err().to_string();
            assert!(told.contains("too costly") && told.contains(expected), "{told}");
        }
    }

    #[test]
    fn how_it_is_encrypted_is_named_where_that_is_not_known() {
        let told = read(VERSION_1.as_bytes(), Some(PASSWORD)).unwrap_err().to_string();
        assert!(told.contains("PBE-MD5-DES"), "{told}");
        let nothing = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let told = read(nothing.as_bytes(), Some(PASSWORD)).unwrap_err().to_string();
        assert!(told.contains("does not tell"), "{told}");
    }

    #[test]
    fn the_order_of_headers_does_not_matter() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_der();
        let text = encrypt(&key, PASSWORD.as_bytes(), [7; 16]);
        let mut lines: Vec<_> = text.lines().collect();
        lines.swap(1, 2);
        let text = lines.join("\n");
        assert!(text.contains("07\nProc-Type"), "{text}");
        assert_eq!(read(text.as_bytes(), Some(PASSWORD)).unwrap().secret_der(), key);
    }

    #[test]
    fn what_is_not_encrypted_needs_no_password_and_ignores_one() {
        let key = rcgen::KeyPair::generate().unwrap();
        let (plain, encrypted) =
            (key.serialize_pem(), encrypt(&key.serialize_der(), PASSWORD.as_bytes(), [7; 16]));
        for text in [plain.clone(), format!("{plain}{encrypted}")] {
            assert!(!is_encrypted(text.as_bytes()), "the first counts");
            assert_eq!(read(text.as_bytes(), Some("any")).unwrap().secret_der(), key.serialize_der());
        }
    }
}
