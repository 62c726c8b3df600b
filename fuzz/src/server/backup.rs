//! Archives of backups, as they are once age has opened them.

#[path = "../../../kms-server/src/backup/facts.rs"]
pub mod facts;
#[path = "../../../kms-server/src/backup/reader.rs"]
pub mod reader;
#[path = "../../../kms-server/src/backup/tar_file.rs"]
pub mod tar_file;
#[path = "../../../kms-server/src/backup/time.rs"]
pub mod time;
#[path = "../../../kms-server/src/backup/writer.rs"]
pub mod writer;
