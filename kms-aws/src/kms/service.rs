//! The key management service: AWS KMS does what clients ask for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::KeyState;
use kms_core::cache::policy::CALL_TIMEOUT;
use kms_core::primitives::{Cipher, SecretBytes};
use kms_core::single_flight::Held;
use kms_core::transfer::StoredKey;
use kms_core::{
    CacheCounters, Capabilities, DataKey, Deletion, Error, ErrorKind, ImportedKey, KeyInfo, KeyName, Kms,
    ListQuery, Page, Request, Result, Rotation, StoreStatus,
};
use sha2::{Digest, Sha256};

use super::backend::{Backend, wanted};
use super::cmk::Cmk;
use super::config::AwsConfig;
use super::format::{self, Kind, Parts};
use super::hmac;
use super::lifecycle::{Purpose, TAG_CREATOR, aliases, bring_back, describe, make, not_seen, retire};
use super::names::Names;
use super::view::View;
use super::working_key::WorkingKey;
use super::working_keys::{NotOpened, WorkingKeys};
use crate::client::{STATUS_AGE, Upstream, load};
use crate::error::Failure;

/// Keys that are CMKs of AWS KMS.
///
/// A key's name is the alias of its CMK, which never leaves AWS. Data encryption keys are sealed in this process
/// under working keys that AWS wraps, so that neither bill nor latency grows with every object. Nothing is stored:
/// any server with the same prefix opens what another sealed.
///
/// AWS cannot open what was sealed elsewhere under imported bytes, so `import` is not supported.
pub struct AwsKms {
    backend: Arc<Backend>,
    names: Arc<Names>,
    keys: WorkingKeys,
}

/// Why there is nothing to back up.
const NEVER_LEAVES: &str = "keys of AWS KMS never leave AWS, so there is nothing to back up";

/// The state of a key's CMK, and what helps.
pub(super) enum State {
    Usable,
    /// The CMK is disabled, or of another kind.
    Unusable(String),
    /// The CMK is pending deletion.
    Pending(String),
}

