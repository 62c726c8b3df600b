//! `/v1/backup/create`: all keys, sealed to the recipients in the config, as a stream.
//!
//! Nobody who calls it can open the answer by that. Its end tells whether it is whole: a backup that failed breaks the
//! connection or the stream off, and lacks the trailer and the last piece that age demands.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use kms_core::{Error, ErrorKind, Identity, ListQuery};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::account::{OwnAccount, client_closed_request};
use super::answer::{Answer, Part, Reject};
use super::backups::TheOnly;
use super::call::Call;
use super::deleted;
use super::route::Route;
use super::state::Api;
use super::under_way::Running;
use crate::backup::{ArchiveWriter, Found, Keys, Manifest, Summary, Time, Unreadable};
use crate::conn::here;
use crate::conn::watch::Watch;
use crate::recipients::Recipients;
use crate::telemetry::audit::BackedUp;

/// How many pieces wait for the client. Each has the size of a piece of age, or of a key if that is larger.
const AHEAD: usize = 4;

/// The least bytes of a piece.
const PIECE: usize = 64 << 10;

/// How long a client may take no piece. Then it has gone, or its disk has.
const STALLED: Duration = Duration::from_secs(60);

/// Answers with the archive.
pub async fn create(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        #[serde(default)]
        leave_out_unreadable: bool,
    }

    here::leave().await;
    let asked: Asked = deleted::read(call, body).await?;
    let unreadable = if asked.leave_out_unreadable { Unreadable::LeaveOut } else { Unreadable::Fail };
    let api = &call.client.api;
    let Some(recipients) = api.backups.recipients() else {
        // Nobody is told to name recipients where that is a mistake, too.
        if let Err(error) = api.kms.exportable(&call.request()?, &ListQuery::prefix("")).await
            && error.kind() == ErrorKind::Unsupported
        {
            return Err(refused(call, &error));
        }
        let message = "this server makes no backups: its config names nobody who could open them; set backup.recipients to \
                       recipients of age, or back up the stopped store with 'kms backup create --config FILE'";
        return Err(Reject::new(StatusCode::NOT_IMPLEMENTED, message));
    };
    let Some(the_only) = api.backups.begin() else {
        return Err(Reject::new(StatusCode::CONFLICT, "another backup is under way"));
    };
    let room = api.audit.reserve(call.path).map_err(|_| call.account.refuse())?;
    let began = Time::now();
    let keys = Keys::begin(Arc::clone(&api.kms), &call.request()?, unreadable).await;
    let keys = keys.map_err(|error| refused(call, &error))?;
    let (sender, parts) = mpsc::channel(AHEAD);
    let answer = Answer::backup(parts, call.expiry);
    let making = Making {
        api: Arc::clone(api),
        watch: Arc::clone(&call.client.watch),
        identity: call.identity,
        route: call.route.clone(),
        recipients,
        sender,
        _running: api.effects.begin(),
        _the_only: the_only,
    };
    tokio::spawn(making.run(keys, began, call.account.hand_over(room)));
    Ok(answer)
}

/// Refuses a backup whose keys cannot be listed.
fn refused(call: &Call<'_>, error: &Error) -> Reject {
    match error.kind() {
        ErrorKind::Denied => {
            tracing::error!(
                path = call.path,
                error = error.as_dyn(),
                "no backup: the key store denies the list of keys"
            );
            let message = "the key store denies this server the list of its keys, and a backup without the list may lack some; \
                           allow it to list, then try again";
            Reject::new(StatusCode::BAD_GATEWAY, message)
        }
        ErrorKind::Unsupported => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            let message = why.unwrap_or_else(|| "operation is not supported by the key store".to_owned());
            Reject::new(StatusCode::NOT_IMPLEMENTED, message)
        }
        _ => call.failed(error),
    }
}

