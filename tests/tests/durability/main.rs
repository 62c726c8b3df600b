//! Every acknowledged entry survives a kill, a power cut and a full disk.
//!
//! The tests are random and print their seed. `DURABILITY_SEED` repeats a run as far as the scheduler allows.
//! `DURABILITY_TIMES` multiplies the length of a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a run that failed is repeated by the seed it printed")]

mod disk;
mod escrow;
mod expectation;
mod first_start;
mod full_disk;
mod kill;
mod power_cut;
mod random;
mod recording;
mod repair;
mod writer;
