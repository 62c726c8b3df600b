//! Records in a K/V engine, at the paths and in the form of KES.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kms_core::{
    EntryName, Error, ErrorKind, KeyName, KeyStore, ListQuery, Page, Result, SecretBytes, StoreCapabilities,
    StoreStatus,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::OnceCell;
use vaultrs::api::{kv1::requests as kv1, kv2::requests as kv2};
use zeroize::Zeroizing;

use crate::client::{Answer, Call, json_body};
use crate::config::{KvVersion, TransitConfig, VaultConfig};
use crate::error::Failure;
use crate::json::secret_text;
use crate::session::{Session, Written};
use crate::wrap::Transit;

/// What stands before a record that is no text, or would read as one of these: base64 of its bytes follows.
const BINARY: &str = "kms:b64:";
/// How often K/V v1 is looked at before a write, when the look takes too long to be worth anything.
const LOOKS: usize = 3;

/// A key store in a K/V engine of Vault or OpenBao.
///
/// On K/V version 2 a create is atomic. Version 1 has none that is; there the store reads, writes with a short
/// deadline, waits until every writer who may have seen the same absence is done, and reads back: of several
/// stores of this kind at most one hears yes. A write that stalls inside Vault for longer, or a writer who does
/// not wait (KES), can still replace a record; version 2 is the better choice.
pub struct VaultStore {
    session: Arc<Session>,
    engine: String,
    version: KvVersion,
    prefix: String,
    transit: Option<TransitConfig>,
    write_deadline: Duration,
    settle: Duration,
    /// Whether the engine was seen to be of the configured version.
    engine_checked: OnceCell<()>,
}

/// What is at a path.
enum Found {
    Record(SecretBytes),
    /// Something that is no entry of a key store, and why.
    Unusable(Error),
    Nothing,
    /// The last version was deleted in K/V v2, in the way told.
    Deleted(Deletion),
}

#[derive(Clone, Copy)]
enum Deletion {
    CanBeUndone,
    Destroyed,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct VersionedData<'a> {
    #[serde(borrow)]
    data: Option<Fields<'a>>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    destroyed: bool,
}

/// The fields of a secret, none of them copied.
type Fields<'a> = HashMap<Cow<'a, str>, &'a RawValue>;

#[derive(Serialize)]
struct VersionedWrite<'a> {
    data: BTreeMap<&'a str, &'a str>,
    options: CheckAndSet,
}

#[derive(Serialize)]
struct CheckAndSet {
    cas: u32,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<String>,
}

#[derive(Deserialize)]
struct Mount {
    r#type: String,
    #[serde(default)]
    options: Option<HashMap<String, String>>,
}

impl VaultStore {
    /// Opens the K/V engine that `config` names, without the transit that it may name too; see [`open`](crate::open).
    ///
    /// Checks the configuration and the TLS files, and fails with `InvalidInput`. The login begins in the
    /// background. Needs a tokio runtime.
    pub fn connect(config: VaultConfig) -> Result<Self> {
        let session = Session::open(&config)?;
        Ok(Self {
            session,
            engine: config.engine.trim_matches('/').to_owned(),
            version: config.version,
            prefix: config.prefix.trim_matches('/').to_owned(),
            transit: config.transit,
            write_deadline: config.write_deadline,
            settle: config.settle,
            engine_checked: OnceCell::new(),
        })
    }

