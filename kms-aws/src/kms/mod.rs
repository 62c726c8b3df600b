//! AWS KMS: a [`Kms`](kms_core::Kms) whose keys are CMKs, and a CMK as the root key of a store.

mod aliases;
mod backend;
mod check;
mod cmk;
mod config;
mod format;
mod hmac;
mod lifecycle;
mod names;
mod refusals;
mod service;
mod view;
mod working_key;
mod working_keys;
mod wrapper;

pub use check::check;
pub use config::{AwsConfig, Reuse, WrapperConfig};
pub use service::AwsKms;
pub use wrapper::AwsWrapper;
