//! The store. Each entry is one secret.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::primitives::Blob;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, SecretListEntry};
use kms_core::cache::policy::CALL_TIMEOUT;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, StoreCapabilities, next_segments};
use kms_core::{Error, ErrorKind, KeyName, ListQuery, Page, Result, StoreStatus};

use super::config::SecretsConfig;
use super::presence::{Deletion, Presence, told_by};
use super::refusals::{Right, no_answer, refused};
use crate::client::{Connected, STATUS_AGE, Upstream, load, look_again};
use crate::error::{Attempt, Failure};
use crate::recent::Recent;

/// How long AWS may take to finish an immediate deletion, or to show a new secret everywhere.
const SETTLE: Duration = Duration::from_secs(5);
/// The most names that one call lists.
const PAGE: i32 = 100;

/// Entries that are secrets of AWS Secrets Manager, as KES keeps them.
///
/// A secret has the entry's name, and its value is the record. A create is atomic at AWS. A deleted secret can be
/// restored for the recovery window. Until the window ends there is no entry of that name, and none can be made.
pub struct SecretsManager {
    config: SecretsConfig,
    upstream: Upstream<Client>,
    region: String,
    /// Entries made here so recently that AWS may not show them yet.
    made: Recent<EntryName>,
    /// Entries that were erased here at once, and so recently that AWS may still show them.
    erased: Recent<EntryName>,
}

impl SecretsManager {
    /// Creates a store with the settings of `config`.
    ///
    /// Nothing is asked of Secrets Manager yet. So an AWS that is away, or that refuses the credentials, shows in the
    /// operations.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: a setting cannot be used, or no region was found.
    pub async fn open(config: SecretsConfig) -> Result<Self> {
        config.validate()?;
        let Connected { sdk, login } = load(&config.connection).await?;
        Ok(Self {
            upstream: Upstream::of(Client::new(&sdk), "AWS Secrets Manager", login),
            region: sdk.region().map(ToString::to_string).unwrap_or_default(),
            config,
            made: Recent::new(SETTLE),
            erased: Recent::new(SETTLE),
        })
    }

    /// Returns the command that restores a deleted entry.
    pub(super) fn restore_command(&self, name: &str) -> String {
        format!("aws secretsmanager restore-secret --secret-id {name} --region {}", self.region)
    }

    /// Returns in words when a secret of a listing was or will be deleted; `None` if it is not.
    pub(super) fn deletion_of(secret: &SecretListEntry) -> Option<String> {
        secret.deleted_date.map(|date| Deletion::at(date).to_string())
    }

    /// Lists all secrets whose names begin with `prefix`. With `deleted`, the list has also those that were deleted.
    pub(super) async fn secrets(&self, prefix: &str, deleted: bool) -> Result<Vec<SecretListEntry>> {
        let name = Filter::builder().key(FilterNameStringType::Name).values(prefix).build();
        let filters = (!prefix.is_empty()).then(|| vec![name]);
        let (mut secrets, mut next) = (Vec::new(), None);
        loop {
            let call = self.client().list_secrets().max_results(PAGE).set_next_token(next);
            let call = call.set_filters(filters.clone()).include_planned_deletion(deleted);
            let answer = self.upstream.call(Instant::now() + CALL_TIMEOUT, call.send()).await;
            let answer = answer.map_err(|failure| refused(failure, "list secrets", Right::List))?;
            let list = answer.secret_list.ok_or_else(|| no_answer().into_error("list secrets"))?;
            secrets.extend(list);
            next = answer.next_token;
            if next.is_none() {
                return Ok(secrets);
            }
        }
    }

    /// Asks AWS whether there is a secret of this name.
    pub(super) async fn look(&self, deadline: Instant, name: &str) -> Attempt<Presence> {
        let call = self.client().describe_secret().secret_id(name);
        match self.upstream.call(deadline, call.send()).await {
            Ok(answer) if answer.name.is_none() => Err(no_answer()),
            Ok(answer) => Ok(match answer.deleted_date {
                Some(date) => Presence::Deleted(Some(Deletion::at(date))),
                None => {
                    Presence::There(answer.version_ids_to_stages.unwrap_or_default().into_keys().collect())
                }
            }),
            Err(failure) if failure.is_about_absence() => Ok(Presence::Absent),
            Err(failure) => Err(failure),
        }
    }