    /// Makes the wrapper for the configured transit key, over the same connections and login.
    pub fn transit(&self) -> Option<Transit> {
        self.transit.as_ref().map(|config| Transit::beside_store(Arc::clone(&self.session), config))
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the path of an entry's record.
    pub(crate) fn path(&self, name: &EntryName) -> String {
        self.to_read(name).path
    }

    /// Returns the path whose deletion removes an entry for ever.
    pub(crate) fn path_to_delete(&self, name: &EntryName) -> String {
        self.to_delete(name).path
    }

    /// Returns the path that lists the keys.
    pub(crate) fn path_to_list(&self) -> String {
        self.to_list().path
    }

    fn to_read(&self, name: &EntryName) -> Call {
        let (mount, path) = (self.engine.clone(), join(&[&self.prefix, name.as_str()]));
        match self.version {
            KvVersion::V1 => Call::to(&kv1::GetSecretRequest { mount, path }),
            KvVersion::V2 => Call::to(&kv2::ReadSecretRequest { mount, path, version: None }),
        }
    }

    fn to_delete(&self, name: &EntryName) -> Call {
        let (mount, path) = (self.engine.clone(), join(&[&self.prefix, name.as_str()]));
        match self.version {
            KvVersion::V1 => Call::to(&kv1::DeleteSecretRequest { mount, path }),
            KvVersion::V2 => Call::to(&kv2::DeleteSecretMetadataRequest { mount, path }),
        }
    }

    fn to_list(&self) -> Call {
        // With a slash at the end, also where there is no prefix.
        let path = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let mount = self.engine.clone();
        match self.version {
            KvVersion::V1 => Call::to(&kv1::ListSecretRequest { mount, path }),
            KvVersion::V2 => Call::to(&kv2::ListSecretsRequest { mount, path }),
        }
    }

    /// Makes sure, as far as Vault tells, that the engine is there and of the configured version.
    ///
    /// Written as to version 2, version 1 would take anything and overwrite everything.
    pub(crate) async fn check_engine(&self) -> Result<()> {
        self.engine_checked.get_or_try_init(|| self.ask_for_engine()).await.copied()
    }

    async fn ask_for_engine(&self) -> Result<()> {
        let operation = format!("look at the engine '{}' of Vault", self.engine);
        let answer =
            self.session.ask(&operation, &Call::get(join(&["sys/internal/ui/mounts", &self.engine]))).await?;
        if !answer.is_success() {
            // Not every policy shows it; Vault says so for an engine that is not there too.
            return Ok(());
        }
        let mount = answer.json::<Envelope<Mount>>().map_err(|failure| failure.into_error(&operation))?.data;
        let version =
            mount.options.as_ref().and_then(|options| options.get("version")).map_or("1", String::as_str);
        let wrong = match (mount.r#type.as_str(), self.version) {
            ("kv" | "generic", KvVersion::V1) if version == "1" => return Ok(()),
            ("kv", KvVersion::V2) if version == "2" => return Ok(()),
            ("kv" | "generic", _) => format!("it is K/V version {version} and configured as another one"),
            (other, _) => format!("it is a '{other}' engine and not K/V"),
        };
        Err(Error::with_source(ErrorKind::Denied, operation, wrong))
    }

    async fn find(&self, name: &EntryName, timeout: Option<Duration>) -> Result<Found> {
        let call = Call { timeout, ..self.to_read(name) };
        let operation = format!("read '{}' from Vault", call.path);
        let answer = self.session.ask(&operation, &call).await?;
        if answer.code == 403 {
            return Err(denied(operation, "read", &call.path, &answer));
        }
        if answer.is_absent() {
            return Ok(Found::Nothing);
        }
        let at_fault = |failure: Failure| failure.into_error(&operation);
        if let Some(deletion) = self.deletion_told_by(&answer) {
            return Ok(Found::Deleted(deletion));
        }
        if !answer.is_success() {
            return Err(at_fault(answer.failure()));
        }
        let fields = match self.version {
            KvVersion::V1 => answer.json::<Envelope<Option<Fields<'_>>>>().map_err(at_fault)?.data,
            KvVersion::V2 => answer.json::<Envelope<VersionedData<'_>>>().map_err(at_fault)?.data.data,
        };
        if fields.is_none() && !answer.is_vaults() {
            return Err(at_fault(Failure::foreign(answer.code)));
        }
        Ok(match record_in(name, &fields.unwrap_or_default()) {
            Ok(record) => Found::Record(record),
            Err(why) => Found::Unusable(Error::with_source(ErrorKind::Corrupt, operation, why)),
        })
    }

    /// Tells whether a 404 is that of a last version which was deleted, and how.
    fn deletion_told_by(&self, answer: &Answer) -> Option<Deletion> {
        if self.version != KvVersion::V2 || answer.code != 404 {
            return None;
        }
        let VersionedData { data: None, metadata: Some(metadata) } =
            answer.json::<Envelope<VersionedData<'_>>>().ok()?.data
        else {
            return None;
        };
        Some(if metadata.destroyed { Deletion::Destroyed } else { Deletion::CanBeUndone })
    }

    /// Makes the error of a create at a place that is taken; `None` if it is free.
    fn taken(operation: &str, found: Found) -> Option<Error> {
        Some(match found {
            Found::Nothing => return None,
            Found::Record(_) => exists(operation, "there is an entry"),
            Found::Unusable(error) => exists(operation, error),
            Found::Deleted(deletion) => exists(operation, deletion.text()),
        })
    }

    /// Writes on K/V v2, which refuses what is there already.
    async fn create_v2(&self, name: &EntryName, body: Bytes) -> Result<()> {
        let operation = format!("create '{}' in Vault", self.path(name));
        let call = Call::put(self.path(name), body);
        let mut written = self.session.write_once(&operation, &call, self.session.token().await?).await?;
        for resent in [false, true] {
            if written.answer.is_success() {
                return Ok(());
            }
            // What is there decides: a 403 may be the policy's way to refuse an update, and a 400 is that of `cas`.
            if let Some(error) = Self::taken(&operation, self.find(name, None).await?) {
                return Err(error);
            }
            if resent || !self.is_to_be_resent(&written).await? {
                break;
            }
            written = self.session.write_once(&operation, &call, self.session.token().await?).await?;
        }
        Err(refused_create(operation, &call.path, &written.answer))
    }

    /// Writes on K/V v1, which takes everything.
    async fn create_v1(&self, name: &EntryName, record: &SecretBytes, body: &Bytes) -> Result<()> {
        let operation = format!("create '{}' in Vault", self.path(name));
        let call = Call { timeout: Some(self.write_deadline), ..Call::put(self.path(name), body.clone()) };
        for resent in [false, true] {
            // A login between the look and the write would make the look an old one.
            let token = self.session.token().await?;
            self.see_nothing(name, &operation).await?;
            let outcome = match self.session.write_once(&operation, &call, token).await {
                Err(error) if !error.kind().leaves_outcome_unknown() => return Err(error),
                Ok(written) if written.answer.is_success() => Ok(()),
                // Refused by the policy: perhaps because there is an entry by now, which may even be ours.
                Ok(written) if written.answer.code != 403 => {
                    return Err(refused_create(operation, &call.path, &written.answer));
                }
                Ok(written) => {
                    Err((refused_create(operation.clone(), &call.path, &written.answer), Some(written)))
                }
                Err(error) => Err((error, None)),
            };
            tokio::time::sleep(self.settle).await;
            match (self.find(name, None).await?, outcome) {
                (Found::Record(found), _) if found == *record => return Ok(()),
                (Found::Record(_), _) => return Err(exists(&operation, "another record was read back")),
                (Found::Unusable(error), _) => return Err(exists(&operation, error)),
                (_, Ok(())) => return Err(exists(&operation, "it was deleted before it was read back")),
                (_, Err((error, written))) => {
                    let Some(written) = written.filter(|_| !resent) else { return Err(error) };
                    if !self.is_to_be_resent(&written).await? {
                        return Err(error);
                    }
                }
            }
        }
        Err(exists(&operation, "vault took and refused it by turns"))
    }

    /// Makes sure that there is no entry, at a moment from which the settle time covers the write that follows.
    async fn see_nothing(&self, name: &EntryName, operation: &str) -> Result<()> {
        let patience = self.settle.saturating_sub(self.write_deadline);
        for _ in 0..LOOKS {
            let began = Instant::now();
            if let Some(error) = Self::taken(operation, self.find(name, None).await?) {
                return Err(error);
            }
            if began.elapsed() < patience {
                return Ok(());
            }
        }
        let why = "vault is too slow for a safe create on K/V version 1; see the settle time";
        Err(Error::with_source(ErrorKind::Throttled, operation, why))
    }

    /// Tells whether a write was refused only because Vault no longer knew the token.
    async fn is_to_be_resent(&self, written: &Written) -> Result<bool> {
        Ok(written.answer.code == 403 && self.session.has_new_token(written).await?)
    }
}

#[async_trait]
impl KeyStore for VaultStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("vault")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.check_engine().await?;
        let text = encode(record);
        let fields = BTreeMap::from([(name.as_str(), text.as_str())]);
        let operation = "write a record as JSON";
        match self.version {
            KvVersion::V1 => self.create_v1(name, record, &json_body(operation, &fields)?).await,
            KvVersion::V2 => {
                let write = VersionedWrite { data: fields, options: CheckAndSet { cas: 0 } };
                self.create_v2(name, json_body(operation, &write)?).await
            }
        }
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let absent = |why: &'static str| {
            Error::with_source(ErrorKind::NotFound, format!("read '{}' from Vault", self.path(name)), why)
        };
        match self.find(name, None).await? {
            Found::Record(record) => Ok(record),
            Found::Unusable(error) => Err(error),
            Found::Nothing => {
                // An engine of the other version answers so to every path of ours.
                self.check_engine().await?;
                Err(absent("there is nothing"))
            }
            Found::Deleted(deletion) => Err(absent(deletion.text())),
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        let operation = format!("delete '{}' from Vault", self.path(name));
        match self.find(name, None).await? {
            Found::Record(_) | Found::Deleted(_) => {}
            Found::Unusable(error) => return Err(error),
            Found::Nothing => {
                self.check_engine().await?;
                return Err(Error::with_source(ErrorKind::NotFound, operation, "there is nothing"));
            }
        }
        let call = self.to_delete(name);
        let answer = self.session.ask(&operation, &call).await?;
        match answer.code {
            200..300 => Ok(()),
            403 => Err(denied(operation, "delete", &call.path, &answer)),
            _ => Err(answer.failure().into_error(operation)),
        }
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let call = self.to_list();
        let operation = format!("list '{}' in Vault", call.path);
        let answer = self.session.ask(&operation, &call).await?;
        if answer.is_absent() {
            self.check_engine().await?;
            return Ok(Page::default());
        }
        if answer.code == 403 {
            return Err(denied(operation, "list", &call.path, &answer));
        }
        if !answer.is_success() {
            return Err(answer.failure().into_error(operation));
        }
        let keys =
            answer.json::<Envelope<Keys>>().map_err(|failure| failure.into_error(operation))?.data.keys;
        // What is no name of a key is a path of others, or the slots of later versions.
        let names =
            keys.into_iter().filter(|name| query.matches(name)).filter_map(|name| KeyName::new(name).ok());
        let mut names: Vec<KeyName> = names.collect();
        names.sort_unstable();
        let more = names.len() > query.limit;
        names.truncate(query.limit);
        Ok(Page { names, more })
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.session.status().await
    }

    fn place(&self, name: &EntryName) -> String {
        format!("'{}' in Vault", self.path(name))
    }
}

