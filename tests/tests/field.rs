//! What suites, scripts and configs in the field rely on, and directories that KES left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "field/addresses.rs"]
mod addresses;
#[path = "field/commands.rs"]
mod commands;
#[path = "field/directory.rs"]
mod directory;
#[path = "field/forms.rs"]
mod forms;
#[path = "field/image.rs"]
mod image;
#[path = "field/judged.rs"]
mod judged;
#[path = "field/mounts.rs"]
mod mounts;
#[path = "field/policy.rs"]
mod policy;
#[allow(dead_code, reason = "shared with the tests of the command line")]
#[path = "cli/process.rs"]
mod process;
#[path = "field/scripts.rs"]
mod scripts;
#[path = "field/server_key.rs"]
mod server_key;
#[path = "field/suites.rs"]
mod suites;
