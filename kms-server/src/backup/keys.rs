//! All keys of a key service, one after the other, for a backup.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use kms_core::transfer::StoredKey;
use kms_core::{ErrorKind, Identity, KeyName, Kms, ListQuery, Page, Request, Result};

/// How many keys are read at once. A Vault takes several requests for each, and one identity may make sixteen.
const AT_ONCE: usize = 8;

/// How long the read of a key, or of a page of names, may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pauses after which a read is tried again: an outage may be short, and so is a restore or a purge of a key.
const PAUSES: [Duration; 3] = [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4)];

/// A key that was listed.
pub enum Found {
    /// It was read.
    Key(Box<StoredKey>),
    /// It was deleted for ever since it was listed.
    DeletedMeanwhile(KeyName),
    /// It cannot be in a backup.
    LeftOut(KeyName, &'static str),
    /// It cannot be read, for this reason. Only [`Unreadable::LeaveOut`] brings it.
    Unreadable(KeyName, String),
}

/// What becomes of a backup by a key that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It fails.
    Fail,
    /// It has the other keys, and names this one.
    LeaveOut,
}

type Read = Pin<Box<dyn Future<Output = Result<Found>> + Send>>;

/// The keys of a key service, in byte order of their names. Names are listed page by page: a key that was there at the
/// beginning, and still is, stands on the page that has its place.
pub struct Keys {
    kms: Arc<dyn Kms>,
    identity: Identity,
    unreadable: Unreadable,
    names: VecDeque<KeyName>,
    /// The last name of the last page.
    after: Option<KeyName>,
    has_more: bool,
    reads: FuturesOrdered<Read>,
}

impl Keys {
    /// Lists the first names.
    ///
    /// # Errors
    ///
    /// Those of [`Kms::exportable`].
    pub async fn begin(kms: Arc<dyn Kms>, request: &Request, unreadable: Unreadable) -> Result<Self> {
        let page = kms.exportable(request, &ListQuery::prefix("")).await?;
        let mut keys = Self {
            kms,
            identity: request.identity,
            unreadable,
            names: VecDeque::new(),
            after: None,
            has_more: false,
            reads: FuturesOrdered::new(),
        };
        keys.take(page);
        Ok(keys)
    }

    /// Returns the next key; `None` after the last one.
    ///
    /// # Errors
    ///
    /// Those of [`Kms::exportable`] and [`Kms::export`]. Then there is no backup.
    pub async fn next(&mut self) -> Result<Option<Found>> {
        while self.reads.len() < AT_ONCE {
            if self.names.is_empty() && self.has_more {
                let page = list(&*self.kms, self.identity, self.after.as_ref()).await?;
                self.take(page);
            }
            let Some(name) = self.names.pop_front() else { break };
            let (kms, identity, unreadable) = (Arc::clone(&self.kms), self.identity, self.unreadable);
            self.reads.push_back(Box::pin(async move { read(&*kms, identity, &name, unreadable).await }));
        }
        self.reads.next().await.transpose()
    }

    fn take(&mut self, page: Page) {
        self.has_more = page.more && !page.names.is_empty();
        self.after = page.names.last().cloned().or(self.after.take());
        self.names = page.names.into();
    }
}

async fn list(kms: &dyn Kms, identity: Identity, after: Option<&KeyName>) -> Result<Page> {
    page(kms, identity, &ListQuery { after: after.map(KeyName::as_str), ..ListQuery::prefix("") }).await
}

/// Returns whether the service lists a key now.
async fn is_listed(kms: &dyn Kms, identity: Identity, name: &KeyName) -> Result<bool> {
    Ok(page(kms, identity, &ListQuery::prefix(name.as_str())).await?.names.contains(name))
}

async fn page(kms: &dyn Kms, identity: Identity, query: &ListQuery<'_>) -> Result<Page> {
    let mut pauses = PAUSES.iter();
    loop {
        match kms.exportable(&Request::new(identity, PATIENCE), query).await {
            Err(error) if error.kind().is_outage() => wait(pauses.next(), error).await?,
            page => return page,
        }
    }
}

async fn read(kms: &dyn Kms, identity: Identity, name: &KeyName, unreadable: Unreadable) -> Result<Found> {
    let mut pauses = PAUSES.iter();
    loop {
        let error = match kms.export(&Request::new(identity, PATIENCE), name).await {
            Ok(key) => return Ok(Found::Key(Box::new(key))),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::NotFound if !is_listed(kms, identity, name).await? => {
                return Ok(Found::DeletedMeanwhile(name.clone()));
            }
            // Somebody may make it anew, or the list of the store may be late.
            ErrorKind::NotFound if pauses.len() > 1 => wait(pauses.next(), error).await?,
            ErrorKind::NotFound => {
                return Ok(Found::LeftOut(name.clone(), "the key store lists it, and does not have it"));
            }
            ErrorKind::Deleted => {
                let why = "it is deleted, and the key store gives it out only after 'kms key restore'";
                return Ok(Found::LeftOut(name.clone(), why));
            }
            kind if kind.is_outage() => wait(pauses.next(), error).await?,
            ErrorKind::Conflict if pauses.len() > 0 => wait(pauses.next(), error).await?,
            kind if unreadable == Unreadable::LeaveOut && is_of_the_key(kind) => {
                return Ok(Found::Unreadable(name.clone(), error.chain().to_string()));
            }
            _ => return Err(error),
        }
    }
}

/// Returns whether an error is about one key. Others say that the store is away, or that the program is wrong.
fn is_of_the_key(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Corrupt
            | ErrorKind::NotAuthentic
            | ErrorKind::InvalidInput
            | ErrorKind::Denied
            | ErrorKind::Conflict
    )
}

/// Waits before another try; fails with `error` if there was the last one.
async fn wait(pause: Option<&Duration>, error: kms_core::Error) -> Result<()> {
    match pause {
        Some(pause) => tokio::time::sleep(*pause).await,
        None => return Err(error),
    }
    Ok(())
}
