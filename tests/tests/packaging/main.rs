//! What people install and look at: packages, images, charts, dashboards, commands, releases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod command_line;
mod release;
mod top;
//! What operators install and watch: the chart, MinIO's operator, dashboards and alerts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod cases;
mod chart;
mod dashboards;
mod operator;
mod pod;
mod pods;
mod prometheus;
mod rendered;
