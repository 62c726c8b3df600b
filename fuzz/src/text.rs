//! The server's room for text that is shown.

#[path = "../../kms-server/src/text/mask.rs"]
pub mod mask;
#[path = "../../kms-server/src/text/terminal.rs"]
pub mod terminal;
