//! A restore or a purge that is under way: of several one goes on.

use std::time::Instant;

use jiff::Timestamp;
use tracing::warn;

use super::cache::{Cache, failed_read};
use super::entries::{put_marker, remove};
use super::markers::{UnderWayMarker, json};
use super::policy::CALL_TIMEOUT;
use super::search::Search;
use crate::deletion::Resolution;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::name::KeyName;
use crate::primitives::fill_random;
use crate::store::belonging::Marker;
use crate::store::{EntryName, KeyStore};
use crate::sync::sleep;

/// Returns what the marker `.p` says; inside it `None` if it is of a later release.
pub async fn under_way<S: KeyStore>(search: &Search<'_, S>) -> Result<Option<Option<UnderWayMarker>>> {
    let marker = EntryName::under_way(search.name, search.first.fingerprint());
    let read = search.read_marker(&marker).await.map_err(|error| failed_read(search.name, error))?;
    Ok(match read {
        Marker::There(content) => Some(UnderWayMarker::parse(&content)),
        Marker::Absent | Marker::Foreign(_) | Marker::Denied(_) => None,
    })
}

/// Creates the error of what meets the `.p` of another run. `way` is the command that goes on if that run is dead.
pub fn is_under_way(name: &KeyName, other: Option<&UnderWayMarker>, way: Resolution) -> Error {
    let (what, since) = match other {
        Some(other) => (other.what.as_str(), format!(" since {} by {}", other.at, other.by)),
        None => ("restore or a purge", String::new()),
    };
    let why = format!(
        "a {what} of the key is under way{since}: if its server is dead, 'kms key {} {name} --resume' goes on",
        way.as_str()
    );
    Error::with_source(ErrorKind::Conflict, format!("use key '{name}'"), why)
}

/// A restore or a purge that holds `.p`.
pub struct Run {
    marker: EntryName,
    id: String,
}

impl Run {
    /// Makes `.p`. With `resume` the marker of another run counts as left by a dead server, and this run takes its place.
    pub async fn begin<S: KeyStore>(
        cache: &Cache<S>,
        search: &Search<'_, S>,
        caller: Identity,
        what: Resolution,
        resume: bool,
    ) -> Result<Self> {
        let name = search.name;
        let operation = || format!("{} key '{name}'", what.as_str());
        let marker = EntryName::under_way(name, search.first.fingerprint());
        let mut id = [0; 16];
        fill_random(&mut id)?;
        let run = Self { marker, id: hex::encode(id) };
        let says = json(&UnderWayMarker {
            what,
            run: run.id.clone(),
            at: Timestamp::now().to_string(),
            by: caller.to_string(),
        })?;
        let mut is_made = put_marker(search, &run.marker, &says, operation).await?;
        if !is_made {
            let other = under_way(search).await?;
            let other = other.as_ref().and_then(Option::as_ref);
            if !resume {
                return Err(is_under_way(name, other, what));
            }
            // In the place of the other marker, so that its run ends at its next look if it is not dead after all.
            remove(cache, &run.marker).await?;
            is_made = put_marker(search, &run.marker, &says, operation).await?;
        }
        if is_made { Ok(run) } else { Err(is_under_way(name, None, what)) }
    }

    /// Returns what `.d` says now that nobody but this run may remove it; `None` if it is gone.
    pub async fn deletion<S: KeyStore>(
        &self,
        cache: &Cache<S>,
        search: &Search<'_, S>,
    ) -> Result<Option<Vec<u8>>> {
        sleep(cache.backend.store.capabilities().settle).await;
        let search = cache.search_of(search.name, search.first, Instant::now() + CALL_TIMEOUT);
        self.is_mine(cache, &search).await?;
        search.deletion().await.map_err(|error| failed_read(search.name, error))
    }

    /// Fails if another run took the place of this one.
    pub async fn is_mine<S: KeyStore>(&self, cache: &Cache<S>, search: &Search<'_, S>) -> Result<()> {
        let search = cache.search_of(search.name, search.first, Instant::now() + CALL_TIMEOUT);
        match under_way(&search).await? {
            Some(Some(marker)) if marker.run == self.id => Ok(()),
            Some(other) => {
                let way = other.as_ref().map_or(Resolution::Restore, |other| other.what);
                Err(is_under_way(search.name, other.as_ref(), way))
            }
            None => {
                let why = "another server restored or purged the key meanwhile";
                Err(Error::with_source(ErrorKind::Conflict, format!("use key '{}'", search.name), why))
            }
        }
    }

    /// Removes `.p`. What the run was for is done, or was not begun.
    pub async fn end<S: KeyStore>(self, cache: &Cache<S>, search: &Search<'_, S>) {
        if let Err(error) = remove(cache, &self.marker).await {
            warn!(
                key = %search.name, entry = %self.marker,
                "a marker could not be removed, so what restores or deletes the key next needs '--resume': {}",
                error.chain()
            );
        }
    }
}
