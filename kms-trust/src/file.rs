//! Files that an operator names as certificates. Such a path may lead to anything: a FIFO, a directory, a huge file.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

/// The largest file of certificates, in bytes.
pub const MAX_FILE: usize = 16 << 20;

/// Reads a regular file of at most [`MAX_FILE`] bytes. The content is wiped when dropped.
///
/// Never waits: a pipe without a writer would block its reader for ever.
///
/// # Errors
///
/// - `IsADirectory`, `InvalidInput`: it is no regular file.
/// - `FileTooLarge`: it is longer than [`MAX_FILE`].
/// - Any other error of the system.
pub fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    kms_core::primitives::read_secret_file(path, MAX_FILE)
}

/// Describes an error of the system, without the number that Rust appends.
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
        std::fs::File::create(place("long")).unwrap().set_len(MAX_FILE as u64 + 1).unwrap();
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
