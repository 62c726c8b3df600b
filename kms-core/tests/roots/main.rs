//! Roots: whatever is away, wrong, lost or cut off, no record is, and no fresh store key comes over live data.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod away;
mod changes;
mod cuts;
mod earlier;
mod exclusion;
mod foreign;
mod hooked;
mod incomplete;
mod lost;
mod mocks;
mod opened;
mod races;
mod removals;
mod running;
mod same;
mod starts;
mod unreadable;
mod written_back;
