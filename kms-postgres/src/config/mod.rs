//! The settings of a database.

mod env;
mod options;
mod secret;
mod settings;
mod url;

pub use self::env::Environment;
pub use self::options::PostgresOptions;
pub use self::secret::{Secret, SecretSource};
pub use self::settings::{ChannelBinding, Host, PostgresConfig, TlsConfig, TlsMode};
