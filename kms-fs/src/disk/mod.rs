//! Files and directories: durable writes, the lock on a store, and the reserve of space.

#[cfg_attr(all(test, feature = "model"), allow(dead_code, reason = "a stand-in takes its place"))]
mod ballast;
mod files;
mod lock;

pub use ballast::{BALLAST_FILE, Ballast};
pub use files::{
    copy_file, create_directories, is_same_file, read_regular, refuse_other_types, rewrite, sync_directory,
    sync_directory_of, sync_file, sync_tree,
};
pub use lock::{LOCK_FILE, Lock};
