//! Makes text from elsewhere safe to show.

pub mod mask;
pub mod terminal;
