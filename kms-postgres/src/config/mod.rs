//! The settings of a database.

mod env;
mod host;
mod options;
mod pass_file;
mod settings;
mod url;

pub use self::env::Environment;
pub use self::host::Host;
pub use self::options::PostgresOptions;
pub use self::pass_file::{NoPassword, PassFile};
pub use self::settings::{ChannelBinding, OfUrl, PostgresConfig, TlsConfig, TlsMode};
