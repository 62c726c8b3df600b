//! Working keys: AWS KMS gives and wraps them, and this process seals and opens with them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, EncryptionAlgorithmSpec};
use kms_core::cache::policy::{CALL_TIMEOUT, refresh_age};
use kms_core::primitives::{Cipher, SealingKey, SecretBytes};
use kms_core::{Error, ErrorKind, Request, Result};
use sha2::{Digest as _, Sha256};

use super::backend::{Backend, wanted};
use super::cmk::{Cmk, Digest};
use super::format::{self, Kind, Parts};
use super::lifecycle::{not_seen, secret_key};
use super::refusals::RefusalLimit;
use super::working_key::{OpenedKey, WorkingKey};
use crate::client::look_again;
use crate::error::{Attempt, Failure};

/// The member of the encryption context that holds the key's name.
const CONTEXT_NAME: &str = "kms:name";
/// The member that holds the SHA-256 of a client's context, where AWS is asked for each data encryption key.
const CONTEXT_DIGEST: &str = "kms:context-sha256";
/// With fewer uses than these, a working key is not fetched ahead because of its uses.
const USES_WORTH_AHEAD: u64 = 1000;

/// Finds working keys in memory, or gets them from AWS.
pub struct WorkingKeys {
    backend: Arc<Backend>,
    limit: Arc<RefusalLimit>,
}

/// Why something was not opened.
pub enum NotOpened {
    /// AWS called it inauthentic just now. Under another CMK it may be authentic.
    ByAws(Error, Digest),
    /// Anything else.
    Otherwise(Error),
}

impl From<Error> for NotOpened {
    fn from(error: Error) -> Self {
        Self::Otherwise(error)
    }
}

impl WorkingKeys {
    /// Creates the working keys of a backend; none is in memory.
    pub fn new(backend: Arc<Backend>) -> Self {
        Self { backend, limit: Arc::default() }
    }

    /// Returns a key to seal with: one that seals many times, or one for this context alone where keys are not reused.
    pub async fn sealing_key(
        &self,
        request: &Request,
        cmk: &Arc<Cmk>,
        context: &[u8],
    ) -> Result<Arc<WorkingKey>> {
        let reuse = self.backend.config.reuse;
        if reuse.max_age.is_zero() {
            let (backend, cmk, context) = (Arc::clone(&self.backend), Arc::clone(cmk), context.to_vec());
            let deadline = request.deadline;
            let fetch = async move { generate(&backend, &cmk, Some(&context), deadline).await.map(Arc::new) };
            return self.backend.gate.run(request, fetch).await;
        }
        loop {
            let held = cmk.sealing.get();
            if let Some(held) = held.as_ref()
                && held.began().elapsed() < reuse.max_age
                && held.uses.fetch_add(1, Ordering::Relaxed) < reuse.max_uses
            {
                let used_up = reuse.max_uses >= USES_WORTH_AHEAD
                    && held.uses.load(Ordering::Relaxed) >= reuse.max_uses / 5 * 4;
                let ends_soon = held.began().elapsed() >= refresh_age(reuse.max_age) || used_up;
                if ends_soon && cmk.next.get().is_none() {
                    let lead = reuse.max_age / 5;
                    cmk.next.refresh(|| fetch(Arc::clone(&self.backend), Arc::clone(cmk), lead));
                }
                return Ok(Arc::clone(held.value()));
            }
            if cmk.renew(reuse) {
                continue;
            }
            let offline = self.backend.config.offline;
            let stale = held.filter(|held| {
                held.began().elapsed() < offline && held.uses.load(Ordering::Relaxed) < reuse.max_uses
            });
            let leave = || self.backend.gate.pass(request);
            let ask = || fetch_missing(Arc::clone(&self.backend), Arc::clone(cmk));
            let fetched = cmk.next.fetch(wanted(request, None), |_| true, leave, ask).await;
            // Whoever waited for the same fetch may have renewed already.
            let renewed = cmk.renew(reuse);
            match (fetched, stale) {
                // The top of the loop counts this use, and looks at the key as at any other.
                (Ok(_), _) => {}
                _ if renewed => {}
                (Err(error), Some(stale)) if error.kind().is_outage() => {
                    stale.uses.fetch_add(1, Ordering::Relaxed);
                    return Ok(Arc::clone(stale.value()));
                }
                (Err(error), _) => return Err(error),
            }
            if Instant::now() >= request.deadline {
                return Err(Error::new(ErrorKind::Timeout, format!("seal with key '{}'", cmk.name)));
            }
        }
    }

