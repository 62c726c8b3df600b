//! The routes of entries, which are those of KES.

use kms_core::store::EntryName;
use vaultrs::api::{kv1::requests as kv1, kv2::requests as kv2};

use crate::config::{KvVersion, VaultConfig};
use crate::http::Call;

/// Where an engine is mounted, and where the entries of a store are in it.
pub struct Routes {
    engine: String,
    prefix: String,
    namespace: Option<String>,
    version: KvVersion,
}

impl Routes {
    /// Takes the places that `config` names.
    pub fn new(config: &VaultConfig) -> Self {
        let engine = config.engine.trim_matches('/').to_owned();
        let (prefix, namespace) = (config.prefix.trim_matches('/').to_owned(), config.namespace.clone());
        Self { engine, prefix, namespace, version: config.version }
    }

    /// Returns where the engine is mounted.
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// Returns the configured version of the engine.
    pub fn version(&self) -> KvVersion {
        self.version
    }

    /// Creates the request that tells of which type the engine is.
    pub fn to_mount(&self) -> Call {
        Call::get(join(&["sys/internal/ui/mounts", &self.engine]))
    }

    /// Creates the request that reads an entry.
    pub fn to_read(&self, name: &EntryName) -> Call {
        let (mount, path) = (self.engine.clone(), join(&[&self.prefix, name.as_str()]));
        match self.version {
            KvVersion::V1 => Call::to(&kv1::GetSecretRequest { mount, path }),
            KvVersion::V2 => Call::to(&kv2::ReadSecretRequest { mount, path, version: None }),
        }
    }

    /// Creates the request that removes an entry for ever.
    pub fn to_delete(&self, name: &EntryName) -> Call {
        let (mount, path) = (self.engine.clone(), join(&[&self.prefix, name.as_str()]));
        match self.version {
            KvVersion::V1 => Call::to(&kv1::DeleteSecretRequest { mount, path }),
            KvVersion::V2 => Call::to(&kv2::DeleteSecretMetadataRequest { mount, path }),
        }
    }

    /// Returns the command of Vault's tool that frees a name whose versions were destroyed; `None` on K/V version 1, which keeps
    /// no such names.
    pub fn command_to_free(&self, name: &EntryName) -> Option<String> {
        let namespace = self.namespace.as_ref().map(|namespace| format!(" -namespace={namespace}"));
        let (namespace, engine) = (namespace.unwrap_or_default(), &self.engine);
        let path = join(&[&self.prefix, name.as_str()]);
        (self.version == KvVersion::V2)
            .then(|| format!("vault kv metadata delete{namespace} -mount={engine} {path}"))
    }

    /// Creates the request that brings back a version of K/V version 2 that was deleted.
    pub fn to_undelete(&self, name: &EntryName, version: u64) -> kms_core::Result<Call> {
        let (mount, path) = (self.engine.clone(), join(&[&self.prefix, name.as_str()]));
        Call::with_body_of(&kv2::UndeleteSecretVersionsRequest { mount, path, versions: vec![version] })
    }

    /// Creates the request that lists a directory under the prefix. It ends with a slash, or is empty for the keys.
    pub fn to_list(&self, directory: &str) -> Call {
        // With a slash at the end, also where there is no prefix.
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let path = format!("{prefix}{directory}");
        let mount = self.engine.clone();
        match self.version {
            KvVersion::V1 => Call::to(&kv1::ListSecretRequest { mount, path }),
            KvVersion::V2 => Call::to(&kv2::ListSecretsRequest { mount, path }),
        }
    }
}

/// Joins the parts of a path that are not empty.
fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use kms_core::KeyName;
    use reqwest::Method;

    use super::*;
    use kms_core::primitives::Secret;

    use crate::config::{AppRole, Login};

    /// KES has its keys at these paths, and its former releases had theirs there.
    #[test]
    fn an_entry_has_the_path_of_kes() {
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
            // The namespace goes into a header, and never into a path.
            config.namespace = Some("team/x".to_owned());
            let routes = Routes::new(&config);
            for (call, method, path) in [
                (routes.to_read(&name), Method::GET, record),
                (routes.to_delete(&name), Method::DELETE, removal),
                (routes.to_list(""), Method::GET, listing),
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