impl Deletion {
    fn text(self) -> &'static str {
        match self {
            Self::CanBeUndone => "its last version was deleted in Vault and can be had back there",
            Self::Destroyed => "its last version was destroyed in Vault, where earlier ones may be left",
        }
    }
}

fn exists(operation: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::with_source(ErrorKind::AlreadyExists, operation, why)
}

/// Takes the record out of the one field that an entry has; the error tells nothing of what is in it.
fn record_in(name: &EntryName, fields: &Fields<'_>) -> std::result::Result<SecretBytes, String> {
    let value = fields
        .get(name.as_str())
        .ok_or_else(|| format!("the secret has no field '{name}', as one of a key store has"))?;
    let text = secret_text(value).ok_or_else(|| format!("the field '{name}' is no text"))?;
    decode(&text).ok_or_else(|| format!("the field '{name}' is no base64"))
}

/// Makes the error of a 403 that says what the policy lacks.
pub fn denied(operation: impl Into<String>, capability: &str, path: &str, answer: &Answer) -> Error {
    let why = format!(
        "the policy of our token lacks the capability '{capability}' on '{path}' ({})",
        answer.failure()
    );
    Error::with_source(ErrorKind::Denied, operation, why)
}

fn refused_create(operation: String, path: &str, answer: &Answer) -> Error {
    match answer.code {
        403 => denied(operation, "create", path, answer),
        _ => answer.failure().into_error(operation),
    }
}

