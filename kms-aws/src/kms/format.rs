//! The form of ciphertexts of keys in AWS KMS, and of records that are wrapped there.
//!
//! A header holds the wrapped key, and the sealing under that key follows: magic (4 bytes), kind (1 byte), length of
//! the blob (2 bytes, big-endian), blob, then the sealing of [`SealingKey`](kms_core::primitives::SealingKey). The
//! associated data is
//! the whole header followed by the context, so no byte of the header can be changed.

/// The first bytes of every ciphertext. Neither a structured ciphertext of KES nor JSON begins with them.
const MAGIC: [u8; 4] = [0x6b, 0x6d, 0x73, 0x01];
const HEADER_LEN: usize = MAGIC.len() + 1 + 2;

/// The longest blob that AWS takes.
const MAX_BLOB_LEN: usize = 6144;

/// The kind of key that the blob holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A working key, under which many ciphertexts are sealed.
    Working,
    /// A key for this one ciphertext, bound to its context.
    Single,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Working => 2,
            Self::Single => 3,
        }
    }
}

/// The kind of a record of a store. The blob holds a key for this one record, bound to its entry.
const RECORD: u8 = 4;

/// The parts of a ciphertext or a wrapped record.
pub struct Parts<'a> {
    /// The header with the blob. The associated data begins with it.
    pub header: &'a [u8],
    /// The wrapped key.
    pub blob: &'a [u8],
    pub sealed: &'a [u8],
}

/// Creates the header of a client's ciphertext; `None` for a blob that AWS never makes.
pub fn header(kind: Kind, blob: &[u8]) -> Option<Vec<u8>> {
    make_header(kind.byte(), blob)
}

/// Creates the header of a wrapped record; `None` for a blob that AWS never makes.
pub fn record_header(blob: &[u8]) -> Option<Vec<u8>> {
    make_header(RECORD, blob)
}

/// Parses a client's ciphertext; `None` for bytes of another form.
pub fn parse(ciphertext: &[u8]) -> Option<(Kind, Parts<'_>)> {
    let (kind, parts) = take_apart(ciphertext)?;
    let kind = [Kind::Working, Kind::Single].into_iter().find(|known| known.byte() == kind)?;
    Some((kind, parts))
}

/// Parses a wrapped record; `None` for bytes of another form.
pub fn parse_record(wrapped: &[u8]) -> Option<Parts<'_>> {
    take_apart(wrapped).filter(|(kind, _)| *kind == RECORD).map(|(_, parts)| parts)
}

/// Returns the associated data of a ciphertext.
pub fn associated_data(header: &[u8], context: &[u8]) -> Vec<u8> {
    [header, context].concat()
}

fn make_header(kind: u8, blob: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(blob.len()).ok().filter(|len| (1..=MAX_BLOB_LEN).contains(&usize::from(*len)))?;
    let mut header = Vec::with_capacity(HEADER_LEN + blob.len());
    header.extend_from_slice(&MAGIC);
    header.push(kind);
    header.extend_from_slice(&len.to_be_bytes());
    header.extend_from_slice(blob);
    Some(header)
}

fn take_apart(ciphertext: &[u8]) -> Option<(u8, Parts<'_>)> {
    let rest = ciphertext.strip_prefix(&MAGIC)?;
    let (&kind, rest) = rest.split_first()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_be_bytes(*len));
    if len == 0 || len > MAX_BLOB_LEN {
        return None;
    }
    let (blob, sealed) = rest.split_at_checked(len)?;
    let header = ciphertext.get(..HEADER_LEN + len)?;
    Some((kind, Parts { header, blob, sealed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_comes_apart() {
        for kind in [Kind::Working, Kind::Single] {
            let header = header(kind, b"blob").unwrap();
            let ciphertext = [header.as_slice(), b"sealed"].concat();
            let (parsed, parts) = parse(&ciphertext).unwrap();
            assert_eq!((parsed, parts.blob, parts.sealed), (kind, b"blob".as_slice(), b"sealed".as_slice()));
            assert_eq!(parts.header, header);
            assert!(parse_record(&ciphertext).is_none(), "a client's ciphertext is no record");
        }
        let record = record_header(b"blob").unwrap();
        assert!(parse(&record).is_none() && parse_record(&record).is_some());
    }

    #[test]
    fn what_is_cut_or_foreign_is_none_of_ours() {
        let header = header(Kind::Working, b"blob").unwrap();
        for len in 0..header.len() {
            assert!(parse(&header[..len]).is_none(), "{len}");
        }
        for place in 0..5 {
            let mut changed = header.clone();
            changed[place] ^= 0x80;
            assert!(parse(&changed).is_none(), "{place}");
        }
        assert!(super::header(Kind::Working, &[0; MAX_BLOB_LEN + 1]).is_none());
        assert!(super::header(Kind::Working, b"").is_none());
    }
}
