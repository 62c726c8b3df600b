//! Working keys: what AWS KMS wraps, and what seals and opens in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, EncryptionAlgorithmSpec};
use kms_core::{Cipher, Error, ErrorKind, Request, Result, SealingKey, SecretBytes, SecretKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::client::CALL_TIMEOUT;
use crate::cmk::{Cmk, Opened, Working, look_again, not_seen};
use crate::error::Failure;
use crate::format::{self, Kind, Parts};
use crate::limit::{RefusalLimit, Token};
use crate::names::Names;

/// The member of the encryption context that holds the key's name.
pub const CONTEXT_NAME: &str = "kms:name";
/// The member that holds the SHA-256 of a client's context, where AWS is asked for each data encryption key.
const CONTEXT_DIGEST: &str = "kms:context-sha256";

/// Seals and opens with working keys.
pub struct Worker {
    pub names: Arc<Names>,
    limit: Arc<RefusalLimit>,
}

impl Worker {
    /// Makes a worker without any key.
    pub fn new(names: Arc<Names>) -> Self {
        Self { names, limit: Arc::default() }
    }

    /// Returns a key that AWS wrapped for this CMK and name: one that seals many times, or for this context alone.
    pub async fn working(&self, request: &Request, cmk: &Arc<Cmk>, context: &[u8]) -> Result<Arc<Working>> {
        if !self.names.config.reuse.max_age.is_zero() {
            return self.sealing_key(request, cmk).await;
        }
        let (names, cmk, context) = (Arc::clone(&self.names), Arc::clone(cmk), context.to_vec());
        let deadline = request.deadline;
        let fetch = async move {
            fetch_key(&names, &cmk, Kind::Single, Some(&context), deadline).await.map(Arc::new)
        };
        self.names.gate.run(request, fetch).await
    }

    /// Opens a ciphertext that was sealed under this CMK and name.
    ///
    /// Fails with `Refusal::ByAws` when it is AWS that calls the wrapped key inauthentic: under another CMK it may
    /// not be.
    pub async fn open(
        &self,
        request: &Request,
        cmk: &Arc<Cmk>,
        (kind, parts): &(Kind, Parts<'_>),
        context: &[u8],
    ) -> std::result::Result<SecretBytes, Refusal> {
        let key = match kind {
            Kind::Working => self.opened_key(request, cmk, parts.blob).await?,
            Kind::Single => self.open_single(request, cmk, parts.blob, context).await?,
        };
        Ok(key.open(parts.sealed, &format::associated_data(parts.header, context))?)
    }

    /// Finds a working key that may still seal, or fetches one.
    async fn sealing_key(&self, request: &Request, cmk: &Arc<Cmk>) -> Result<Arc<Working>> {
        let reuse = self.names.config.reuse;
        loop {
            let held = cmk.sealing.get();
            if let Some(held) = held.as_ref()
                && held.began.elapsed() < reuse.max_age
                && held.value.uses.fetch_add(1, Ordering::Relaxed) < reuse.max_uses
            {
                let used_up = held.value.uses.load(Ordering::Relaxed) >= reuse.max_uses / 5 * 4;
                let ends_soon =
                    held.began.elapsed() >= reuse.max_age / 5 * 4 || (used_up && reuse.max_uses >= 1000);
                if ends_soon && cmk.next.get().is_none() {
                    let lead = reuse.max_age / 5;
                    cmk.next.refresh(|| fetch_working(Arc::clone(&self.names), Arc::clone(cmk), lead));
                }
                return Ok(Arc::clone(&held.value));
            }
            if cmk.renew(reuse) {
                continue;
            }
            let offline = self.names.config.offline;
            let stale = held.filter(|held| {
                held.began.elapsed() < offline && held.value.uses.load(Ordering::Relaxed) < reuse.max_uses
            });
            let fetch = || fetch_missing(Arc::clone(&self.names), Arc::clone(cmk));
            let fetched = cmk.next.fetch_with_leave((&self.names.gate, request), None, |_| true, fetch).await;
            // Whoever waited for the same fetch may have renewed already.
            let renewed = cmk.renew(reuse);
            match (fetched, stale) {
                // Counted as used, and looked at, as any other at the top of the loop.
                (Ok(_), _) => {}
                _ if renewed => {}
                (Err(error), Some(stale)) if error.kind().is_outage() => {
                    stale.value.uses.fetch_add(1, Ordering::Relaxed);
                    return Ok(Arc::clone(&stale.value));
                }
                (Err(error), _) => return Err(error),
            }
            if Instant::now() >= request.deadline {
                return Err(Error::new(ErrorKind::Timeout, format!("seal with key '{}'", cmk.name)));
            }
        }
    }

    /// Finds an opened working key, or asks AWS to open it.
    async fn opened_key(
        &self,
        request: &Request,
        cmk: &Arc<Cmk>,
        blob: &[u8],
    ) -> std::result::Result<Arc<SealingKey>, Refusal> {
        let hit = cmk.opened.pin().get(blob).and_then(|entry| {
            entry.touch(self.names.millis());
            entry.cell.get()
        });
        if let Some(held) = hit {
            return Ok(Arc::clone(&held.value));
        }
        let digest = digest_of(blob, None);
        if cmk.has_refused(&digest, self.names.config.any) {
            return Err(Refusal::Remembered);
        }
        let mut token = Some(self.token(request, cmk)?);
        let entry = {
            let opened = cmk.opened.pin();
            Arc::clone(opened.get_or_insert_with(blob.into(), Arc::default))
        };
        entry.touch(self.names.millis());
        let place = Place { cmk, blob, entry: &entry };
        let fetch = || {
            let (names, cmk, blob) = (Arc::clone(&self.names), Arc::clone(cmk), blob.to_vec());
            let (entry, token) = (Arc::clone(&entry), token.take());
            async move {
                let deadline = Instant::now() + CALL_TIMEOUT;
                let opened = unwrap(&names, &cmk, &blob, None, deadline).await.map(Arc::new);
                names.counters.read(opened.as_ref().err());
                match &opened {
                    // Whoever asked first may have left, and taken the entry away.
                    Ok(_) => drop(cmk.opened.pin().insert(blob.into(), entry)),
                    Err(error) => {
                        spend(token, error);
                        cmk.opened.pin().remove(blob.as_slice());
                    }
                }
                opened
            }
        };
        let opened = entry.cell.fetch_with_leave((&self.names.gate, request), None, |_| true, fetch).await;
        drop(place);
        match opened {
            Ok(held) => Ok(Arc::clone(&held.value)),
            Err(error) => {
                spend(token, &error);
                Err(Refusal::of(error))
            }
        }
    }

    /// Asks AWS to open a wrapped key that is used once.
    async fn open_single(
        &self,
        request: &Request,
        cmk: &Arc<Cmk>,
        blob: &[u8],
        context: &[u8],
    ) -> std::result::Result<Arc<SealingKey>, Refusal> {
        let token = self.token(request, cmk)?;
        let (names, cmk, deadline) = (Arc::clone(&self.names), Arc::clone(cmk), request.deadline);
        let (blob, context) = (blob.to_vec(), context.to_vec());
        let ask = async move {
            let opened = unwrap(&names, &cmk, &blob, Some(&context), deadline).await;
            names.counters.read(opened.as_ref().err());
            if let Err(error) = &opened {
                spend(Some(token), error);
            }
            opened.map(Arc::new)
        };
        self.names.gate.run(request, ask).await.map_err(Refusal::of)
    }

    /// Takes the right to ask AWS, unless it refused too much of this client already.
    fn token(&self, request: &Request, cmk: &Cmk) -> Result<Token> {
        self.limit.token(request.identity, &cmk.name).ok_or_else(|| {
            let what = format!("decrypt with key '{}'", cmk.name);
            let why = "too many ciphertexts that AWS KMS calls inauthentic";
            Error::with_source(ErrorKind::Throttled, what, why)
        })
    }
}

/// Keeps a token from going back if AWS refused.
fn spend(token: Option<Token>, error: &Error) {
    if let Some(mut token) = token
        && error.kind() == ErrorKind::NotAuthentic
    {
        token.spend();
    }
}

/// The place of a key that is being opened, given up when whoever wants it leaves and nobody opens it.
struct Place<'a> {
    cmk: &'a Cmk,
    blob: &'a [u8],
    entry: &'a Arc<Opened>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.entry.cell.is_vacant() {
            let opened = self.cmk.opened.pin();
            let _ = opened.remove_if(self.blob, |_, there| Arc::ptr_eq(there, self.entry));
        }
    }
}