    /// Opens a ciphertext that was sealed under this CMK and name.
    ///
    /// Fails with [`NotOpened::ByAws`] if it is AWS that calls the wrapped key inauthentic. Under another CMK it may be
    /// authentic.
    pub async fn open(
        &self,
        request: &Request,
        cmk: &Arc<Cmk>,
        (kind, parts): &(Kind, Parts<'_>),
        context: &[u8],
    ) -> std::result::Result<SecretBytes, NotOpened> {
        // A key that is bound to a context is never kept. Its ciphertext always goes to AWS, which judges the context.
        let look = || {
            let opened = cmk.opened.pin();
            let entry = opened.get(parts.blob).filter(|_| *kind == Kind::Working)?;
            self.backend.touch(&entry.used);
            entry.flight.get()
        };
        let in_memory = look();
        let key = if let Some(held) = in_memory {
            Arc::clone(held.value())
        } else {
            let context = Some(context).filter(|_| *kind == Kind::Single);
            self.opened_key(request, cmk, parts.blob, context).await?
        };
        Ok(key.open(parts.sealed, &format::associated_data(parts.header, context))?)
    }

    /// Asks AWS to open a wrapped key. A key that is bound to a context is used once; any other is kept.
    async fn opened_key(
        &self,
        request: &Request,
        cmk: &Arc<Cmk>,
        blob: &[u8],
        context: Option<&[u8]>,
    ) -> std::result::Result<Arc<SealingKey>, NotOpened> {
        let digest = digest_of(blob, context);
        if cmk.has_refused(&digest, self.backend.config.any) {
            return Err(
                Error::new(ErrorKind::NotAuthentic, format!("decrypt with key '{}'", cmk.name)).into()
            );
        }
        let token = self.limit.token(request.identity, &cmk.name).ok_or_else(|| {
            let why = "too many ciphertexts that AWS KMS calls inauthentic";
            Error::with_source(ErrorKind::Throttled, format!("decrypt with key '{}'", cmk.name), why)
        })?;
        let opened = if let Some(context) = context {
            let (backend, cmk, deadline) = (Arc::clone(&self.backend), Arc::clone(cmk), request.deadline);
            let (blob, context) = (blob.to_vec(), context.to_vec());
            let ask = async move {
                let opened = unwrap(&backend, &cmk, &blob, Some(&context), deadline).await;
                token.settle(&opened);
                opened
            };
            self.backend.gate.run(request, ask).await
        } else {
            let place = Place::new(cmk, blob);
            self.backend.touch(&place.entry.used);
            let mut token = Some(token);
            let leave = || self.backend.gate.pass(request);
            let ask = || {
                let (backend, cmk, blob) = (Arc::clone(&self.backend), Arc::clone(cmk), blob.to_vec());
                let (entry, token) = (Arc::clone(&place.entry), token.take());
                async move {
                    let opened = unwrap(&backend, &cmk, &blob, None, Instant::now() + CALL_TIMEOUT).await;
                    if let Some(token) = token {
                        token.settle(&opened);
                    }
                    if opened.is_ok() {
                        // Whoever asked first may have left, and taken the entry away.
                        cmk.opened.pin().insert(blob.into(), entry);
                    } else {
                        cmk.opened.pin().remove(blob.as_slice());
                    }
                    opened
                }
            };
            let opened = place.entry.flight.fetch(wanted(request, None), |_| true, leave, ask).await;
            let opened = opened.map(|held| Arc::clone(held.value()));
            // Where another client's fetch served this one, the token is still here.
            if let Some(token) = token {
                token.settle(&opened);
            }
            opened
        };
        opened.map_err(|error| match error.kind() {
            ErrorKind::NotAuthentic => NotOpened::ByAws(error, digest),
            _ => NotOpened::Otherwise(error),
        })
    }
}

/// The place of a key that is being opened. It is given up when whoever wants the key leaves and nobody opens it.
struct Place<'a> {
    cmk: &'a Cmk,
    blob: &'a [u8],
    entry: Arc<OpenedKey>,
}

impl<'a> Place<'a> {
    fn new(cmk: &'a Cmk, blob: &'a [u8]) -> Self {
        let entry = Arc::clone(cmk.opened.pin().get_or_insert_with(blob.into(), Arc::default));
        Self { cmk, blob, entry }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.entry.flight.is_vacant() {
            let opened = self.cmk.opened.pin();
            let _ = opened.remove_if(self.blob, |_, there| Arc::ptr_eq(there, &self.entry));
        }
    }
}

/// Returns the digest by which a refusal is remembered.
fn digest_of(blob: &[u8], context: Option<&[u8]>) -> Digest {
    let digest = Sha256::new().chain_update(blob);
    match context {
        None => digest.finalize().into(),
        Some(context) => digest.chain_update(Sha256::digest(context)).finalize().into(),
    }
}

