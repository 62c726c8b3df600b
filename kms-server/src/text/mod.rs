//! Makes text from elsewhere safe to show.

pub mod chain;
pub mod mask;
pub mod terminal;