/// Why a backup ended before its end.
enum Ended {
    /// Its client hung up, or took nothing for too long.
    Left,
    /// Its client may not have it any more.
    Refused,
    /// A key cannot be read, or cannot be in an archive.
    Failed(String),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Ended {
    fn status(&self) -> StatusCode {
        match self {
            Self::Left => client_closed_request(),
            Self::Refused => StatusCode::FORBIDDEN,
            Self::Failed(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

/// A backup that is being made, by a task of its own.
struct Making {
    api: Arc<Api>,
    watch: Arc<Watch>,
    identity: Option<Identity>,
    route: Route,
    recipients: Arc<Recipients>,
    sender: mpsc::Sender<Part>,
    _running: Running,
    _the_only: TheOnly,
}

impl Making {
    /// Makes the archive, and accounts for it when it is over.
    async fn run(self, keys: Keys, began: Time, account: OwnAccount) {
        let mut counted = 0;
        let recipients = self.recipients.count();
        let (status, sent) = match self.make(keys, began, &mut counted).await {
            Ok((manifest, end)) => {
                let sent = self.send(Part::End(end)).await.is_ok();
                let Manifest { keys, versions, left_out, unreadable, .. } = manifest;
                let identity = self.identity.map(tracing::field::display);
                tracing::info!(
                    identity,
                    keys,
                    versions,
                    left_out,
                    unreadable,
                    recipients,
                    sent,
                    "a backup was made"
                );
                (StatusCode::OK, sent)
            }
            Err(ended) => {
                let why = match &ended {
                    Ended::Left => "its client left, or took nothing any more",
                    Ended::Refused => "its client may not have it any more",
                    Ended::Failed(why) => why,
                };
                let identity = self.identity.map(tracing::field::display);
                tracing::error!(identity, keys = counted, "a backup was broken off: {why}");
                (ended.status(), false)
            }
        };
        let account = account.of_backup(BackedUp { keys: counted, recipients });
        // The answer is on its way already, so a line that cannot be written refuses nothing.
        let _ = account.give(status, sent).await;
    }

    /// Makes the archive. Returns what its end tells the client.
    async fn make(
        &self,
        mut keys: Keys,
        began: Time,
        counted: &mut u64,
    ) -> Result<(Manifest, HeaderValue), Ended> {
        let pieces = Pieces::default();
        let sealed = self.recipients.seal(pieces.clone())?;
        let mut archive = ArchiveWriter::new(sealed, self.api.kms.capabilities().backend, began);
        while let Some(found) = self.next(&mut keys).await? {
            self.may_go_on()?;
            match found {
                Found::Key(key) => archive.key(&key)?,
                Found::DeletedMeanwhile(name) => {
                    tracing::info!(key = %name, "not in the backup: it was deleted meanwhile");
                    archive.deleted_meanwhile(&name);
                }
                Found::LeftOut(name, why) => {
                    tracing::warn!(key = %name, "not in the backup: {why}");
                    archive.leave_out(&name, why);
                }
                Found::Unreadable(name, why) => {
                    tracing::error!(key = %name, "not in the backup, since it cannot be read: {why}");
                    archive.unreadable(&name, &why);
                }
            }
            *counted = archive.manifest().keys;
            if let Some(piece) = pieces.take(PIECE) {
                self.send(Part::Bytes(piece)).await?;
            }
        }
        let (sealed, manifest) = archive.finish()?;
        sealed.finish()?;
        if let Some(piece) = pieces.take(0) {
            self.send(Part::Bytes(piece)).await?;
        }
        let summary = Summary::of(&manifest, self.recipients.count());
        let summary = serde_json::to_string(&summary).map_err(io::Error::from)?;
        let end = HeaderValue::try_from(summary).map_err(io::Error::other)?;
        Ok((manifest, end))
    }

    /// Waits for the next key, or for the client to hang up.
    async fn next(&self, keys: &mut Keys) -> Result<Option<Found>, Ended> {
        tokio::select! {
            biased;
            () = self.sender.closed() => Err(Ended::Left),
            found = keys.next() => found.map_err(|error| Ended::Failed(error.chain().to_string())),
        }
    }

    async fn send(&self, part: Part) -> Result<(), Ended> {
        self.sender.send_timeout(part, STALLED).await.map_err(|_| Ended::Left)
    }

    /// Checks that the client may still have it: a reload may have taken the right, and its certificate may have ended.
    fn may_go_on(&self) -> Result<(), Ended> {
        let access = self.api.access.load();
        let target = self.route.target(self.route.path, "");
        let is_allowed = self.watch.access_end().is_none()
            && self.identity.is_some_and(|identity| access.authorize(&identity, &target).is_ok());
        if is_allowed { Ok(()) } else { Err(Ended::Refused) }
    }
}

/// The sealed bytes that were not sent yet.
#[derive(Clone, Default)]
struct Pieces(Arc<Mutex<Vec<u8>>>);

impl Pieces {
    /// Takes all bytes if there are more than `least`.
    fn take(&self, least: usize) -> Option<Vec<u8>> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (bytes.len() > least).then(|| std::mem::take(&mut *bytes))
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
