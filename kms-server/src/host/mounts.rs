//! Which mount a path lies on: what a container, or a volume that comes back elsewhere, takes with it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// Tells whether two paths lie on one mount. Of a path that is not there the nearest directory above counts.
///
/// Mounts are told apart by their ids, where the kernel has them (Linux 5.8): a directory that is mounted into a container may
/// be of the same device as the container's own layer.
pub fn are_together(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (present(one)?, present(other)?);
    Ok(match (mount_id(&one), mount_id(&other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.metadata()?.dev() == other.metadata()?.dev(),
    })
}

/// Returns the id of the mount that a path lies on; a container's filter of system calls may keep it back.
fn mount_id(path: &Path) -> Option<u64> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// Returns the path, or the nearest one above it that is there.
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
