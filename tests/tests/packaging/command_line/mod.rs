//! The command line as people expect it.

mod completion;
mod convert;
mod explain;
mod for_minio;
mod json_log;
mod man;
mod show;

use std::path::PathBuf;

/// Returns one of the programs zsh, fish and mandoc.
fn installed(name: &str) -> PathBuf {
    kms_tests::programs::program("shells").with_file_name(name)
}

/// An identity for configs, as 64 hex digits of a number.
fn identity(number: u8) -> String {
    format!("{number:064x}")
}
