//! The machine under the server: its process, files, mounts and sockets.

pub mod files;
pub mod listen;
pub mod mounts;
pub mod partial;
pub mod platform;
pub mod process;
pub mod shell;
pub mod users;
