//! What an installation needs: completions and man pages, configs of before, policies, logs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod command_line;
