//! The key management service: what clients ask for, done with AWS KMS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeyState, MacAlgorithmSpec};
use kms_core::{
    CacheCounters, Capabilities, Cipher, DataKey, Error, ErrorKind, ImportedKey, KeyInfo, KeyName, Kms,
    ListQuery, Page, Request, Result, SecretBytes, StoreStatus,
};
use sha2::{Digest, Sha256};

use crate::cell::Held;
use crate::client::{CALL_TIMEOUT, Upstream, load};
use crate::cmk::{Cmk, Purpose, TAG_CREATOR, View, Working, describe, look_again, make, not_seen, retire};
use crate::config::AwsConfig;
use crate::error::Failure;
use crate::format::{self, Kind, Parts};
use crate::names::Names;
use crate::working::{Refusal, Worker, digest_of};

/// How long an answer of AWS tells that it can be reached.
const STATUS_AGE: Duration = Duration::from_secs(5);

/// Keys that are CMKs of AWS KMS.
///
/// A key's name is the alias of its CMK, which never leaves AWS. Data encryption keys are sealed in this process
/// under working keys that AWS wraps, so that neither bill nor latency grows with every object. Nothing is stored:
/// any server with the same prefix opens what another sealed.
///
/// AWS cannot open what was sealed elsewhere under imported bytes, so `import` is not supported.
pub struct AwsKms {
    names: Arc<Names>,
    worker: Worker,
}

/// What is with a key's CMK, and what helps.
pub(crate) enum State {
    Usable,
    /// It is there, disabled or of another kind.
    Unusable(String),
    /// It goes.
    Pending(String),
}

impl AwsKms {
    /// Checks `config` and makes ready to serve.
    ///
    /// Fails with `InvalidInput`. Nothing is asked of AWS KMS yet, so an AWS that is away or refuses us shows in the
    /// operations. Background work runs on the tokio runtime that is current here, until this is dropped.
    pub async fn open(config: AwsConfig) -> Result<Self> {
        config.validate()?;
        Self::start(config).await
    }

    /// Makes ready to serve with a configuration that was checked, or derived from one that was.
    pub(crate) async fn start(config: AwsConfig) -> Result<Self> {
        let upstream = Upstream::new(&load(&config.connection).await?);
        let names = Names::start(config, upstream);
        Ok(Self { worker: Worker::new(Arc::clone(&names)), names })
    }

    pub(crate) fn upstream(&self) -> &Upstream {
        &self.names.upstream
    }

    /// Looks what is with a key's CMK.
    pub(crate) async fn state(&self, request: &Request, name: &KeyName) -> Result<State> {
        let view = self.names.view(request, name).await?;
        Ok(match view.value.unusable() {
            None => State::Usable,
            Some(why) if view.value.is_pending() => State::Pending(why),
            Some(why) => State::Unusable(why),
        })
    }

    async fn usable(&self, request: &Request, name: &KeyName) -> Result<Arc<Cmk>> {
        let view = self.names.view(request, name).await?;
        view.value.usable().map(Arc::clone)
    }

    /// Finds a key to seal with under the CMK that the name stands for.
    async fn working(&self, request: &Request, name: &KeyName, context: &[u8]) -> Result<Arc<Working>> {
        let cmk = self.usable(request, name).await?;
        let outcome = self.working_of(request, name, &cmk, context).await;
        if let Err(error) = &outcome {
            self.note_failure(name, error);
        }
        outcome
    }

    /// Notes a key that AWS does not let us use, unless it is because of its deletion.
    fn note_failure(&self, name: &KeyName, error: &Error) {
        let is_fault = matches!(error.kind(), ErrorKind::Denied | ErrorKind::Disabled);
        if is_fault && self.names.known(name).is_none_or(|cmk| !cmk.is_deleted()) {
            self.names.learn(name, Some(error));
        }
    }

