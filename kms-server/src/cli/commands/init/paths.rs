//! Where `kms init` puts what it makes, and to whom it gives it.

use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use crate::host::files;
use crate::host::users::{self, User};

/// The user under whom the unit of the packages runs the server.
const USER: &str = "kms";

/// The files and directories to create.
pub struct Paths {
    /// The directory of all files, and of the store unless this is the layout of the packages.
    pub directory: PathBuf,
    /// The config.
    pub config: PathBuf,
    /// The server's certificate.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The root key.
    pub root_key: PathBuf,
    /// The key store.
    pub data: PathBuf,
    /// The variables of a MinIO.
    pub minio: PathBuf,
    /// Who gets the store, in the layout of the packages.
    owner: Option<User>,
}

impl Paths {
    /// Returns the layout of a node in one directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            config: directory.join("config.toml"),
            cert: directory.join("server.crt"),
            key: directory.join("server.key"),
            root_key: directory.join("root.key"),
            data: directory.join("data"),
            minio: directory.join("minio.env"),
            owner: None,
        }
    }

    /// Returns the layout of the packages. The error is a line that says what is missing.
    pub fn of_packages() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("--system: it makes files for root and for the user kms, expected to be run by root"
                .to_owned());
        }
        let owner = users::find(USER)?.ok_or_else(|| {
            format!("--system: there is no user '{USER}', expected that of the package; without one run: useradd --system {USER}")
        })?;
        let directory = PathBuf::from("/etc/kms");
        Ok(Self { data: PathBuf::from("/var/lib/kms"), owner: Some(owner), ..Self::in_directory(&directory) })
    }

    /// Tells if this is the layout of the packages.
    pub fn is_of_packages(&self) -> bool {
        self.owner.is_some()
    }

    /// Returns the first of all files and directories that exists already.
    ///
    /// The directory of the store does not count as long as the package's is as the package made it, or `is_begun` tells
    /// that an earlier call made it.
    pub fn in_the_way(&self, is_begun: bool) -> Option<&Path> {
        let is_free =
            |path: &Path| path == self.data && (is_begun || (self.is_of_packages() && is_as_made(path)));
        let all = [&self.config, &self.cert, &self.key, &self.root_key, &self.data, &self.minio];
        all.into_iter().map(PathBuf::as_path).find(|path| path.symlink_metadata().is_ok() && !is_free(path))
    }

    /// Creates the directory of all files if it is missing.
    ///
    /// That of the packages may be entered by everybody, since a MinIO on the same machine reads the certificate there.
    /// What is secret in it is so by its own mode.
    pub fn make_directory(&self) -> Result<(), String> {
        let made = if self.is_of_packages() {
            files::public_directory(&self.directory)
        } else {
            files::private_directory(&self.directory)
        };
        made.map_err(|error| files::failed(&self.directory, &error))
    }

    /// Gives the store to the user of the server. The error is a line that names the file.
    pub fn hand_over_store(&self) -> Result<(), String> {
        self.owner.map_or(Ok(()), |owner| give(&self.data, owner))
    }

    /// Lets the user of the server read a file, and still nobody but root change it.
    pub fn let_server_read(&self, path: &Path) -> Result<(), String> {
        let Some(owner) = self.owner else { return Ok(()) };
        lchown(path, Some(0), Some(owner.group)).map_err(|error| files::failed(path, &error))
    }
}

/// Tells if a directory has nothing in it but what a file system puts there.
fn is_as_made(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"))
    })
}

/// Gives a file, or a directory and all in it, to a user. Links are given and not followed.
fn give(path: &Path, owner: User) -> Result<(), String> {
    let failed = |error| files::failed(path, &error);
    let found = path.symlink_metadata().map_err(failed)?;
    if found.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            give(&entry.map_err(failed)?.path(), owner)?;
        }
    }
    lchown(path, Some(owner.id), Some(owner.group)).map_err(failed)
}