/// Why something was not opened.
pub enum Refusal {
    /// AWS called it inauthentic just now.
    ByAws(Error),
    /// AWS did so before, of the very CMK.
    Remembered,
    /// Anything else.
    Other(Error),
}

impl Refusal {
    /// Takes an error of a call in which AWS was asked.
    fn of(error: Error) -> Self {
        if error.kind() == ErrorKind::NotAuthentic { Self::ByAws(error) } else { Self::Other(error) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Returns what a refusal is remembered by.
pub fn digest_of(blob: &[u8], context: Option<&[u8]>) -> [u8; 32] {
    let digest = Sha256::new().chain_update(blob);
    match context {
        None => digest.finalize().into(),
        Some(context) => digest.chain_update(Sha256::digest(context)).finalize().into(),
    }
}

/// Fetches a working key for a CMK that has none which may seal.
async fn fetch_missing(names: Arc<Names>, cmk: Arc<Cmk>) -> Result<Arc<Working>> {
    if cmk.is_sealing(names.config.reuse) {
        // It came while this fetch was on its way to be begun.
        return Err(Error::new(ErrorKind::Internal, "fetch a working key that is there"));
    }
    fetch_working(names, cmk, Duration::ZERO).await
}

/// Fetches a working key, by so much before it is needed, and keeps it for opening too.
async fn fetch_working(names: Arc<Names>, cmk: Arc<Cmk>, lead: Duration) -> Result<Arc<Working>> {
    let began = Instant::now();
    let fetched = fetch_key(&names, &cmk, Kind::Working, None, began + CALL_TIMEOUT).await;
    names.counters.read(fetched.as_ref().err());
    let mut working = fetched?;
    if let Some((_, parts)) = format::parse(&working.header) {
        let entry = Arc::new(Opened::default());
        entry.touch(names.millis());
        entry.cell.put(Arc::clone(&working.key), began);
        cmk.opened.pin().insert(parts.blob.into(), entry);
    }
    working.lead = lead;
    Ok(Arc::new(working))
}

/// Asks AWS for a new key, in the clear and wrapped under the CMK for its name.
async fn fetch_key(
    names: &Names,
    cmk: &Cmk,
    kind: Kind,
    context: Option<&[u8]>,
    deadline: Instant,
) -> Result<Working> {
    let what = || format!("generate a working key of key '{}'", cmk.name);
    let answer = loop {
        let call = names
            .upstream
            .client()
            .generate_data_key()
            .key_id(&cmk.arn)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(encryption_context(cmk, context)));
        match names.upstream.call(deadline, call.send()).await {
            Ok(answer) => break answer,
            Err(failure)
                if failure.kind == ErrorKind::NotFound && names.is_new(cmk) && look_again(deadline).await => {
            }
            Err(failure) => return Err(not_seen(failure).into_error(what())),
        }
    };
    if answer.key_id() != Some(cmk.arn.as_str()) {
        let failure = Failure::of(ErrorKind::Unreachable, "AWS KMS answered for another CMK");
        return Err(failure.into_error(what()));
    }
    let key = secret_key(answer.plaintext).map_err(|failure| failure.into_error(what()))?;
    let header = answer.ciphertext_blob.and_then(|blob| format::header(kind, blob.as_ref()));
    let header = header.ok_or_else(|| {
        Failure::of(ErrorKind::Unreachable, "an answer of AWS KMS without a wrapped key").into_error(what())
    })?;
    Ok(Working {
        header,
        key: Arc::new(SealingKey::new(key, Cipher::Aes256)),
        uses: AtomicU64::new(0),
        lead: Duration::ZERO,
    })
}

/// Asks AWS to open a wrapped key that has to be one of this CMK, for its name.
async fn unwrap(
    names: &Names,
    cmk: &Cmk,
    blob: &[u8],
    context: Option<&[u8]>,
    deadline: Instant,
) -> Result<SealingKey> {
    let what = || format!("open a working key of key '{}'", cmk.name);
    let call = names
        .upstream
        .client()
        .decrypt()
        .key_id(&cmk.arn)
        .ciphertext_blob(Blob::new(blob))
        .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
        .set_encryption_context(Some(encryption_context(cmk, context)));
    let answer = names.upstream.call(deadline, call.send()).await.map_err(|failure| {
        if failure.is_refused_ciphertext() {
            Error::with_source(ErrorKind::NotAuthentic, what(), failure)
        } else {
            not_seen(failure).into_error(what())
        }
    })?;
    if answer.key_id() != Some(cmk.arn.as_str()) {
        let failure = Failure::of(ErrorKind::Unreachable, "AWS KMS answered for another CMK");
        return Err(failure.into_error(what()));
    }
    let key = secret_key(answer.plaintext).map_err(|failure| failure.into_error(what()))?;
    Ok(SealingKey::new(key, Cipher::Aes256))
}

fn encryption_context(cmk: &Cmk, context: Option<&[u8]>) -> std::collections::HashMap<String, String> {
    let name = (CONTEXT_NAME.to_owned(), cmk.name.as_str().to_owned());
    let digest = context.map(|context| (CONTEXT_DIGEST.to_owned(), hex::encode(Sha256::digest(context))));
    [Some(name), digest].into_iter().flatten().collect()
}

/// Takes a key out of an answer of AWS.
pub fn secret_key(plaintext: Option<Blob>) -> std::result::Result<SecretKey, Failure> {
    let bytes = Zeroizing::new(plaintext.map(Blob::into_inner).unwrap_or_default());
    SecretKey::from_slice(&bytes)
        .ok_or_else(|| Failure::of(ErrorKind::Unreachable, "AWS KMS answered with a key of another size"))
}
