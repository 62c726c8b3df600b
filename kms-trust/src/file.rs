//! Files that an operator names, and that may be anything.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

/// The most bytes that are read of a file of certificates.
pub const MAX_FILE: u64 = 16 << 20;

/// Reads a regular file of at most [`MAX_FILE`] bytes; what it holds is wiped when dropped.
///
/// It waits for nobody: a pipe without a writer would keep its reader for ever.
pub fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory, expected a file"));
    }
    if !metadata.is_file() {
        let kind = io::ErrorKind::InvalidInput;
        return Err(io::Error::new(kind, "it is a pipe, a socket or a device, expected a file"));
    }
    let too_long = || {
        let message = format!("it is longer than {MAX_FILE} bytes, expected a file in PEM");
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    };
    if metadata.len() > MAX_FILE {
        return Err(too_long());
    }
    // A vector that grows leaves its old bytes behind.
    let room = usize::try_from(metadata.len()).map_err(|_| too_long())?.saturating_add(1);
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    let read = file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if u64::try_from(read).map_or(true, |read| read > MAX_FILE) {
        return Err(too_long());
    }
    Ok(content)
}

/// Says what the system reported, without the number that Rust appends.
pub fn describe_io_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_some_length_are_read_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        std::fs::write(place("file"), "content").unwrap();
        std::os::unix::fs::symlink("file", place("link")).unwrap();
        assert_eq!(&**read_file(&place("link")).unwrap(), b"content");

        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, place("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        std::fs::File::create(place("long")).unwrap().set_len(MAX_FILE + 1).unwrap();
        for (name, why) in [
            ("pipe", "it is a pipe"),
            ("long", "it is longer than"),
            (".", "it is a directory"),
            ("nothing", "no such file"),
        ] {
            let error = describe_io_error(&read_file(&place(name)).unwrap_err());
            assert!(error.contains(why), "{name}: {error}");
        }
        assert!(describe_io_error(&read_file(Path::new("/dev/zero")).unwrap_err()).contains("a device"));
    }
}