/// Fetches a working key for a CMK that has none which may seal.
async fn fetch_missing(backend: Arc<Backend>, cmk: Arc<Cmk>) -> Result<Arc<WorkingKey>> {
    if cmk.is_sealing(backend.config.reuse) {
        // It came while this fetch was on its way to be begun.
        return Err(Error::new(ErrorKind::Internal, "fetch a working key that is there"));
    }
    fetch(backend, cmk, Duration::ZERO).await
}

/// Fetches a working key that will seal after `lead`, and keeps it for opening too.
async fn fetch(backend: Arc<Backend>, cmk: Arc<Cmk>, lead: Duration) -> Result<Arc<WorkingKey>> {
    let began = Instant::now();
    let fetched = generate(&backend, &cmk, None, began + CALL_TIMEOUT).await;
    backend.count_read(&fetched);
    let working = WorkingKey { lead, ..fetched? };
    if let Some((_, parts)) = format::parse(&working.header) {
        let entry = Arc::new(OpenedKey::default());
        backend.touch(&entry.used);
        entry.flight.put(Arc::clone(&working.key), began);
        cmk.opened.pin().insert(parts.blob.into(), entry);
    }
    Ok(Arc::new(working))
}

/// Asks AWS for a new key, in the clear and wrapped under the CMK for its name, and for `context` if there is one.
async fn generate(
    backend: &Backend,
    cmk: &Cmk,
    context: Option<&[u8]>,
    deadline: Instant,
) -> Result<WorkingKey> {
    let what = || format!("generate a working key of key '{}'", cmk.name);
    let answer = loop {
        let call = backend
            .upstream
            .client()
            .generate_data_key()
            .key_id(&cmk.arn)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(encryption_context(cmk, context)));
        match backend.upstream.call(deadline, call.send()).await {
            Ok(answer) => break answer,
            Err(failure)
                if failure.kind == ErrorKind::NotFound
                    && backend.made.get(&cmk.name).is_some_and(|made| made == cmk.id)
                    && look_again(deadline).await => {}
            Err(failure) => return Err(not_seen(failure).into_error(what())),
        }
    };
    let kind = if context.is_some() { Kind::Single } else { Kind::Working };
    let key = key_of(cmk, answer.key_id.as_deref(), answer.plaintext);
    let key = key.map_err(|failure| failure.into_error(what()))?;
    let header = answer.ciphertext_blob.and_then(|blob| format::header(kind, blob.as_ref()));
    let header = header.ok_or_else(|| {
        Failure::of(ErrorKind::Unreachable, "an answer of AWS KMS without a wrapped key").into_error(what())
    })?;
    Ok(WorkingKey { header, key, uses: AtomicU64::new(0), lead: Duration::ZERO })
}

/// Asks AWS to open a wrapped key, which has to be one of this CMK, for its name and for `context` if there is one.
async fn unwrap(
    backend: &Backend,
    cmk: &Cmk,
    blob: &[u8],
    context: Option<&[u8]>,
    deadline: Instant,
) -> Result<Arc<SealingKey>> {
    let what = || format!("open a working key of key '{}'", cmk.name);
    let call = backend
        .upstream
        .client()
        .decrypt()
        .key_id(&cmk.arn)
        .ciphertext_blob(Blob::new(blob))
        .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
        .set_encryption_context(Some(encryption_context(cmk, context)));
    let opened = match backend.upstream.call(deadline, call.send()).await {
        Ok(answer) => key_of(cmk, answer.key_id.as_deref(), answer.plaintext)
            .map_err(|failure| failure.into_error(what())),
        Err(failure) if failure.is_refused_ciphertext() => {
            Err(Error::with_source(ErrorKind::NotAuthentic, what(), failure))
        }
        Err(failure) => Err(not_seen(failure).into_error(what())),
    };
    backend.count_read(&opened);
    opened
}

fn encryption_context(cmk: &Cmk, context: Option<&[u8]>) -> HashMap<String, String> {
    let name = (CONTEXT_NAME.to_owned(), cmk.name.as_str().to_owned());
    let digest = context.map(|context| (CONTEXT_DIGEST.to_owned(), hex::encode(Sha256::digest(context))));
    [Some(name), digest].into_iter().flatten().collect()
}

/// Takes the key of an answer, which has to be one of this CMK.
fn key_of(cmk: &Cmk, answered: Option<&str>, plaintext: Option<Blob>) -> Attempt<Arc<SealingKey>> {
    if answered != Some(cmk.arn.as_str()) {
        return Err(Failure::of(ErrorKind::Unreachable, "AWS KMS answered for another CMK"));
    }
    Ok(Arc::new(SealingKey::new(secret_key(plaintext)?, Cipher::Aes256)))
}