/// Joins parts of a path, passing over empty ones.
fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join("/")
}

/// Makes a text of a record. Those of KES and of transit are texts as they are.
fn encode(record: &SecretBytes) -> Zeroizing<String> {
    match std::str::from_utf8(record.expose()) {
        Ok(text) if !text.starts_with(BINARY) => Zeroizing::new(text.to_owned()),
        _ => {
            let mut text = Zeroizing::new(String::with_capacity(BINARY.len() + record.len().div_ceil(3) * 4));
            text.push_str(BINARY);
            STANDARD.encode_string(record.expose(), &mut text);
            text
        }
    }
}

fn decode(text: &str) -> Option<SecretBytes> {
    match text.strip_prefix(BINARY) {
        None => Some(SecretBytes::from(text.as_bytes())),
        Some(encoded) => STANDARD.decode(encoded).ok().map(SecretBytes::new),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Method;

    use super::*;
    use crate::config::{AppRole, Login, Secret};

    #[test]
    fn every_record_comes_back() {
        for bytes in
            [b"".as_slice(), b"CiQKIB", b"{\"bytes\":\"\"}", b"kms:b64:", b"kms:b64:AA==", &[0xff, 0, 1]]
        {
            let text = encode(&SecretBytes::from(bytes)).to_string();
            assert!(decode(&text).unwrap().expose() == bytes, "{text}");
        }
        assert_eq!(
            *encode(&SecretBytes::from(b"CiQKIB".as_slice())),
            "CiQKIB",
            "texts are stored as they are"
        );
    }

    /// Where KES has its keys, and where those of former releases are.
    #[tokio::test]
    async fn an_entry_has_the_path_of_kes() {
        let name = EntryName::from(&KeyName::new("my-key").unwrap());
        for (version, engine, prefix, record, removal, listing) in [
            (KvVersion::V1, "kv", "", "kv/my-key", "kv/my-key", "kv/"),
            (KvVersion::V1, "/kv/", "/minio/", "kv/minio/my-key", "kv/minio/my-key", "kv/minio/"),
            (KvVersion::V1, "a/b", "c/d", "a/b/c/d/my-key", "a/b/c/d/my-key", "a/b/c/d/"),
            (KvVersion::V2, "kv", "", "kv/data/my-key", "kv/metadata/my-key", "kv/metadata/"),
            (
                KvVersion::V2,
                "/kv/",
                "/minio/",
                "kv/data/minio/my-key",
                "kv/metadata/minio/my-key",
                "kv/metadata/minio/",
            ),
            (
                KvVersion::V2,
                "a/b",
                "c/d",
                "a/b/data/c/d/my-key",
                "a/b/metadata/c/d/my-key",
                "a/b/metadata/c/d/",
            ),
        ] {
            let login = Login::AppRole(AppRole::new("role-id", Secret::from("secret-id")));
            let mut config = VaultConfig::new("http://127.0.0.1:1", login);
            config.version = version;
            config.engine = engine.to_owned();
            config.prefix = prefix.to_owned();
            // It goes in a header, and never in a path.
            config.namespace = Some("team/x".to_owned());
            let store = VaultStore::connect(config).unwrap();
            for (call, method, path) in [
                (store.to_read(&name), Method::GET, record),
                (store.to_delete(&name), Method::DELETE, removal),
                (store.to_list(), Method::GET, listing),
            ] {
                assert_eq!(
                    (call.method, call.path.as_str()),
                    (method, path),
                    "{version:?} {engine} {prefix}"
                );
            }
        }
    }

    #[test]
    fn empty_parts_leave_no_trace_in_a_path() {
        assert_eq!(join(&["kv", "", "name"]), "kv/name");
        assert_eq!(join(&["kv", "data", "a/b", "name"]), "kv/data/a/b/name");
    }
}
