//! Files of escrow.

#[path = "../../../kms-server/src/escrow/contents.rs"]
pub mod contents;
#[path = "../../../kms-server/src/escrow/line.rs"]
pub mod line;
#[path = "../../../kms-server/src/escrow/lives.rs"]
pub mod lives;
