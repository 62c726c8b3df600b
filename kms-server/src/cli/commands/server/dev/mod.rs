//! `kms server --dev`: a server that needs no file, and keeps its keys.

mod banner;
mod credentials;
mod prepare;
mod state;

pub use self::banner::Banner;
pub use self::prepare::{DEFAULT_ADDRESS, DevServer, in_directory, in_memory};