    fn client(&self) -> &Client {
        self.upstream.client()
    }

    /// Does the same with the rights of a policy for KES, which cannot describe a secret.
    async fn look_without_describe(&self, deadline: Instant, name: &str) -> Attempt<Presence> {
        match self.look(deadline, name).await {
            Err(failure) if failure.kind == ErrorKind::Denied => {}
            outcome => return outcome,
        }
        match self.read(deadline, name).await {
            Ok(_) => Ok(Presence::There(Vec::new())),
            Err(failure) => told_by(&failure).ok_or(failure),
        }
    }

    /// Returns the error of a read that brought no value: there is no such secret, or it cannot be read.
    ///
    /// `None` means that the secret may become visible in a moment.
    async fn unread(&self, deadline: Instant, name: &EntryName, failure: Failure) -> Option<Error> {
        let what = || format!("read secret '{name}'");
        let is_absence = failure.kind == ErrorKind::NotFound;
        if !is_absence && !failure.is_about_state() {
            return Some(refused(failure, what(), Right::Get));
        }
        if is_absence && self.made.get(name).is_some() && look_again(deadline).await {
            return None;
        }
        let error = |kind, why: String| Some(Error::with_source(kind, what(), why));
        let presence = match self.look(deadline, name.as_str()).await {
            Ok(presence) => presence,
            // Without the right to describe, the text decides.
            Err(lacks) if lacks.kind == ErrorKind::Denied => match told_by(&failure) {
                Some(presence) => presence,
                None if is_absence => {
                    let why = format!("whether there is such a secret is not known: {failure}; and {lacks}");
                    return error(ErrorKind::Denied, why);
                }
                None => return Some(refused(failure, what(), Right::Get)),
            },
            Err(away) => return Some(away.into_error(what())),
        };
        match presence {
            Presence::Deleted(deletion) if self.is_kept(name, deletion) => {
                let restore = self.restore_command(name.as_str());
                error(ErrorKind::Deleted, format!("{failure}; what restores it is '{restore}'"))
            }
            Presence::Deleted(_) => error(ErrorKind::NotFound, failure.to_string()),
            Presence::Absent if failure.is_about_deletion() => {
                error(ErrorKind::NotFound, failure.to_string())
            }
            Presence::Absent if is_absence && !failure.is_about_no_value() => {
                error(ErrorKind::NotFound, failure.to_string())
            }
            Presence::There(_) | Presence::Absent if is_absence => {
                let why = format!("the secret is there and has no value that can be read ({failure})");
                error(ErrorKind::Corrupt, why)
            }
            Presence::There(_) | Presence::Absent => Some(refused(failure, what(), Right::Get)),
        }
    }

    /// Returns whether a deleted secret can be restored. What was erased at once may be seen for a moment longer.
    fn is_kept(&self, name: &EntryName, deletion: Option<Deletion>) -> bool {
        // The time may be that of the delete. Then it says nothing of a window.
        let may_have_window = self.config.recovery_window > 0 && !name.is_hidden();
        deletion.is_some_and(Deletion::is_ahead) || may_have_window && self.erased.get(name).is_none()
    }

    async fn read(&self, deadline: Instant, name: &str) -> Attempt<Option<SecretBytes>> {
        let call = self.client().get_secret_value().secret_id(name);
        let answer = self.upstream.call(deadline, call.send()).await?;
        if answer.name.is_none() {
            return Err(no_answer());
        }
        let text = answer.secret_string.map(String::into_bytes);
        Ok(text.or_else(|| answer.secret_binary.map(Blob::into_inner)).map(SecretBytes::new))
    }

