//! The key store in a K/V engine.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, StoreCapabilities};
use kms_core::{Error, ErrorKind, KeyName, ListQuery, Page, Result, StoreStatus};
use serde::Deserialize;

use super::create::{self, Times};
use super::engine::{Deletion, Found, KvEngine};
use super::record;
use crate::config::{KvVersion, TransitConfig, VaultConfig};
use crate::http::Envelope;
use crate::session::Session;
use crate::wrap::Transit;

/// A key store in a K/V engine of Vault or OpenBao.
///
/// On K/V version 2 a create is atomic. Version 1 has no atomic create. There the store reads, writes with a short
/// deadline, waits until every writer that may have seen the same absence is done, and reads back. Of several stores
/// of this kind, at most one hears yes.
///
/// On version 1 a record can still be replaced by a write that stalls inside Vault for longer, or by a writer that does
/// not wait (KES). Version 2 is the better choice.
pub struct VaultStore {
    engine: KvEngine,
    transit: Option<TransitConfig>,
    times: Times,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<String>,
}

impl VaultStore {
    /// Opens the K/V engine that `config` names, without the transit that it may name too; see [`open`](crate::open).
    ///
    /// The login begins in the background.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: the configuration or a TLS file cannot be used.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn connect(config: VaultConfig) -> Result<Self> {
        let session = Session::open(&config)?;
        let (engine, times) = (KvEngine::new(session, &config), Times::new(&config));
        Ok(Self { engine, transit: config.transit, times })
    }

    /// Creates the wrapper for the configured transit key, over the same connections and login.
    pub fn transit(&self) -> Option<Transit> {
        let session = self.engine.session();
        self.transit.as_ref().map(|config| Transit::beside_store(Arc::clone(session), config))
    }

    /// Returns the K/V engine.
    pub(crate) fn engine(&self) -> &KvEngine {
        &self.engine
    }

    /// Lists a directory under the prefix.
    async fn list_at(&self, directory: &str) -> Result<Vec<String>> {
        let call = self.engine.routes().to_list(directory);
        let operation = format!("list '{}' in Vault", call.path);
        let answer = self.engine.session().ask(&operation, &call).await?;
        if answer.is_absent() {
            self.engine.check().await?;
            return Ok(Vec::new());
        }
        if answer.code == 403 {
            return Err(answer.failure().into_denied(operation, "list", &call.path));
        }
        if !answer.is_success() {
            return Err(answer.failure().into_error(operation));
        }
        Ok(answer.json::<Envelope<Keys>>().map_err(|failure| failure.into_error(operation))?.data.keys)
    }
}

#[async_trait]
impl KeyStore for VaultStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("vault")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.engine.check().await?;
        let version = self.engine.routes().version();
        let body = record::body(version, name, record)?;
        match version {
            KvVersion::V1 => create::on_v1(&self.engine, self.times, name, record, body).await,
            KvVersion::V2 => create::on_v2(&self.engine, name, body).await,
        }
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let absent = |why: &'static str| {
            let operation = format!("read '{}' from Vault", self.engine.path(name));
            Error::with_source(ErrorKind::NotFound, operation, why)
        };
        match self.engine.find(name).await? {
            Found::Record(record) => Ok(record),
            Found::Unusable(error) => Err(error),
            Found::Nothing => {
                // An engine of the other version answers every path of ours so.
                self.engine.check().await?;
                Err(absent("there is nothing"))
            }
            Found::Deleted(deletion @ Deletion::Destroyed) => Err(absent(deletion.text())),
            Found::Deleted(deletion) => {
                let operation = format!("read '{}' from Vault", self.engine.path(name));
                Err(Error::with_source(ErrorKind::Deleted, operation, deletion.text()))
            }
        }
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        let operation = format!("delete '{}' from Vault", self.engine.path(name));
        match self.engine.find(name).await? {
            Found::Record(_) | Found::Deleted(_) => {}
            // What belongs to a key and has another shape was planted, and is no key.
            Found::Unusable(_) if name.is_hidden() => {}
            Found::Unusable(error) => return Err(error),
            Found::Nothing => {
                self.engine.check().await?;
                return Err(Error::with_source(ErrorKind::NotFound, operation, "there is nothing"));
            }
        }
        let call = self.engine.routes().to_delete(name);
        let answer = self.engine.session().ask(&operation, &call).await?;
        match answer.code {
            200..300 => Ok(()),
            403 => Err(answer.failure().into_denied(operation, "delete", &call.path)),
            _ => Err(answer.failure().into_error(operation)),
        }
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        let operation = format!("restore '{}' in Vault", self.engine.path(name));
        let version = match self.engine.find(name).await? {
            Found::Deleted(Deletion::CanBeUndone { version }) => version,
            Found::Record(_) => return Ok(()),
            Found::Unusable(error) => return Err(error),
            Found::Nothing | Found::Deleted(Deletion::Destroyed) => {
                return Err(Error::new(ErrorKind::NotFound, operation));
            }
        };
        let call = self.engine.routes().to_undelete(name, version)?;
        let answer = self.engine.session().ask(&operation, &call).await?;
        match answer.code {
            200..300 => Ok(()),
            403 => Err(answer.failure().into_denied(operation, "update", &call.path)),
            _ => Err(answer.failure().into_error(operation)),
        }
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        let mut segments = self.list_at(directory).await?;
        for segment in &mut segments {
            segment.truncate(segment.trim_end_matches('/').len());
        }
        segments.sort_unstable();
        segments.dedup();
        Ok(segments)
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let keys = self.list_at("").await?;
        // A text that is no name of a key is the path of somebody else, or a slot of a later version.
        let names =
            keys.into_iter().filter(|name| query.matches(name)).filter_map(|name| KeyName::new(name).ok());
        let mut names: Vec<KeyName> = names.collect();
        names.sort_unstable();
        let more = names.len() > query.limit;
        names.truncate(query.limit);
        Ok(Page { names, more })
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.engine.session().status().await
    }

    fn login_ends(&self) -> Option<Timestamp> {
        self.engine.session().auth().login_ends()
    }

    fn freed_by(&self, name: &EntryName) -> Option<String> {
        self.engine.routes().command_to_free(name)
    }

    fn place(&self, name: &EntryName) -> String {
        format!("'{}' in Vault", self.engine.path(name))
    }
}
