//! Listings without the deleted keys, and of the deleted keys.

use std::collections::BTreeSet;
use std::time::Instant;

use tracing::{debug, warn};

use super::cache::{Cache, failed_read};
use super::markers::DeletedMarker;
use super::policy::CALL_TIMEOUT;
use super::run::under_way;
use crate::deletion::{DeletedKey, DeletedPage};
use crate::error::{ErrorKind, Result};
use crate::listing::{ListQuery, Page};
use crate::name::KeyName;
use crate::primitives::Fingerprint;
use crate::store::entry::{DELETED, UNDER_WAY};
use crate::store::survey::{at_once, fingerprint_of};
use crate::store::{EntryName, KeyStore};

/// Lists the keys that are not deleted. Those that the store lost and this server serves are among them.
pub async fn list<S: KeyStore>(cache: &Cache<S>, query: &ListQuery<'_>, deadline: Instant) -> Result<Page> {
    let mut page = list_stored(cache, query, deadline).await?;
    let end = page.names.last().filter(|_| page.more).cloned();
    let lost = cache.losses.served_names().into_iter().filter(|name| query.matches(name.as_str()));
    let lost: BTreeSet<_> = lost.filter(|name| end.as_ref().is_none_or(|end| name <= end)).collect();
    if !lost.is_empty() {
        page.names = lost.into_iter().chain(page.names).collect::<BTreeSet<_>>().into_iter().collect();
        page.more |= page.names.len() > query.limit;
        page.names.truncate(query.limit);
    }
    Ok(page)
}

/// Lists the keys of the store that are not deleted.
async fn list_stored<S: KeyStore>(
    cache: &Cache<S>,
    query: &ListQuery<'_>,
    deadline: Instant,
) -> Result<Page> {
    let mut listed = Page::default();
    let mut after = query.after.map(str::to_owned);
    let mut marked = None;
    loop {
        let limit = query.limit - listed.names.len();
        let page = ListQuery { after: after.as_deref(), limit, ..*query };
        let page = cache.backend.list_until(&page, deadline).await?;
        if page.names.is_empty() {
            return Ok(Page { more: false, ..listed });
        }
        let marked = match &mut marked {
            Some(marked) => marked,
            none => none.insert(marked_names(cache, deadline).await?),
        };
        after = page.names.last().map(|last| last.as_str().to_owned());
        let doubtful: Vec<_> = page.names.iter().filter(|name| marked.contains(name.as_str())).collect();
        let deletion = async |name: &KeyName| {
            let deadline = Instant::now() + CALL_TIMEOUT;
            let first = cache.entry_until(name, deadline).await?;
            cache.search_of(name, &first, deadline).deletion().await
        };
        let (mut hidden, mut outage) = (BTreeSet::new(), None);
        at_once(
            doubtful.iter().map(|name| (*name, Box::pin(deletion(name)))),
            |name, deletion| match deletion {
                Ok(Some(_)) => drop(hidden.insert(name.clone())),
                Err(error) if error.kind().is_outage() => outage = Some(error),
                // What cannot be read is there.
                Ok(None) | Err(_) => {}
            },
        )
        .await;
        if let Some(error) = outage {
            return Err(error);
        }
        listed.names.extend(page.names.into_iter().filter(|name| !hidden.contains(name)));
        if !page.more || listed.names.len() >= query.limit {
            return Ok(Page { more: page.more, ..listed });
        }
    }
}

/// Returns the names of which there is a marker of a deletion, whoever made it. Where they cannot be listed, there are none.
async fn marked_names<S: KeyStore>(cache: &Cache<S>, deadline: Instant) -> Result<BTreeSet<String>> {
    match cache.backend.watched(deadline, cache.backend.store.segments(DELETED)).await {
        Ok(names) => Ok(names.into_iter().collect()),
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Denied) => {
            debug!(
                "the markers of deleted keys cannot be listed, so their names are shown: {}",
                error.chain()
            );
            Ok(BTreeSet::new())
        }
        Err(error) => Err(error),
    }
}

/// Lists the deleted keys.
pub async fn deleted<S: KeyStore>(cache: &Cache<S>, query: &ListQuery<'_>) -> Result<DeletedPage> {
    let mut names = BTreeSet::new();
    for directory in [DELETED, UNDER_WAY] {
        let segments = segments(cache, directory).await?;
        let segments = segments.into_iter().filter(|name| query.matches(name));
        names.extend(segments.filter_map(|name| KeyName::new(name).ok()));
    }
    let mut names = names.into_iter();
    let mut listed = DeletedPage::default();
    let mut last = None;
    for name in names.by_ref().take(query.limit) {
        listed.keys.extend(deleted_keys(cache, &name).await?);
        last = Some(name);
    }
    listed.continue_at = last.filter(|_| names.next().is_some());
    Ok(listed)
}

/// Returns the deleted keys that have, or had, a name.
async fn deleted_keys<S: KeyStore>(cache: &Cache<S>, name: &KeyName) -> Result<Vec<DeletedKey>> {
    let mut fingerprints = BTreeSet::new();
    for directory in [DELETED, UNDER_WAY] {
        let segments = segments(cache, &format!("{directory}{name}/")).await?;
        fingerprints.extend(segments.iter().filter_map(|text| fingerprint_of(text)));
    }
    let first = match cache.entry_until(name, Instant::now() + CALL_TIMEOUT).await {
        Ok(first) => Some(first),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Deleted) => None,
        Err(error) if error.kind().is_outage() => return Err(error),
        Err(error) => {
            warn!(key = %name, cause = error.as_dyn(), "whether the key is deleted cannot be seen");
            return Ok(Vec::new());
        }
    };
    let mut keys = Vec::new();
    for fingerprint in fingerprints.into_iter().map(Fingerprint::from_bytes) {
        let mut key = DeletedKey::new(name.clone(), fingerprint);
        if let Some(first) = first.as_ref().filter(|first| *first.fingerprint() == fingerprint) {
            let search = cache.search_of(name, first, Instant::now() + CALL_TIMEOUT);
            let content = search.deletion().await.map_err(|error| failed_read(name, error))?;
            let under_way = under_way(&search).await?;
            if content.is_none() && under_way.is_none() {
                continue;
            }
            key.is_restorable = content.is_some();
            key.under_way = under_way.flatten().map(|marker| marker.what);
            if let Some(marker) = content.as_deref().and_then(DeletedMarker::parse) {
                key.deleted_at = marker.deleted_at();
                key.kept_until = marker.kept_until();
                let longest = cache.config.any.max(cache.config.offline);
                key.in_use_until = marker.deleted_at().and_then(|at| at.checked_add(longest).ok());
                key.deleted_by = marker.by;
            }
        } else if !was_begun(cache, name, &fingerprint).await? {
            // Nobody can tell who made the marker. Without its purge it is no key that was here.
            continue;
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Returns whether a purge of the key with this fingerprint was begun.
async fn was_begun<S: KeyStore>(cache: &Cache<S>, name: &KeyName, first: &Fingerprint) -> Result<bool> {
    match cache.backend.read_back(&EntryName::under_way(name, first)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind().is_outage() => Err(error),
        Err(_) => Ok(false),
    }
}

async fn segments<S: KeyStore>(cache: &Cache<S>, directory: &str) -> Result<Vec<String>> {
    let read = cache.backend.store.segments(directory);
    cache.backend.watched(Instant::now() + CALL_TIMEOUT, read).await
}