    async fn working_of(
        &self,
        request: &Request,
        name: &KeyName,
        cmk: &Arc<Cmk>,
        context: &[u8],
    ) -> Result<Arc<Working>> {
        match self.worker.working(request, cmk, context).await {
            Err(error) if error.kind() == ErrorKind::Disabled => {
                // Is it another CMK since the alias was read?
                let now = self.names.view_after(request, name, Some(request.received)).await?;
                if now.value.cmk.id == cmk.id {
                    return Err(error);
                }
                self.worker.working(request, now.value.usable()?, context).await
            }
            outcome => outcome,
        }
    }

    /// Opens a ciphertext, and says that it is not authentic only of the CMK that the name stands for now.
    async fn open_sealed(
        &self,
        request: &Request,
        name: &KeyName,
        parsed: &(Kind, Parts<'_>),
        context: &[u8],
    ) -> Result<SecretBytes> {
        let not_authentic = || Error::new(ErrorKind::NotAuthentic, format!("decrypt with key '{name}'"));
        let mut view = self.names.view(request, name).await?;
        loop {
            let cmk = Arc::clone(view.value.usable()?);
            let digest = digest_of(parsed.1.blob, Some(context).filter(|_| parsed.0 == Kind::Single));
            if cmk.has_refused(&digest, self.names.config.any) {
                return Err(not_authentic());
            }
            match self.worker.open(request, &cmk, parsed, context).await {
                Ok(plaintext) => return Ok(plaintext),
                Err(Refusal::Other(error)) if error.kind() == ErrorKind::Disabled => {
                    // Is it another CMK since the alias was read?
                    let now = self.names.view_after(request, name, Some(request.received)).await?;
                    if now.value.cmk.id == cmk.id {
                        return Err(error);
                    }
                    view = now;
                }
                Err(Refusal::Other(error)) => return Err(error),
                Err(Refusal::Remembered) => return Err(not_authentic()),
                Err(Refusal::ByAws(error)) => {
                    // The alias may stand for another CMK since it was read.
                    let now = self.names.view_after(request, name, Some(request.received)).await?;
                    if now.value.cmk.id == cmk.id {
                        now.value.usable()?;
                        cmk.remember_refused(digest);
                        return Err(error);
                    }
                    view = now;
                }
            }
        }
    }

    async fn creator(&self, request: &Request, cmk: &Cmk) -> Result<String> {
        let what = || format!("describe key '{}'", cmk.name);
        let read = async || {
            let pass = self.names.gate.pass(request).await?;
            let (names, id, deadline) = (Arc::clone(&self.names), cmk.id.clone(), request.deadline);
            // In a task, which has the pass until the call ends, whoever leaves.
            let call = tokio::spawn(async move {
                let _pass = pass;
                let tags = names.upstream.client().list_resource_tags().key_id(id);
                names.upstream.call(deadline, tags.send()).await
            });
            let answer =
                call.await.map_err(|error| Error::with_source(ErrorKind::Internal, what(), error))?;
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
        capabilities.keeps_deleted = true;
        capabilities
    }

    async fn create(&self, request: &Request, name: &KeyName) -> Result<()> {
        let (names, name, asked) = (Arc::clone(&self.names), name.clone(), request.clone());
        self.names.gate.run(request, async move { create(&names, &name, &asked).await }).await
    }

    async fn import(&self, _: &Request, name: &KeyName, _: ImportedKey) -> Result<()> {
        let why = "AWS KMS cannot open what was sealed elsewhere under these bytes; make a new key";
        Err(Error::with_source(ErrorKind::Unsupported, format!("import key '{name}'"), why))
    }

    async fn describe(&self, request: &Request, name: &KeyName) -> Result<KeyInfo> {
        let cmk = &self.usable(request, name).await?;
        Ok(KeyInfo {
            name: name.clone(),
            cipher: Cipher::Aes256,
            created_at: cmk.created_at,
            created_by: self.creator(request, cmk).await?,
            fingerprint: None,
        })
    }

    async fn list(&self, request: &Request, query: &ListQuery<'_>) -> Result<Page> {
        let ListQuery { prefix, after, limit } = *query;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let (names, deadline) = (Arc::clone(&self.names), request.deadline);
        let list = async move {
            let query = ListQuery { prefix: &prefix, after: after.as_deref(), limit };
            list(&names, &query, deadline).await
        };
        self.names.gate.run(request, list).await
    }

    async fn delete(&self, request: &Request, name: &KeyName) -> Result<()> {
        let view = self.names.view_after(request, name, Some(request.received)).await?;
        let (names, asked) = (Arc::clone(&self.names), request.clone());
        self.names.gate.run(request, async move { delete(&names, &view.value, &asked).await }).await
    }

    async fn generate(&self, request: &Request, name: &KeyName, context: &[u8]) -> Result<DataKey> {
        self.working(request, name, context).await?.generate(context)
    }

    async fn encrypt(
        &self,
        request: &Request,
        name: &KeyName,
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>> {
        self.working(request, name, context).await?.seal(plaintext, context)
    }

    async fn decrypt(
        &self,
        request: &Request,
        name: &KeyName,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<SecretBytes> {
        if let Some(parsed) = format::parse(ciphertext) {
            let opened = self.open_sealed(request, name, &parsed, context).await;
            if let Err(error) = &opened {
                self.note_failure(name, error);
            }
            return opened;
        }
        self.usable(request, name).await?;
        let why = "it was not sealed by a key in AWS KMS";
        Err(Error::with_source(ErrorKind::NotAuthentic, format!("decrypt with key '{name}'"), why))
    }

    async fn hmac(&self, request: &Request, name: &KeyName, message: &[u8]) -> Result<[u8; 32]> {
        let cmk = self.usable(request, name).await?;
        let any = self.names.config.any;
        let fresh = |held: &Held<String>| held.began.elapsed() < any;
        let held = if let Some(held) = cmk.hmac.get().filter(|held| fresh(held)) {
            held
        } else {
            let creator = request.identity.to_string();
            let fetch = || find_or_make_hmac(Arc::clone(&self.names), name.clone(), creator.clone());
            cmk.hmac.fetch_with_leave((&self.names.gate, request), None, fresh, fetch).await?
        };
        // AWS takes 4,096 bytes at most.
        let digest = Blob::new(Sha256::digest(message).to_vec());
        let (names, name, deadline) = (Arc::clone(&self.names), name.clone(), request.deadline);
        let make = async move { hmac(&names, &name, &held.value, digest, deadline).await };
        self.names.gate.run(request, make).await
    }

    fn counters(&self) -> Option<CacheCounters> {
        Some(self.names.counters.numbers())
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
        Ok(match self.names.unreadable.describe() {
            Some(why) => status.degraded(why),
            None => status,
        })
    }
}

/// Fails if the caller left while it was looked what there is: nothing has begun yet.
fn still_awaited(request: &Request, what: impl FnOnce() -> String) -> Result<()> {
    if request.is_abandoned() { Err(Error::new(ErrorKind::Abandoned, what())) } else { Ok(()) }
}

/// Makes a CMK behind the alias of a key, unless there is one.
async fn create(names: &Names, name: &KeyName, request: &Request) -> Result<()> {
    let what = || format!("create key '{name}'");
    let (upstream, alias) = (&names.upstream, names.aliases.key(name));
    // Looked for first, so that a loop over a name that exists makes no CMKs. The alias alone decides, whatever
    // becomes of its CMK.
    match describe(upstream, Instant::now() + CALL_TIMEOUT, &alias).await {
        Ok(_) => return Err(Error::new(ErrorKind::AlreadyExists, what())),
        Err(failure) if failure.kind == ErrorKind::NotFound => {
            if names.made_id(name).is_some() {
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

async fn list(names: &Names, query: &ListQuery<'_>, deadline: Instant) -> Result<Page> {
    let mut found = Vec::new();
    let mut marker = None;
    loop {
        let call = names.upstream.client().list_aliases().limit(100).set_marker(marker);
        let answer = names.upstream.call(deadline, call.send()).await;
        let answer = answer.map_err(|failure| failure.into_error("list keys"))?;
        let aliases = answer.aliases.unwrap_or_default();
        // An alias without a CMK is one of AWS's own that is not in use.
        let of_cmks = aliases.iter().filter(|alias| alias.target_key_id().is_some());
        let of_keys = of_cmks.filter_map(|alias| names.aliases.name_of(alias.alias_name()?));
        found.extend(of_keys.filter(|name| query.matches(name.as_str())));
        marker = answer.next_marker.filter(|_| answer.truncated);
        if marker.is_none() {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    Ok(Page { names: found, more })
}

/// Schedules the deletion of a key's CMKs, as the key was seen.
async fn delete(names: &Names, view: &View, request: &Request) -> Result<()> {
    let name = &view.cmk.name;
    let failed = |failure: Failure| not_seen(failure).into_error(format!("delete key '{name}'"));
    let (upstream, window) = (&names.upstream, names.config.deletion_window);
    let usable = view.usable();
    if let Err(error) = &usable
        && !view.is_pending()
    {
        return Err(error.clone());
    }
    // The CMK of the HMACs first: a delete that ends halfway is made again by the name.
    let hmac = match describe(upstream, Instant::now() + CALL_TIMEOUT, &names.aliases.hmac(name)).await {
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
        // What was left of it went now.
        Err(_) if hmac.is_some() => return Ok(()),
        Err(error) => return Err(error),
    };
    let until = retire(upstream, window, &cmk.id).await.map_err(|failure| {
        if failure.kind.leaves_outcome_unknown() {
            // Nothing is sealed with it until AWS tells how it is.
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
    Ok(())
}

/// Has AWS make an HMAC with the CMK `arn`, which may be new.
async fn hmac(names: &Names, name: &KeyName, arn: &str, digest: Blob, deadline: Instant) -> Result<[u8; 32]> {
    let what = || format!("compute an HMAC with key '{name}'");
    let mac = loop {
        let call = names.upstream.client().generate_mac().key_id(arn);
        let call = call.mac_algorithm(MacAlgorithmSpec::HmacSha256).message(digest.clone());
        match names.upstream.call(deadline, call.send()).await {
            Ok(answer) => break answer.mac.map(Blob::into_inner).unwrap_or_default(),
            Err(failure) if failure.kind == ErrorKind::NotFound && look_again(deadline).await => {}
            Err(failure) => return Err(not_seen(failure).into_error(what())),
        }
    };
    mac.try_into().map_err(|_| {
        Failure::of(ErrorKind::Unreachable, "AWS KMS answered with an HMAC of another size")
            .into_error(what())
    })
}

/// Finds the CMK that makes a key's HMACs; makes it at the first use.
async fn find_or_make_hmac(names: Arc<Names>, name: KeyName, creator: String) -> Result<String> {
    let deadline = Instant::now() + CALL_TIMEOUT;
    let alias = names.aliases.hmac(&name);
    let arn = |metadata: aws_sdk_kms::types::KeyMetadata| metadata.arn.unwrap_or(metadata.key_id);
    let failed = |failure: Failure| failure.into_error(format!("find the HMAC key of key '{name}'"));
    match describe(&names.upstream, deadline, &alias).await {
        Ok(metadata) => return Ok(arn(metadata)),
        Err(failure) if failure.kind == ErrorKind::NotFound => {}
        Err(failure) => return Err(failed(failure)),
    }
    match make(&names.upstream, &name, &creator, &alias, Purpose::Hmac).await {
        Ok(metadata) => Ok(arn(metadata)),
        Err(failure) if failure.kind == ErrorKind::AlreadyExists => loop {
            // Another server was first; its alias may take a moment to be seen.
            match describe(&names.upstream, deadline, &alias).await {
                Ok(metadata) => return Ok(arn(metadata)),
                Err(failure) if failure.kind == ErrorKind::NotFound && look_again(deadline).await => {}
                Err(failure) => return Err(failed(not_seen(failure))),
            }
        },
        Err(failure) => Err(failed(failure)),
    }
}
