//! The mount that a path lies on. A root key and its store can be lost separately if their mounts differ.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FsWord, StatxFlags, statfs, statx};

/// The type of an overlay file system.
const OVERLAY: FsWord = 0x794c_7630;

/// Returns whether two paths lie on the same mount. For a missing path, its nearest existing parent counts.
///
/// Mounts are compared by their ids where the kernel has them (Linux 5.8). Device numbers are not enough: a directory
/// that is mounted into a container may be on the same device as the container's own layer.
pub fn are_together(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (present(one)?, present(other)?);
    Ok(match (mount_id(&one), mount_id(&other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.metadata()?.dev() == other.metadata()?.dev(),
    })
}

/// Returns whether a path lies on the own layer of a container, which ends with it.
///
/// That is the mount of `/`, if an engine such as Docker says that it made it, or if it is an overlay.
pub fn is_in_layer(path: &Path) -> bool {
    let root = Path::new("/");
    let is_container = ["/.dockerenv", "/run/.containerenv"].iter().any(|file| Path::new(file).exists());
    let is_overlay = || statfs(root).is_ok_and(|found| found.f_type == OVERLAY);
    are_together(path, root).unwrap_or(false) && (is_container || is_overlay())
}

/// Returns the id of the mount that a path lies on. A container's system call filter may hide it.
fn mount_id(path: &Path) -> Option<u64> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// Returns the path, or its nearest existing parent.
fn present(path: &Path) -> io::Result<PathBuf> {
    let full = std::path::absolute(path)?;
    for path in full.ancestors() {
        match path.metadata() {
            Ok(_) => return Ok(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_yet_counts_as_what_is_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b/c");
        assert!(are_together(&below, dir.path()).unwrap());
        assert!(!are_together(&below, Path::new("/proc/self/status")).unwrap());
    }
}
