//! The commands, a module each: its arguments, and `run`.

pub mod backup;
pub mod check;
pub mod completion;
pub mod config;
pub mod escrow;
pub mod identity;
pub mod init;
pub mod key;
pub mod log;
pub mod ls;
pub mod man;
pub mod metric;
pub mod migrate;
pub mod policy;
pub mod postgres;
pub mod root;
pub mod root_key;
pub mod server;
pub mod status;
pub mod top;
pub mod update;
