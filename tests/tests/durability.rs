//! What was acknowledged is there: after a kill, after a power cut, after a full disk.
//!
//! The tests draw at random and print their seed. `DURABILITY_SEED` repeats a run as far as the scheduler lets it;
//! `DURABILITY_TIMES` makes it so many times as long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a run that failed is repeated by the seed it printed")]

#[path = "durability/content.rs"]
mod content;
#[path = "durability/disk.rs"]
mod disk;
#[path = "durability/expectation.rs"]
mod expectation;
#[path = "durability/first_start.rs"]
mod first_start;
#[path = "durability/full_disk.rs"]
mod full_disk;
#[path = "durability/kill.rs"]
mod kill;
#[path = "durability/power_cut.rs"]
mod power_cut;
#[path = "durability/random.rs"]
mod random;
#[path = "durability/recording.rs"]
mod recording;
#[path = "durability/repair.rs"]
mod repair;
#[path = "durability/writer.rs"]
mod writer;
