//! Records and ciphertexts.

use jiff::Timestamp;
use kms_core::primitives::{Cipher, SealingKey, SecretKey};
use kms_core::store::KeyRecord;

use crate::server::aws_format::{self, Kind};
use crate::split::split;

/// A record in any form of KES: what was read is written in a form that reads the same.
pub fn record(input: &[u8]) {
    let Ok(record) = KeyRecord::decode(input) else { return };
    let again = KeyRecord::decode(record.encode().expose()).expect("what is written can be read");
    assert!(again.key.expose() == record.key.expose());
    let hmac = |record: &KeyRecord| record.hmac_key.as_ref().map(|key| key.0.expose().to_vec());
    assert!(hmac(&again) == hmac(&record));
    assert_eq!(again.cipher, record.cipher);
    // A time that is absent in protobuf is the epoch, to KES too.
    assert_eq!(again.created_at, record.created_at.or(Some(Timestamp::UNIX_EPOCH)));
    assert_eq!(again.created_by, record.created_by);
}

/// A ciphertext in any form, with its context before it: it does not open, and what is sealed does.
pub fn ciphertext(input: &[u8]) {
    let (context, ciphertext) = split(input);
    for cipher in [Cipher::Aes256, Cipher::ChaCha20] {
        let key = SealingKey::new(SecretKey::from_slice(&[7; 32]).expect("32 bytes"), cipher);
        if let Ok(opened) = key.open_any_form(ciphertext, context) {
            assert!(opened.expose().len() <= ciphertext.len());
        }
        let mut sealed = key.seal(ciphertext, context).expect("there are random bytes");
        let opened = key.open_any_form(&sealed, context).expect("what was sealed opens");
        assert!(opened.expose() == ciphertext);
        let place = context.len() % sealed.len();
        sealed[place] ^= 1;
        assert!(key.open_any_form(&sealed, context).is_err(), "a changed ciphertext opens");
    }
}

/// The header of ciphertexts under AWS KMS: what was taken apart makes the same bytes.
pub fn aws_header(input: &[u8]) {
    let client = aws_format::parse(input);
    let record = aws_format::parse_record(input);
    assert!(client.is_none() || record.is_none());
    if let Some((kind, parts)) = client {
        let header = aws_format::header(kind, parts.blob).expect("it was read");
        assert_eq!(header, parts.header);
        assert_eq!([parts.header, parts.sealed].concat(), input);
        assert_eq!(aws_format::associated_data(parts.header, parts.sealed), input);
    }
    if let Some(parts) = record {
        assert_eq!(aws_format::record_header(parts.blob).expect("it was read"), parts.header);
        assert_eq!([parts.header, parts.sealed].concat(), input);
    }
    for kind in [Kind::Working, Kind::Single] {
        if let Some(header) = aws_format::header(kind, input) {
            let (same, parts) = aws_format::parse(&header).expect("it was written");
            assert!(same == kind && parts.blob == input && parts.sealed.is_empty());
        }
    }
}
