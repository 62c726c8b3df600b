//! The status of the roots of a store.

use jiff::Timestamp;

use super::anchor::Anchor;
use super::id::RootId;
use super::look::{Seen, State, without_entry};
use super::mark::Purpose;
use super::records::RecordCount;
use super::set::Roots;
use crate::error::Result;

/// What is known of the roots of a store.
#[non_exhaustive]
pub struct RootsStatus {
    /// The anchor, if the store has a store key.
    pub anchor: Option<Anchor>,
    /// The root whose removal was cut off, or is under way.
    pub removing: Option<RootId>,
    /// What is under way or was cut off, such as a removal, in words; also that nobody knows.
    pub under_way: Option<String>,
    /// The roots, in the order of the configuration.
    pub roots: Vec<RootStatus>,
    /// The roots that have an entry in the store and are not configured here; an error if the entries cannot be listed.
    pub not_configured: Result<Vec<RootId>>,
    /// The records by their form; an error if they cannot be listed.
    pub records: Result<RecordCount>,
}

/// What is known of one root.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RootStatus {
    /// The id.
    pub id: RootId,
    /// The state.
    pub state: RootState,
    /// The state in words.
    pub detail: String,
    /// The time of this look, if the root opened at it. What a server saw before is in its metrics.
    pub opened_at: Option<Timestamp>,
}

/// The state of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootState {
    /// It opens the store key.
    Opens,
    /// It has no entry.
    NoEntry,
    /// Its entry holds another store key.
    OtherKey,
    /// Its entry does not open under it.
    Foreign,
    /// It is another root of the config once more.
    Same,
    /// It does not answer.
    Away,
    /// It refuses.
    Refused,
}

impl RootsStatus {
    /// Returns how many of the roots open the store key.
    pub fn open(&self) -> usize {
        self.roots.iter().filter(|root| root.state == RootState::Opens).count()
    }
}

impl Roots {
    /// Asks every root, and counts the records.
    ///
    /// # Errors
    ///
    /// The anchor cannot be read.
    pub async fn status(&self) -> Result<RootsStatus> {
        let seen = self.look().await?;
        let under_way = seen.told_of_mark();
        let Seen { anchor, mark, states } = seen;
        let removing =
            mark.ok().flatten().filter(|mark| mark.purpose == Purpose::Remove).map(|mark| mark.root);
        let roots = states.into_iter().map(|(id, state)| {
            let detail = match &state {
                State::NoEntry if anchor.is_some() => without_entry(&id),
                state => state.told(anchor.as_ref()),
            };
            let state = match &state {
                State::Opens(key) if anchor.is_some_and(|anchor| !anchor.names(key)) => RootState::OtherKey,
                State::Opens(_) => RootState::Opens,
                State::NoEntry => RootState::NoEntry,
                State::Same(_) => RootState::Same,
                State::Foreign(_) => RootState::Foreign,
                State::Away(_) => RootState::Away,
                State::Refused(_) => RootState::Refused,
            };
            let opened_at = (state == RootState::Opens).then(Timestamp::now);
            RootStatus { id, state, detail, opened_at }
        });
        let roots = roots.collect();
        let not_configured = self.not_configured().await;
        let records = self.count_records().await;
        Ok(RootsStatus { anchor, removing, under_way, roots, not_configured, records })
    }
}
