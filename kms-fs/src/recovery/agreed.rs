//! A store in which everything agrees, as nearly every start finds it.

use std::panic::resume_unwind;
use std::thread;

use super::find::open_with_room;
use crate::config::FsConfig;
use crate::database::Engine;
use crate::entries::Entries;
use crate::error::OpenError;
use crate::journal::{Head, Journal, Mark, Whole};
use crate::keys::Header;

/// A store whose journal is whole and reaches exactly as far as mark and database say.
pub struct Agreed {
    pub header: Header,
    pub head: Head,
    /// The entries of the journal.
    pub entries: Entries,
    pub engine: Engine,
    pub journal: Journal,
    /// Whether the database was found to hold the same entries. If not, they have not been compared yet.
    pub is_compared: bool,
}

/// What a first look at a store found.
pub enum Look {
    Agreed(Box<Agreed>),
    /// Something is different, so everything has to be read and judged. The database may have been opened.
    Differs(Option<Result<Engine, OpenError>>),
}

/// Looks whether everything agrees.
///
/// The journal is read once, and its text is never in memory as a whole. With [`FsConfig::compare_later`] keys or more, the
/// entries of the database are not compared yet.
pub fn look(config: &FsConfig) -> Look {
    let path = &config.path;
    // An error shows again when everything is read.
    let Ok(Some(whole)) = Whole::read(path) else { return Look::Differs(None) };
    let (head, last, len) = (whole.head.clone(), whole.last, whole.len);
    let Ok(header) = Header::decode(&head.header, path) else { return Look::Differs(None) };
    if Mark::read(path) != Some((header.store_id, last))
        || header.store_id != head.store_id
        || header != header.in_present_format()
    {
        return Look::Differs(None);
    }
    // The journal could replace the database by itself, so the database is opened in place at once.
    let (engine, (entries, dead)) = thread::scope(|scope| {
        let opening = scope.spawn(|| open_with_room(config));
        let entries = whole.into_entries();
        (opening.join().unwrap_or_else(|why| resume_unwind(why)), entries)
    });
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => return Look::Differs(Some(Err(error))),
    };
    let reaches = matches!(engine.batch(), Ok(Some(batch)) if batch == last);
    let is_same_store = matches!(engine.header(), Ok(Some(found)) if found == head.header);
    let is_compared = entries.len() < config.compare_later;
    if !reaches || !is_same_store || (is_compared && !engine.holds(&entries, true).unwrap_or(false)) {
        return Look::Differs(Some(Ok(engine)));
    }
    match Journal::open_at(path, &head, len, last, dead) {
        Ok(journal) => Look::Agreed(Box::new(Agreed { header, head, entries, engine, journal, is_compared })),
        Err(_) => Look::Differs(Some(Ok(engine))),
    }
}
