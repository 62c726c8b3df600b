//! What people install and look at: packages, images, charts, dashboards, commands, releases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod cases;
mod chart;
mod command_line;
mod container;
mod dashboards;
mod debian;
mod engine;
mod glibc;
mod image;
mod install;
mod links;
mod made;
mod oci;
mod operator;
mod page;
mod pod;
mod pods;
mod prometheus;
mod refused;
mod release;
mod rendered;
mod rpm;
mod system;
mod top;
