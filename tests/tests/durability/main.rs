//! What was acknowledged is there: after a kill, after a power cut, after a full disk.
//!
//! The tests draw at random and print their seed. `DURABILITY_SEED` repeats a run as far as the scheduler lets it;
//! `DURABILITY_TIMES` makes it so many times as long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a run that failed is repeated by the seed it printed")]

mod disk;
mod expectation;
mod first_start;
mod full_disk;
mod kill;
mod power_cut;
mod random;
mod recording;
mod repair;
mod writer;
