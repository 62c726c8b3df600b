//! The thread that writes to an open store, and the index in memory that readers see.

#[cfg_attr(all(test, feature = "model"), allow(dead_code, reason = "a stand-in takes its place"))]
mod files;
mod index;
#[cfg(test)]
#[cfg(feature = "model")]
mod models;
mod sync;
mod thread;

pub use index::{Absent, Index, Refusing};
pub use sync::Files;
pub use thread::{Job, Means, Writer};