    /// Makes a secret. `token` becomes the id of its version, by which AWS and this store recognise a repeated call.
    async fn write(
        &self,
        deadline: Instant,
        name: &EntryName,
        record: &SecretBytes,
        token: &str,
    ) -> Attempt<()> {
        let call = self.client().create_secret().name(name.as_str()).client_request_token(token);
        let call = call.set_kms_key_id(self.config.kms_key.clone());
        let call = match std::str::from_utf8(record.expose()) {
            Ok(text) => call.secret_string(text),
            Err(_) => call.secret_binary(Blob::new(record.expose())),
        };
        match self.upstream.call(deadline, call.send()).await?.name {
            Some(_) => Ok(()),
            None => Err(no_answer()),
        }
    }

    /// Deletes a secret, which can be restored for a number of days. Zero erases it at once.
    async fn remove(&self, name: &EntryName, window: u32) -> Result<()> {
        let what = || format!("delete secret '{name}'");
        let deadline = Instant::now() + CALL_TIMEOUT;
        let absent = |why: String| Err(Error::with_source(ErrorKind::NotFound, what(), why));
        // The store looks first, because AWS accepts the immediate deletion of a secret that is not there.
        let looked = self.look_without_describe(deadline, name.as_str()).await;
        match looked.map_err(|failure| refused(failure, what(), Right::Describe))? {
            Presence::There(_) => {}
            Presence::Absent if self.made.get(name).is_some() => {}
            Presence::Absent => return absent("there is no secret of that name".to_owned()),
            Presence::Deleted(deletion) => {
                let when = deletion.map(|deletion| deletion.to_string()).unwrap_or_default();
                return absent(format!("it was deleted before{when}"));
            }
        }
        let call = self.client().delete_secret().secret_id(name.as_str());
        let call = match window {
            0 => call.force_delete_without_recovery(true),
            days => call.recovery_window_in_days(i64::from(days)),
        };
        let end = match self.upstream.call(deadline, call.send()).await {
            Ok(answer) if answer.name.is_none() => return Err(no_answer().into_error(what())),
            Ok(answer) => answer.deletion_date.map(|date| Deletion::at(date).to_string()).unwrap_or_default(),
            // The answer to an earlier attempt was lost, or another server was faster.
            Err(failure) if failure.is_about_deletion() => String::new(),
            Err(failure) => return Err(refused(failure, what(), Right::Delete)),
        };
        self.made.forget(name);
        if window == 0 {
            self.erased.note(name.clone(), ());
            tracing::warn!(key = %name, "an entry was deleted for ever");
        } else {
            let restore = self.restore_command(name.as_str());
            tracing::warn!(key = %name, "a key was deleted{end}; what restores it is '{restore}'");
        }
        Ok(())
    }

    /// Returns the error of a create that AWS refused because of the state of a secret of that name.
    ///
    /// `None` means that the name is about to become free.
    async fn refused_by_state(&self, patience: Instant, name: &EntryName, failure: Failure) -> Option<Error> {
        let what = format!("create secret '{name}'");
        let exists = |why: String| Some(Error::with_source(ErrorKind::AlreadyExists, what.clone(), why));
        let deletion = match self.look(Instant::now() + CALL_TIMEOUT, name.as_str()).await {
            Ok(Presence::There(_)) => return exists("there is a secret of that name".to_owned()),
            Ok(Presence::Deleted(deletion)) => deletion,
            Ok(Presence::Absent) | Err(_) if failure.is_about_deletion() => None,
            Err(away) if away.kind.is_outage() => return Some(away.into_error(what)),
            Ok(Presence::Absent) | Err(_) => return Some(refused(failure, what, Right::Create)),
        };
        if !self.is_kept(name, deletion) && look_again(patience).await {
            return None;
        }
        let when = deletion.map(|deletion| deletion.to_string()).unwrap_or_default();
        let restore = self.restore_command(name.as_str());
        tracing::error!(
            key = %name,
            "a key of this name was deleted{when}: none can be made until AWS has erased it; \
             what restores it is '{restore}'"
        );
        exists(format!("it was deleted{when}, and can be restored: {restore}"))
    }
}

