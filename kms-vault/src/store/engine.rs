//! One K/V engine: what it is, and what it holds.

use std::collections::HashMap;
use std::sync::Arc;

use kms_core::primitives::SecretBytes;
use kms_core::store::EntryName;
use kms_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::record::{Fields, record_in};
use super::routes::Routes;
use crate::config::{KvVersion, VaultConfig};
use crate::error::Failure;
use crate::http::{Answer, Envelope};
use crate::session::Session;

/// A K/V engine, over a session with its Vault.
pub struct KvEngine {
    session: Arc<Session>,
    routes: Routes,
    /// Whether the engine was seen to be of the configured version.
    checked: OnceCell<()>,
}

/// What a path holds.
pub enum Found {
    /// An entry.
    Record(SecretBytes),
    /// Something that is no entry of a key store, and the reason.
    Unusable(Error),
    /// Nothing.
    Nothing,
    /// A secret of K/V version 2 whose last version was deleted.
    Deleted(Deletion),
}

/// How the last version of a secret was deleted.
#[derive(Clone, Copy)]
pub enum Deletion {
    CanBeUndone { version: u64 },
    Destroyed,
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
    #[serde(default)]
    version: u64,
}

#[derive(Deserialize)]
struct Mount {
    r#type: String,
    #[serde(default)]
    options: Option<HashMap<String, String>>,
}

impl KvEngine {
    /// Describes the engine that `config` names.
    pub fn new(session: Arc<Session>, config: &VaultConfig) -> Self {
        Self { session, routes: Routes::new(config), checked: OnceCell::new() }
    }

    /// Returns the session with Vault.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Returns the routes of entries.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Returns the path of an entry's record.
    pub fn path(&self, name: &EntryName) -> String {
        self.routes.to_read(name).path
    }

    /// Returns the path whose deletion removes an entry for ever.
    pub fn path_to_delete(&self, name: &EntryName) -> String {
        self.routes.to_delete(name).path
    }

    /// Returns the path that lists the keys.
    pub fn path_to_list(&self) -> String {
        self.routes.to_list("").path
    }

    /// Checks, as far as Vault tells, that the engine is there and of the configured version.
    ///
    /// This matters: an engine of version 1 takes a write for version 2, and overwrites what is there.
    pub async fn check(&self) -> Result<()> {
        self.checked.get_or_try_init(|| self.ask_for_engine()).await.copied()
    }

    async fn ask_for_engine(&self) -> Result<()> {
        let operation = format!("look at the engine '{}' of Vault", self.routes.engine());
        let answer = self.session.ask(&operation, &self.routes.to_mount()).await?;
        if !answer.is_success() {
            // Not every policy shows the engine. Vault answers the same for an engine that is not there.
            return Ok(());
        }
        let mount = answer.json::<Envelope<Mount>>().map_err(|failure| failure.into_error(&operation))?.data;
        let version =
            mount.options.as_ref().and_then(|options| options.get("version")).map_or("1", String::as_str);
        let wrong = match (mount.r#type.as_str(), self.routes.version()) {
            ("kv" | "generic", KvVersion::V1) if version == "1" => return Ok(()),
            ("kv", KvVersion::V2) if version == "2" => return Ok(()),
            ("kv" | "generic", _) => format!("it is K/V version {version} and configured as another one"),
            (other, _) => format!("it is a '{other}' engine and not K/V"),
        };
        Err(Error::with_source(ErrorKind::Denied, operation, wrong))
    }

    /// Reads what is at the path of an entry.
    pub async fn find(&self, name: &EntryName) -> Result<Found> {
        let call = self.routes.to_read(name);
        let operation = format!("read '{}' from Vault", call.path);
        let answer = match self.session.ask(&operation, &call).await {
            // No server of ours writes so much. What belongs to a key and is so long was planted.
            Err(error) if name.is_hidden() && is_too_long(&error) => {
                return Ok(Found::Unusable(Error::with_source(ErrorKind::Corrupt, operation, error)));
            }
            answer => answer?,
        };
        if answer.code == 403 {
            return Err(answer.failure().into_denied(operation, "read", &call.path));
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
        let fields = match self.routes.version() {
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

    /// Returns how the last version was deleted, if a 404 says so.
    fn deletion_told_by(&self, answer: &Answer) -> Option<Deletion> {
        if self.routes.version() != KvVersion::V2 || answer.code != 404 {
            return None;
        }
        let VersionedData { data: None, metadata: Some(metadata) } =
            answer.json::<Envelope<VersionedData<'_>>>().ok()?.data
        else {
            return None;
        };
        Some(if metadata.destroyed {
            Deletion::Destroyed
        } else {
            Deletion::CanBeUndone { version: metadata.version }
        })
    }
}

fn is_too_long(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    matches!(source, Some(Failure::TooLong { .. }))
}

impl Deletion {
    /// Describes the deletion for messages.
    pub fn text(self) -> &'static str {
        match self {
            Self::CanBeUndone { .. } => "its last version was deleted in Vault and can be had back there",
            Self::Destroyed => "its last version was destroyed in Vault, where earlier ones may be left",
        }
    }
}
