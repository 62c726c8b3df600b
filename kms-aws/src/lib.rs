#![doc = include_str!("../README.md")]

mod client;
mod config;
mod error;
mod identity;
mod kms;
mod login;
mod recent;
mod secrets;
mod sources;

pub use config::{AwsConnection, Credentials};
pub use kms::{AwsConfig, AwsKms, AwsWrapper, Reuse, WrapperConfig, check};
pub use kms_core::store::{Finding, Level};
pub use secrets::{SecretsConfig, SecretsManager, check_secrets};