impl AwsKms {
    /// Creates a service with the settings of `config`.
    ///
    /// Nothing is asked of AWS KMS yet. So an AWS that is away, or that refuses the credentials, shows in the
    /// operations. Background work runs on the tokio runtime that is current here, until the service is dropped.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: a setting cannot be used, or no region was found.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub async fn open(config: AwsConfig) -> Result<Self> {
        config.validate()?;
        Self::start(config).await
    }

    /// Creates a service with a configuration that was checked, or derived from one that was.
    pub(super) async fn start(config: AwsConfig) -> Result<Self> {
        let upstream = Upstream::new(&load(&config.connection).await?);
        let backend = Backend::new(config, upstream);
        let (names, keys) = (Names::start(Arc::clone(&backend)), WorkingKeys::new(Arc::clone(&backend)));
        Ok(Self { backend, names, keys })
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.backend.upstream
    }

    /// Returns the state of a key's CMK.
    pub(super) async fn state(&self, request: &Request, name: &KeyName) -> Result<State> {
        let view = self.names.view(request, name).await?;
        Ok(match view.unusable() {
            None => State::Usable,
            Some(why) if view.is_pending() => State::Pending(why),
            Some(why) => State::Unusable(why),
        })
    }

    /// Notes a key that AWS does not let us use, unless it is because of its deletion.
    fn noted<T>(&self, name: &KeyName, outcome: Result<T>) -> Result<T> {
        outcome.inspect_err(|error| {
            let is_fault = matches!(error.kind(), ErrorKind::Denied | ErrorKind::Disabled);
            if is_fault && self.names.known(name).is_none_or(|cmk| !cmk.is_deleted()) {
                self.names.learn(name, Some(error));
            }
        })
    }

    /// Returns a key to seal with under the CMK that the name stands for.
    async fn sealing_key(
        &self,
        request: &Request,
        name: &KeyName,
        context: &[u8],
    ) -> Result<Arc<WorkingKey>> {
        let cmk = self.names.usable(request, name).await?;
        let key = match self.keys.sealing_key(request, &cmk, context).await {
            Err(error) if error.kind() == ErrorKind::Disabled => {
                self.sealing_key_of_another(request, name, &cmk, error, context).await
            }
            key => key,
        };
        self.noted(name, key)
    }

    /// Returns a key to seal with under the CMK that the alias was moved to. Fails with `error` if it was not moved from
    /// the disabled `cmk`.
    async fn sealing_key_of_another(
        &self,
        request: &Request,
        name: &KeyName,
        cmk: &Cmk,
        error: Error,
        context: &[u8],
    ) -> Result<Arc<WorkingKey>> {
        let now = self.names.view_after(request, name, Some(request.received)).await?;
        if now.cmk.id == cmk.id {
            return Err(if now.is_pending() { now.usable().err().unwrap_or(error) } else { error });
        }
        self.keys.sealing_key(request, now.usable()?, context).await
    }

    /// Opens a ciphertext, and says that it is not authentic only of the CMK that the name stands for now.
    async fn open_sealed(
        &self,
        request: &Request,
        name: &KeyName,
        sealed: &(Kind, Parts<'_>),
        context: &[u8],
    ) -> Result<SecretBytes> {
        let mut view = self.names.view(request, name).await?;
        loop {
            let cmk = Arc::clone(view.usable()?);
            let (error, digest) = match self.keys.open(request, &cmk, sealed, context).await {
                Ok(plaintext) => return Ok(plaintext),
                Err(NotOpened::ByAws(error, digest)) => (error, Some(digest)),
                Err(NotOpened::Otherwise(error)) if error.kind() == ErrorKind::Disabled => (error, None),
                Err(NotOpened::Otherwise(error)) => return Err(error),
            };
            // The alias may stand for another CMK since it was read.
            view = self.names.view_after(request, name, Some(request.received)).await?;
            if view.cmk.id == cmk.id {
                if digest.is_some() || view.is_pending() {
                    view.usable()?;
                }
                if let Some(digest) = digest {
                    cmk.remember_refused(digest);
                }
                return Err(error);
            }
        }
    }

    /// Returns the identity of a key's creator, from the tag of its CMK; empty if the tag cannot be read.
    async fn creator(&self, request: &Request, cmk: &Cmk) -> Result<String> {
        let what = || format!("describe key '{}'", cmk.name);
        let read = async || {
            let (backend, id, deadline) = (Arc::clone(&self.backend), cmk.id.clone(), request.deadline);
            let call = async move {
                let tags = backend.upstream.client().list_resource_tags().key_id(id);
                Ok(backend.upstream.call(deadline, tags.send()).await)
            };
            let answer = self.backend.gate.run(request, call).await?;
            let tags = answer.map_err(|failure| not_seen(failure).into_error(what()))?.tags;
            let creator = tags.unwrap_or_default().into_iter().find(|tag| tag.tag_key() == TAG_CREATOR);
            Ok(creator.map(|tag| tag.tag_value().to_owned()).unwrap_or_default())
        };
        let read: Result<&String> = cmk.creator.get_or_try_init(read).await;
        match read {
            Ok(creator) => Ok(creator.clone()),
            // A policy without kms:ListResourceTags: the key can be described all the same.
            Err(error) if error.kind() == ErrorKind::Denied => Ok(String::new()),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Kms for AwsKms {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::all("AWS KMS");
        capabilities.import = false;
        capabilities.versions = false;
        capabilities.keeps_deleted = true;
        capabilities
    }

    async fn create(&self, request: &Request, name: &KeyName) -> Result<()> {
        let (names, backend) = (Arc::clone(&self.names), Arc::clone(&self.backend));
        let (name, asked) = (name.clone(), request.clone());
        self.backend.gate.run(request, async move { create(&backend, &names, &name, &asked).await }).await
    }

    async fn import(&self, _: &Request, name: &KeyName, _: ImportedKey) -> Result<()> {
        let why = "AWS KMS cannot open what was sealed elsewhere under these bytes; make a new key";
        Err(Error::with_source(ErrorKind::Unsupported, format!("import key '{name}'"), why))
    }

    async fn describe(&self, request: &Request, name: &KeyName) -> Result<KeyInfo> {
        let cmk = &self.names.usable(request, name).await?;
        Ok(KeyInfo::new(name.clone(), Cipher::Aes256)
            .created(cmk.created_at, self.creator(request, cmk).await?))
    }

    async fn list(&self, request: &Request, query: &ListQuery<'_>) -> Result<Page> {
        let ListQuery { prefix, after, limit } = *query;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let (backend, deadline) = (Arc::clone(&self.backend), request.deadline);
        let list = async move {
            let query = ListQuery { prefix: &prefix, after: after.as_deref(), limit };
            list(&backend, &query, deadline).await
        };
        self.backend.gate.run(request, list).await
    }

    async fn delete(&self, request: &Request, name: &KeyName) -> Result<Deletion> {
        let view = self.names.view_after(request, name, Some(request.received)).await?;
        let (names, backend, asked) = (Arc::clone(&self.names), Arc::clone(&self.backend), request.clone());
        self.backend.gate.run(request, async move { delete(&backend, &names, &view, &asked).await }).await
    }

    /// Cancels the deletion of the key's CMKs, and enables them.
    async fn restore(&self, request: &Request, name: &KeyName, resume: bool) -> Result<()> {
        let view = self.names.view_after(request, name, Some(request.received)).await?;
        let (names, backend, asked) = (Arc::clone(&self.names), Arc::clone(&self.backend), request.clone());
        self.backend
            .gate
            .run(request, async move { restore(&backend, &names, &view, &asked, resume).await })
            .await
    }

    /// Has AWS rotate the key material of the CMK, and seals with a new working key from then on.
    ///
    /// Other servers follow when their working keys end. The CMK of HMACs stays as it is.
    async fn rotate(&self, request: &Request, name: &KeyName, newest: Option<u32>) -> Result<Rotation> {
        if newest.is_some() {
            let why = "AWS KMS has no numbers for the versions of a key";
            return Err(Error::with_source(ErrorKind::Unsupported, format!("rotate key '{name}'"), why));
        }
        let cmk = self.names.usable(request, name).await?;
        let backend = Arc::clone(&self.backend);
        let rotated = self.backend.gate.run(request, async move { rotate(&backend, &cmk).await }).await;
        self.noted(name, rotated)?;
        Ok(Rotation::new(None, self.backend.config.reuse.max_age))
    }

    async fn exportable(&self, _: &Request, _: &ListQuery<'_>) -> Result<Page> {
        Err(Error::with_source(ErrorKind::Unsupported, "list the keys for a backup", NEVER_LEAVES))
    }

    async fn export(&self, _: &Request, name: &KeyName) -> Result<StoredKey> {
        let operation = format!("read key '{name}' for a backup");
        Err(Error::with_source(ErrorKind::Unsupported, operation, NEVER_LEAVES))
    }

    async fn generate(&self, request: &Request, name: &KeyName, context: &[u8]) -> Result<DataKey> {
        self.sealing_key(request, name, context).await?.generate(context)
    }

    async fn encrypt(
        &self,
        request: &Request,
        name: &KeyName,
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>> {
        self.sealing_key(request, name, context).await?.seal(plaintext, context)
    }

    async fn decrypt(
        &self,
        request: &Request,
        name: &KeyName,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<SecretBytes> {
        if let Some(sealed) = format::parse(ciphertext) {
            let opened = self.open_sealed(request, name, &sealed, context).await;
            return self.noted(name, opened);
        }
        self.names.usable(request, name).await?;
        let why = "it was not sealed by a key in AWS KMS";
        Err(Error::with_source(ErrorKind::NotAuthentic, format!("decrypt with key '{name}'"), why))
    }

    async fn hmac(&self, request: &Request, name: &KeyName, message: &[u8]) -> Result<[u8; 32]> {
        let cmk = self.names.usable(request, name).await?;
        let any = self.backend.config.any;
        let is_fresh = |held: &Held<String>| held.began().elapsed() < any;
        let creator = request.identity.to_string();
        let leave = || self.backend.gate.pass(request);
        let find = || hmac::find_or_make(Arc::clone(&self.backend), name.clone(), creator.clone());
        let held = cmk.hmac.fetch(wanted(request, None), is_fresh, leave, find).await?;
        // AWS takes 4,096 bytes at most.
        let digest = Blob::new(Sha256::digest(message).to_vec());
        let (backend, name, deadline) = (Arc::clone(&self.backend), name.clone(), request.deadline);
        let compute = async move { hmac::compute(&backend, &name, &held, digest, deadline).await };
        self.backend.gate.run(request, compute).await
    }

    fn is_away(&self) -> Option<bool> {
        Some(self.upstream().is_away())
    }

    fn counters(&self) -> Option<CacheCounters> {
        Some(self.backend.counters.numbers(self.names.cached()))
    }

    async fn status(&self) -> Result<StoreStatus> {
        let status = if self.upstream().answered_within(STATUS_AGE) {
            StoreStatus::ok(Duration::ZERO)
        } else {
            let began = Instant::now();
            let call = self.upstream().client().list_aliases().limit(1);
            let answer = self.upstream().call(began + CALL_TIMEOUT, call.send()).await;
            answer.map_err(|failure| failure.into_error("ask AWS KMS how it is"))?;
            StoreStatus::ok(began.elapsed())
        };
        Ok(self.names.unreadable.add_to(status))
    }
}

/// Fails if the caller left while AWS was asked what there is. Nothing has begun yet.
fn still_awaited(request: &Request, what: impl FnOnce() -> String) -> Result<()> {
    if request.is_abandoned() { Err(Error::new(ErrorKind::Abandoned, what())) } else { Ok(()) }
}

/// Makes a CMK behind the alias of a key, unless there is one.
async fn create(backend: &Backend, names: &Names, name: &KeyName, request: &Request) -> Result<()> {
    let what = || format!("create key '{name}'");
    let (upstream, alias) = (&backend.upstream, backend.aliases.key(name));
    // AWS is asked first, so that a loop over a name that exists makes no CMKs. The alias alone decides, whatever
    // becomes of its CMK.
    match describe(upstream, Instant::now() + CALL_TIMEOUT, &alias).await {
        Ok(_) => return Err(Error::new(ErrorKind::AlreadyExists, what())),
        Err(failure) if failure.kind == ErrorKind::NotFound => {
            if backend.made.get(name).is_some() {
                return Err(Error::new(ErrorKind::AlreadyExists, what()));
            }
        }
        Err(failure) => return Err(failure.into_error(what())),
    }
    still_awaited(request, what)?;
    let creator = request.identity.to_string();
    let made = make(upstream, name, &creator, &alias, Purpose::Key).await;
    let made = made.map_err(|failure| not_seen(failure).into_error(what()))?;
    let cmk = names.note_made(name, View::new(name, &made, None));
    // Nobody else has set it: the CMK is new.
    let _ = cmk.creator.set(creator);
    Ok(())
}

/// Has AWS rotate a CMK, and drops the working key under its former material.
async fn rotate(backend: &Backend, cmk: &Cmk) -> Result<()> {
    let what = || format!("rotate key '{}'", cmk.name);
    let call = backend.upstream.client().rotate_key_on_demand().key_id(&cmk.id);
    let answer = backend.upstream.call(Instant::now() + CALL_TIMEOUT, call.send()).await;
    answer.map_err(|failure| match failure.code.as_str() {
        "LimitExceededException" => Error::with_source(
            ErrorKind::Conflict,
            what(),
            "AWS KMS rotates a key 25 times on demand, and no more",
        ),
        "ConflictException" => Error::with_source(
            ErrorKind::Conflict,
            what(),
            "AWS KMS is rotating the key already: try again later",
        ),
        _ => not_seen(failure).into_error(what()),
    })?;
    cmk.end_sealing();
    Ok(())
}

async fn list(backend: &Backend, query: &ListQuery<'_>, deadline: Instant) -> Result<Page> {
    let aliases = aliases(&backend.upstream, deadline, "list keys").await?.into_iter();
    // An alias without a CMK is one of AWS's own that is not in use.
    let of_cmks = aliases.filter(|alias| alias.target_key_id().is_some());
    let of_keys = of_cmks.filter_map(|alias| backend.aliases.name_of(alias.alias_name()?));
    let mut found: Vec<_> = of_keys.filter(|name| query.matches(name.as_str())).collect();
    found.sort_unstable();
    found.dedup();
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    Ok(Page { names: found, more })
}

/// Schedules the deletion of a key's CMKs, as the key was seen.
async fn delete(backend: &Backend, names: &Names, view: &View, request: &Request) -> Result<Deletion> {
    let name = &view.cmk.name;
    let failed = |failure: Failure| not_seen(failure).into_error(format!("delete key '{name}'"));
    let (upstream, window) = (&backend.upstream, backend.config.deletion_window);
    let usable = view.usable();
    if let Err(error) = &usable
        && !view.is_pending()
    {
        return Err(error.clone());
    }
    // The CMK of the HMACs goes first: a delete that ends halfway is made again by the name.
    let hmac = match describe(upstream, Instant::now() + CALL_TIMEOUT, &backend.aliases.hmac(name)).await {
        Ok(there) if there.key_state != Some(KeyState::PendingDeletion) => Some(there),
        Ok(_) => None,
        Err(failure) if failure.kind == ErrorKind::NotFound => None,
        Err(failure) => return Err(failed(failure)),
    };
    still_awaited(request, || format!("delete key '{name}'"))?;
    if let Some(there) = &hmac {
        retire(upstream, window, there.key_id()).await.map_err(failed)?;
    }
    let cmk = match usable {
        Ok(cmk) => cmk,
        // What was left of the key went now.
        Err(_) if hmac.is_some() => return Ok(Deletion::restorable(view.until())),
        Err(error) => return Err(error),
    };
    let until = retire(upstream, window, &cmk.id).await.map_err(|failure| {
        if failure.kind.leaves_outcome_unknown() {
            // Nothing is sealed with the CMK until AWS tells its state.
            names.doubt(cmk);
        }
        failed(failure)
    })?;
    names.note_deleted(cmk, until);
    tracing::warn!(
        key = %name, cmk = cmk.arn, days = window,
        "a key was deleted; until AWS erases its CMK no other can be made of its name, and what restores it is \
         'aws kms cancel-key-deletion --key-id {id}' and 'aws kms enable-key --key-id {id}'",
        id = cmk.id
    );
    Ok(Deletion::restorable(until))
}

/// Cancels the deletion of a key's CMKs, as the key was seen.
///
/// AWS leaves a CMK disabled whose deletion was cancelled. With `resume` such a one is enabled: a restore was cut off there.
async fn restore(
    backend: &Backend,
    names: &Names,
    view: &View,
    request: &Request,
    resume: bool,
) -> Result<()> {
    let name = &view.cmk.name;
    let what = || format!("restore key '{name}'");
    let failed = |failure: Failure| not_seen(failure).into_error(what());
    let upstream = &backend.upstream;
    let conflict = |why| Err(Error::with_source(ErrorKind::Conflict, what(), why));
    let is_disabled = view.state == KeyState::Disabled;
    if !view.is_pending() && !resume {
        return conflict(if is_disabled {
            "key is not deleted, and its CMK is disabled: '--resume' enables it"
        } else {
            "key is not deleted"
        });
    }
    let hmac = match describe(upstream, Instant::now() + CALL_TIMEOUT, &backend.aliases.hmac(name)).await {
        Ok(there) => Some(there)
            .filter(|there| matches!(there.key_state, Some(KeyState::PendingDeletion | KeyState::Disabled))),
        Err(failure) if failure.kind == ErrorKind::NotFound => None,
        Err(failure) => return Err(failed(failure)),
    };
    still_awaited(request, what)?;
    // The CMK of the HMACs goes first: a restore that ends halfway is made again by the name.
    if let Some(there) = &hmac {
        bring_back(upstream, there.key_id()).await.map_err(failed)?;
    }
    if hmac.is_none() && !view.is_pending() && !is_disabled {
        return conflict("key is not deleted");
    }
    bring_back(upstream, &view.cmk.id).await.map_err(failed)?;
    names.note_restored(&view.cmk);
    Ok(())
}
