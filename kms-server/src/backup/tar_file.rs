//! The files of an archive as tar has them: one form for each path and length, so that nothing is left to interpret.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};
use zeroize::Zeroizing;

/// The most bytes of one file.
pub const MAX_FILE: usize = 1 << 20;

/// The size of a block of tar.
const BLOCK: usize = 512;

/// The end of a tar: two blocks of zeros.
const END: usize = 2 * BLOCK;

/// Returns the header of a file. Owner, mode and time are always the same.
fn header(path: &str, len: usize) -> io::Result<[u8; BLOCK]> {
    let mut header = Header::new_ustar();
    header.set_path(path)?;
    header.set_size(len as u64);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// Returns how many zeros follow a content of `len` bytes.
fn padding(len: usize) -> usize {
    len.next_multiple_of(BLOCK) - len
}

/// Writes a file.
pub fn write(out: &mut impl Write, path: &str, content: &[u8]) -> io::Result<()> {
    if content.len() > MAX_FILE {
        let why = format!("{path}: it has {} bytes, and at most {MAX_FILE} fit", content.len());
        return Err(io::Error::other(why));
    }
    out.write_all(&header(path, content.len())?)?;
    out.write_all(content)?;
    out.write_all(&[0; BLOCK][..padding(content.len())])
}

/// Writes the end of the tar.
pub fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; END])
}

/// Reads the next file: its path and its content, which may be secret.
///
/// A file that [`write`] would have written otherwise is refused, whatever another program makes of it: links, directories,
/// long names, other owners.
pub fn read(input: &mut impl Read) -> Result<(String, Zeroizing<Vec<u8>>), String> {
    let mut block = [0; BLOCK];
    read_exact(input, &mut block)?;
    let found = Header::from_byte_slice(&block);
    let unexpected = || "it holds something else than the files of a backup".to_owned();
    if block == [0; BLOCK] {
        return Err("it ends before its manifest".to_owned());
    }
    let path = String::from_utf8(found.path_bytes().into_owned()).map_err(|_| unexpected())?;
    let len = found.entry_size().ok().and_then(|len| usize::try_from(len).ok());
    let len = len.filter(|len| *len <= MAX_FILE).ok_or_else(unexpected)?;
    if !header(&path, len).is_ok_and(|header| header == block) {
        return Err(unexpected());
    }
    let mut content = Zeroizing::new(vec![0; len]);
    read_exact(input, &mut content)?;
    let mut zeros = [0; BLOCK];
    let zeros = &mut zeros[..padding(len)];
    read_exact(input, zeros)?;
    if zeros.iter().any(|byte| *byte != 0) {
        return Err(unexpected());
    }
    Ok((path, content))
}

/// Reads the end of the tar and of what it is in.
pub fn read_end(input: &mut impl Read) -> Result<(), String> {
    let mut end = [0; END];
    read_exact(input, &mut end)?;
    // Only an end that was read is known to be the end that was written.
    let rest = input.read(&mut [0]).map_err(|error| broken(&error))?;
    if end != [0; END] || rest != 0 {
        return Err("something follows its manifest".to_owned());
    }
    Ok(())
}

fn read_exact(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), String> {
    input.read_exact(buffer).map_err(|error| broken(&error))
}

fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it was cut off".to_owned(),
        _ => format!("it was changed or cut off, or cannot be read: {error}"),
    }
}
