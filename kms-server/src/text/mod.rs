//! Text from elsewhere, made fit to be shown.

pub mod mask;
pub mod terminal;
