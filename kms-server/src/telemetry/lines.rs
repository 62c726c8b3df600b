//! Writes lines to an output that may take only a part of them.

use std::io::{self, Write};

/// How far a write came.
#[derive(Debug)]
pub struct Progress {
    /// The number of bytes written.
    pub written: usize,
    /// The number of these bytes that belong to complete lines.
    pub whole: usize,
    /// The error that stopped the write.
    pub error: Option<io::Error>,
}

/// Writes lines until all are written or an error occurs.
pub fn write(out: &mut impl Write, lines: &[u8]) -> Progress {
    let (mut written, mut error) = (0, None);
    while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => error = Some(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => {}
            Err(failed) => error = Some(failed),
        }
        if error.is_some() {
            break;
        }
    }
    let end = lines.get(..written).unwrap_or(lines).iter().rposition(|&byte| byte == b'\n');
    Progress { written, whole: end.map_or(0, |at| at + 1), error }
}

/// Counts lines.
pub fn count(lines: &[u8]) -> u64 {
    u64::try_from(lines.split_inclusive(|&byte| byte == b'\n').count()).unwrap_or(u64::MAX)
}

/// Splits off the first lines that fit into `most` bytes. A longer first line is split off whole.
pub fn split(lines: &[u8], most: usize) -> (&[u8], &[u8]) {
    if lines.len() <= most {
        return (lines, &[]);
    }
    let head = lines.get(..most).unwrap_or(lines);
    let end = head.iter().rposition(|&byte| byte == b'\n');
    let end = end.or_else(|| lines.iter().position(|&byte| byte == b'\n')).map_or(lines.len(), |at| at + 1);
    lines.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_told_in_bytes_and_in_whole_lines() {
        let mut room = [0; 5];
        let progress = write(&mut room.as_mut_slice(), b"ab\ncd\nef\n");
        assert_eq!((progress.written, progress.whole), (5, 3));
        assert!(progress.error.is_some());
        let progress = write(&mut Vec::new(), b"ab\n");
        assert!(progress.error.is_none() && progress.whole == 3);
    }

    #[test]
    fn lines_are_split_at_their_ends() {
        assert_eq!(split(b"ab\ncd\nef\n", 7), (&b"ab\ncd\n"[..], &b"ef\n"[..]));
        assert_eq!(split(b"ab\ncd\n", 6), (&b"ab\ncd\n"[..], &b""[..]));
        assert_eq!(split(b"abcdef\ncd\n", 3), (&b"abcdef\n"[..], &b"cd\n"[..]));
        assert_eq!(count(b"ab\ncd\nef"), 3);
    }
}
