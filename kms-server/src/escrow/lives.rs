//! What became of each entry, by one file or by those of several servers.

use std::collections::HashMap;

use jiff::Timestamp;

use super::contents::Contents;
use super::line::{Place, Says, Sealed, Subject};

/// A record in escrow, and what became of its entry in the store.
pub struct Held {
    /// The number of the file.
    pub file: usize,
    pub(super) place: Place,
    /// The entry and the fingerprint of its key.
    pub subject: Subject,
    /// When the store was known to have it; before that, when it was written.
    pub at: Timestamp,
    /// What became of it.
    pub state: State,
    /// The sealed record; `None` if it is damaged, or was not kept.
    pub sealed: Option<Vec<u8>>,
    /// Whether the line's record is damaged.
    pub is_damaged: bool,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The store has it.
    Stored,
    /// Whether the store took it is not known.
    Unmarked,
    /// The store did not take it.
    Refused,
    /// Its key is deleted, and can be restored in the store.
    Deleted,
    /// The store was asked to remove it, and whether it did is not known.
    Removing,
    /// Another key had its name in the store afterwards. Nothing says that it was removed.
    Replaced,
    /// It was removed for ever.
    Gone,
}

impl State {
    /// Returns the state as a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Unmarked => "unmarked",
            Self::Refused => "refused",
            Self::Deleted => "deleted",
            Self::Removing => "removing",
            Self::Replaced => "replaced",
            Self::Gone => "gone",
        }
    }
}

/// Where and when a line says something.
#[derive(Clone, Copy)]
struct Moment {
    file: usize,
    order: usize,
    at: Timestamp,
}

impl Moment {
    /// Returns whether this is later. Within a file its order decides, and between files the clocks of the servers.
    fn is_after(self, other: Self) -> bool {
        if self.file == other.file { self.order > other.order } else { self.at > other.at }
    }
}

/// What happened to the entries of one name.
#[derive(Default)]
struct Events<'a> {
    gone: Vec<(Moment, &'a Subject)>,
    removing: Vec<(Moment, &'a Subject)>,
    kept: Vec<(Moment, &'a Subject)>,
    deleted: Vec<(Moment, &'a Subject)>,
    restored: Vec<(Moment, &'a Subject)>,
    replaced: Vec<(Moment, &'a Subject)>,
    /// Marks that the store has a record.
    stored: Vec<(Moment, &'a Subject)>,
}

impl Events<'_> {
    fn state(&self, of: &Subject, since: Moment) -> State {
        let is_later = |(moment, subject): &(Moment, &Subject), since: Moment| {
            subject.is_about(of) && moment.is_after(since)
        };
        if self.gone.iter().any(|event| is_later(event, since)) {
            return State::Gone;
        }
        if self.replaced.iter().any(|event| is_later(event, since)) {
            return State::Replaced;
        }
        let counts = |event: &(Moment, &Subject)| {
            is_later(event, since) && !self.restored.iter().any(|restored| is_later(restored, event.0))
        };
        if self.deleted.iter().any(counts) {
            State::Deleted
        } else if self.removing.iter().any(|removing| self.is_in_doubt(of, since, removing)) {
            State::Removing
        } else {
            State::Stored
        }
    }

    /// Returns whether a removal leaves it open whether the store has a record.
    ///
    /// Only the file of the server that removes says how that ended. What another server read or wrote meanwhile may have been
    /// before the store did it, whatever the clocks say.
    fn is_in_doubt(&self, of: &Subject, since: Moment, (removing, subject): &(Moment, &Subject)) -> bool {
        let is_later_there = |(moment, line): &(Moment, &Subject)| {
            moment.file == removing.file && moment.is_after(*removing) && line.is_about(subject)
        };
        let has_ended =
            [&self.kept, &self.deleted, &self.restored, &self.gone].into_iter().flatten().any(is_later_there);
        if has_ended || !subject.is_about(of) {
            return false;
        }
        if since.file == removing.file {
            removing.is_after(since)
        } else {
            !self.stored.iter().any(is_later_there)
        }
    }
}

/// Returns each record of the files, in their order.
///
/// A deletion counts if it is later than the moment at which the store was last known to have the entry.
pub fn held(files: Vec<Contents>) -> Vec<Held> {
    let mut marks: HashMap<(usize, Place), (Moment, bool)> = HashMap::new();
    let mut events: HashMap<&str, Events<'_>> = HashMap::new();
    for (file, contents) in files.iter().enumerate() {
        let mut subjects: HashMap<Place, &Subject> = HashMap::new();
        for (order, fact) in contents.facts.iter().enumerate() {
            let moment = Moment { file, order, at: fact.at };
            let mut mark = |entry: Place, subject: &Subject, is_stored: bool| {
                // A mark of another record than the one in its place has no effect; it is told as damage.
                if subjects.get(&entry).is_some_and(|there| there.may_be(subject)) {
                    let (_, was_stored) = marks.entry((file, entry)).or_insert((moment, is_stored));
                    let is_stored = is_stored || *was_stored;
                    marks.insert((file, entry), (moment, is_stored));
                }
            };
            match &fact.says {
                Says::Entry { subject, .. } => drop(subjects.insert(fact.place, subject)),
                Says::Stored { entry, subject } => {
                    mark(*entry, subject, true);
                    events.entry(&subject.name).or_default().stored.push((moment, subject));
                }
                Says::Refused { entry, subject } => mark(*entry, subject, false),
                Says::Gone(subject) => {
                    events.entry(&subject.name).or_default().gone.push((moment, subject));
                }
                Says::Removing(subject) => {
                    events.entry(&subject.name).or_default().removing.push((moment, subject));
                }
                Says::Kept(subject) => {
                    events.entry(&subject.name).or_default().kept.push((moment, subject));
                }
                Says::Replaced(subject) => {
                    events.entry(&subject.name).or_default().replaced.push((moment, subject));
                }
                Says::Deleted(subject) => {
                    events.entry(&subject.name).or_default().deleted.push((moment, subject));
                }
                Says::Restored(subject) => {
                    events.entry(&subject.name).or_default().restored.push((moment, subject));
                }
                Says::Begins { .. } | Says::Torn { .. } => {}
            }
        }
    }
    let mut states = Vec::new();
    for (file, contents) in files.iter().enumerate() {
        for (order, fact) in contents.facts.iter().enumerate() {
            let Says::Entry { subject, .. } = &fact.says else { continue };
            let written = Moment { file, order, at: fact.at };
            let (since, mark) = match marks.get(&(file, fact.place)) {
                Some((moment, is_stored)) => (*moment, Some(*is_stored)),
                None => (written, None),
            };
            let later =
                events.get(&*subject.name).map_or(State::Stored, |events| events.state(subject, since));
            let state = match (mark, later) {
                (Some(false), _) => State::Refused,
                (None, State::Gone) => State::Gone,
                (None, _) => State::Unmarked,
                (Some(true), later) => later,
            };
            states.push((since.at, state));
        }
    }
    let mut states = states.into_iter();
    let mut held = Vec::new();
    for (file, contents) in files.into_iter().enumerate() {
        for fact in contents.facts {
            let Says::Entry { subject, sealed } = fact.says else { continue };
            let Some((at, state)) = states.next() else { break };
            let is_damaged = sealed == Sealed::Damaged;
            let sealed = match sealed {
                Sealed::Whole(sealed) if !sealed.is_empty() => Some(sealed),
                _ => None,
            };
            held.push(Held { file, place: fact.place, subject, at, state, sealed, is_damaged });
        }
    }
    held
}
