//! AWS KMS as the home of master keys, which never leave it, and as the root key of other stores; AWS Secrets Manager as
//! a store of keys.
//!
//! ```no_run
//! use kms_aws::{AwsConfig, AwsConnection, AwsKms};
//! use kms_core::Kms;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kms_core::Result<()> {
//! let region = Some("eu-central-1".to_owned());
//! let kms = AwsKms::open(AwsConfig::new(AwsConnection { region, ..AwsConnection::default() })).await?;
//! assert!(kms.status().await?.reachable);
//! # Ok(())
//! # }
//! ```
//!
//! What the SDK sends and receives it keeps in buffers that it does not wipe; what is taken out of them is wiped as everywhere.

mod cell;
mod check;
mod client;
mod cmk;
mod config;
mod error;
mod format;
mod kms;
mod limit;
mod login;
mod names;
mod secrets;
mod sources;
mod working;
mod wrap;

pub use check::check;
pub use config::{AwsConfig, AwsConnection, Credentials, Reuse, WrapperConfig};
pub use kms::AwsKms;
pub use kms_core::{Finding, Level};
pub use secrets::{SecretsConfig, SecretsManager, check_secrets};
pub use wrap::AwsWrapper;
