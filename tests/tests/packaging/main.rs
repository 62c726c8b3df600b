//! What people install and look at: packages, images, charts, dashboards, commands, releases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod command_line;
mod release;
mod top;
