//! The state of a development server: a directory, or memory alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::config::Environment;
use crate::host::files;

/// The advice at the end of every message about an unusable directory.
pub const WAYS_OUT: &str = "choose another directory with --dir, or --in-memory to keep nothing";

/// The state of a development server.
pub enum State {
    /// A directory. `existing` says whether it had a store before the start.
    Directory { path: PathBuf, existing: bool },
    /// Memory. The directory of the certificate is removed when this is dropped.
    Memory { _certificate: TemporaryDirectory },
}

/// A directory for the files that TLS needs. It is removed when dropped.
pub struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    /// Creates a directory that only this user can read.
    pub fn create() -> Result<Self, Failure> {
        let mut random = [0; 8];
        kms_core::primitives::fill_random(&mut random)?;
        let path = std::env::temp_dir().join(format!("kms-dev-{}", hex::encode(random)));
        files::private_directory(&path).map_err(|error| Failure::new(files::failed(&path, &error)))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the directory that the environment chooses for the state.
pub fn default_directory(environment: &Environment) -> Option<PathBuf> {
    if let Some(path) = environment.first_of(&["KMS_DEV_DIR"]) {
        return Some(PathBuf::from(path));
    }
    // By the XDG specification, a relative path is ignored.
    let state =
        environment.first_of(&["XDG_STATE_HOME"]).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(Path::new(environment.first_of(&["HOME"])?).join(".local/state")))?;
    Some(state.join("kms-dev"))
}

/// Creates the failure of a file in the directory, with advice.
pub fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {WAYS_OUT}", files::failed(path, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_lives_where_the_environment_says() {
        let directory = |variables: &[(&str, &str)]| default_directory(&variables.iter().copied().collect());
        let home = ("HOME", "/home/me");
        let xdg = ("XDG_STATE_HOME", "/state");
        assert_eq!(directory(&[home, xdg, ("KMS_DEV_DIR", "/dev-dir")]), Some("/dev-dir".into()));
        assert_eq!(directory(&[home, xdg]), Some("/state/kms-dev".into()));
        assert_eq!(directory(&[home]), Some("/home/me/.local/state/kms-dev".into()));
        assert_eq!(
            directory(&[home, ("XDG_STATE_HOME", "relative")]),
            Some("/home/me/.local/state/kms-dev".into())
        );
        assert_eq!(directory(&[]), None);
    }
}
