//! The settings of a database.

mod env;
mod options;
mod settings;
mod url;

pub use self::env::Environment;
pub use self::options::PostgresOptions;
pub use self::settings::{ChannelBinding, Host, PostgresConfig, TlsConfig, TlsMode};
