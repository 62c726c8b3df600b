//! Where `kms init` puts what it makes, and to whom it gives it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use kms_trust::describe_io_error;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, chownat, fchown, openat};
use rustix::io::Errno;

use crate::host::files;
use crate::host::users::User;
use crate::text::terminal::escape;

/// The user under whom the unit of the packages runs the server, and its group.
const USER: &str = "kms";

/// Opens a directory, and never what a link leads to.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

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
    /// Whether the directory of the store may be there already, with nothing in it.
    store_may_exist: bool,
    /// Who gets the store, in the layout of the packages.
    owner: Option<User>,
}

impl Paths {
    /// Returns the layout of a node in one directory, but for the store if that has another one.
    ///
    /// The error is a line that says why these directories cannot be used.
    pub fn of_node(directory: &Path, store: Option<&Path>) -> Result<Self, String> {
        let directory = absolute(directory)?;
        let paths = Self::in_directory(&directory);
        let Some(store) = store else { return Ok(paths) };
        let data = absolute(store)?;
        if paths.root_key.starts_with(&data) {
            let (root_key, data) = (paths.root_key.display(), data.display());
            return Err(format!("{data}: the root key would lie inside of the store, as {root_key}"));
        }
        Ok(Self { data, store_may_exist: true, ..paths })
    }

    fn in_directory(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            config: directory.join("config.toml"),
            cert: directory.join("server.crt"),
            key: directory.join("server.key"),
            root_key: directory.join("root.key"),
            data: directory.join("data"),
            minio: directory.join("minio.env"),
            store_may_exist: false,
            owner: None,
        }
    }

    /// Returns the layout of the packages. The error is a line that says what is missing.
    pub fn of_packages() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("--system: it makes files for root and for the user kms, expected to be run by root"
                .to_owned());
        }
        let owner = User::of_service(USER).map_err(|why| format!("--system: {why}"))?;
        let data = PathBuf::from("/var/lib/kms");
        let paths = Self::in_directory(Path::new("/etc/kms"));
        Ok(Self { data, store_may_exist: true, owner: Some(owner), ..paths })
    }

    /// Tells if this is the layout of the packages.
    pub fn is_of_packages(&self) -> bool {
        self.owner.is_some()
    }

    /// Returns the first of all files and directories that exists already.
    ///
    /// The directory of the store does not count as long as nothing is in a volume or in what the package made, or if
    /// `is_begun` tells that an earlier call made it.
    pub fn in_the_way(&self, is_begun: bool) -> Option<&Path> {
        let is_free =
            |path: &Path| path == self.data && (is_begun || (self.store_may_exist && is_as_made(path)));
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

    /// Refuses directories that the user of the server cannot enter. The error is a line that names the directory.
    pub fn refuse_closed(&self) -> Result<(), String> {
        let Some(owner) = self.owner else { return Ok(()) };
        // The store's own directory will belong to this user, but not those above it.
        let store = fs::canonicalize(&self.data).ok();
        let above = store.as_deref().and_then(Path::parent);
        for (named, entered) in [(&self.directory, Some(self.directory.as_path())), (&self.data, above)] {
            let Some(entered) = entered else { continue };
            owner.enter(entered).map_err(|error| {
                let (named, entered) = (named.display(), entered.display());
                let why = describe_io_error(&error);
                format!("{named}: the user {USER} cannot enter {entered}: {why}; give it the right to")
            })?;
        }
        Ok(())
    }

    /// Gives the store to the user of the server. The error is a line that names the file.
    ///
    /// Its directory may be a link to another place. Links inside are given and not followed.
    pub fn hand_over_store(&self) -> Result<(), String> {
        let Some(owner) = self.owner else { return Ok(()) };
        let top = fs::canonicalize(&self.data).map_err(|error| files::failed(&self.data, &error))?;
        let opened = openat(CWD, &top, DIRECTORY, Mode::empty());
        let opened = opened.map_err(|error| files::failed(&top, &error.into()))?;
        give(opened.as_fd(), &top, owner)
    }

    /// Lets the user of the server read a file, and still nobody but root change it.
    pub fn let_server_read(&self, path: &Path) -> Result<(), String> {
        let Some(owner) = self.owner else { return Ok(()) };
        lchown(path, Some(0), Some(owner.group.as_raw())).map_err(|error| files::failed(path, &error))
    }
}

/// Tells if a directory has nothing in it but what a file system puts there.
fn is_as_made(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"))
    })
}

/// Returns the absolute path of a directory whose files are named in a config and in lines of a shell.
fn absolute(directory: &Path) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(directory).map_err(|error| files::failed(directory, &error))?;
    match absolute.to_str() {
        None => Err(format!("{}: the path is not UTF-8, as a config has to be", absolute.display())),
        Some(text) if text.chars().any(char::is_control) => Err(format!(
            "{}: the path has a control character, which files of variables cannot hold",
            escape(text)
        )),
        Some(_) => Ok(absolute),
    }
}

/// Gives a directory and all in it to a user.
///
/// The user may own the directory already. So it is never named again after it was opened: what the user puts in its
/// place meanwhile is not given.
fn give(directory: BorrowedFd<'_>, path: &Path, owner: User) -> Result<(), String> {
    let (user, group) = (Some(owner.id), Some(owner.group));
    let failed = |path: &Path, error: Errno| files::failed(path, &io::Error::from(error));
    for entry in Dir::read_from(directory).map_err(|error| failed(path, error))? {
        let entry = entry.map_err(|error| failed(path, error))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = path.join(OsStr::from_bytes(name.to_bytes()));
        match openat(directory, name, DIRECTORY, Mode::empty()) {
            Ok(inner) => give(inner.as_fd(), &path, owner)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| failed(&path, error))?;
            }
            Err(error) => return Err(failed(&path, error)),
        }
    }
    fchown(directory, user, group).map_err(|error| failed(path, error))
}
