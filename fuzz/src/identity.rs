//! Certificates, API keys, and the PEM around them.

use kms_core::Identity;

use crate::credentials::apikey::ApiKey;
use crate::credentials::certificate::{self as of_file, Facts};
use crate::credentials::private_key;
use crate::header;

/// A certificate in DER: who it names is whose key it holds.
pub fn certificate(input: &[u8]) {
    let Ok(facts) = Facts::of(input) else { return };
    assert_eq!(facts.identity, Identity::of_public_key(&facts.public_key));
    assert!(facts.dns_names.iter().map(String::len).sum::<usize>() <= input.len());
    assert_eq!(facts.names_nothing(), facts.dns_names.is_empty() && facts.ip_addresses.is_empty());
}

/// An API key: what was read is written as it was.
pub fn api_key(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match ApiKey::parse(text) {
        Ok(key) => {
            let written = key.to_text();
            assert!(*written == text);
            assert_eq!(ApiKey::parse(&written).expect("it was read").identity(), key.identity());
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

/// A file of a certificate, or of a private key.
pub fn pem(input: &[u8]) {
    match of_file::first_of(input) {
        Ok(der) => {
            assert!(der.len() <= input.len());
            certificate(&der);
        }
        Err(error) => assert!(error.to_string().len() <= 200 + 4 * input.len()),
    }
    // With a password it would be derived as often as the input says.
    if let Err(error) = private_key::read(input, None) {
        // It tells what is wrong, and a line of the file is none of its words.
        let told = error.to_string();
        assert!(told.len() <= 300 && !told.contains('\n'));
    }
}

/// The header in which a proxy hands on certificates.
pub fn proxy_header(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match header::read(text) {
        Ok(chain) => {
            assert!(!chain.is_empty());
            chain.iter().for_each(|der| certificate(der));
        }
        Err(why) => assert!(why.to_string().len() <= 100),
    }
}