#[async_trait]
impl KeyStore for SecretsManager {
    fn capabilities(&self) -> StoreCapabilities {
        let capabilities = StoreCapabilities::shared("aws.secretsmanager").settling_in(SETTLE);
        if self.config.recovery_window > 0 { capabilities.keeping_deleted() } else { capabilities }
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        let mut token = [0; 16];
        kms_core::primitives::fill_random(&mut token)?;
        let token = hex::encode(token);
        let (deadline, patience) = (Instant::now() + CALL_TIMEOUT, Instant::now() + SETTLE);
        loop {
            let failure = match self.write(deadline, name, record, &token).await {
                Ok(()) => break,
                Err(failure) => failure,
            };
            if failure.is_about_state() {
                match self.refused_by_state(patience, name, failure).await {
                    Some(error) => return Err(error),
                    None => continue,
                }
            }
            if failure.kind == ErrorKind::AlreadyExists
                && let Ok(Presence::There(versions)) = self.look(deadline, name.as_str()).await
                && versions.contains(&token)
            {
                // An earlier attempt made the secret, and its answer was lost.
                break;
            }
            return Err(refused(failure, format!("create secret '{name}'"), Right::Create));
        }
        self.made.note(name.clone(), ());
        Ok(())
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        loop {
            match self.read(deadline, name.as_str()).await {
                Ok(Some(record)) => return Ok(record),
                Ok(None) => {
                    let what = format!("read secret '{name}'");
                    return Err(Error::with_source(ErrorKind::Corrupt, what, "the secret has no value"));
                }
                Err(failure) => {
                    if let Some(error) = self.unread(deadline, name, failure).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        // Of what belongs to a key nothing is kept: it would stand in the way of the next one of its name.
        self.remove(name, if name.is_hidden() { 0 } else { self.config.recovery_window }).await
    }

    async fn erase(&self, name: &EntryName) -> Result<()> {
        self.remove(name, 0).await
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        let what = || format!("restore secret '{name}'");
        let call = self.client().restore_secret().secret_id(name.as_str());
        match self.upstream.call(Instant::now() + CALL_TIMEOUT, call.send()).await {
            Ok(answer) if answer.name.is_none() => Err(no_answer().into_error(what())),
            Ok(_) => Ok(()),
            Err(failure) => Err(refused(failure, what(), Right::Restore)),
        }
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        let secrets = self.secrets(directory, false).await?;
        let secrets = secrets.into_iter().filter(|secret| secret.deleted_date.is_none());
        let mut names: Vec<_> = secrets.filter_map(|secret| secret.name).collect();
        names.retain(|name| name.starts_with(directory));
        names.sort_unstable();
        Ok(next_segments(directory, names.iter().map(String::as_str)))
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let secrets = self.secrets(query.prefix, false).await?;
        let names = secrets.into_iter().filter(|secret| secret.deleted_date.is_none());
        // Secrets of others may have names that no key has. The slots of later versions have such names, too.
        let names = names.filter_map(|secret| secret.name).filter(|name| query.matches(name));
        let mut names: Vec<_> = names.filter_map(|name| KeyName::new(name).ok()).collect();
        names.sort_unstable();
        names.dedup();
        let more = names.len() > query.limit;
        names.truncate(query.limit);
        Ok(Page { names, more })
    }

    fn place(&self, name: &EntryName) -> String {
        format!("secret '{name}' in AWS Secrets Manager ({})", self.region)
    }

    async fn status(&self) -> Result<StoreStatus> {
        if self.upstream.answered_within(STATUS_AGE) {
            return Ok(StoreStatus::ok(Duration::ZERO));
        }
        let began = Instant::now();
        let call = self.client().list_secrets().max_results(1);
        match self.upstream.call(began + CALL_TIMEOUT, call.send()).await {
            Ok(answer) if answer.secret_list.is_none() => {
                Err(no_answer().into_error("ask AWS Secrets Manager how it is"))
            }
            Ok(_) => Ok(StoreStatus::ok(began.elapsed())),
            // The right to list is not needed to serve keys.
            Err(failure) if failure.kind == ErrorKind::Denied => {
                let error = refused(failure, "list secrets", Right::List);
                Ok(StoreStatus::ok(began.elapsed()).degraded(error.chain().to_string()))
            }
            Err(failure) => Err(failure.into_error("ask AWS Secrets Manager how it is")),
        }
    }
}
