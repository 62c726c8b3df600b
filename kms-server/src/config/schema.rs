//! The keys of a configuration and their types. `resolve` knows what they mean.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use super::log_level::LogLevel;
use super::value::{
    Element, GoDuration, LongDuration, OneOrMany, RawName, RawPort, Switch, list, number, switch_or_empty,
};

/// The keys of [`Raw`].
pub const TOP_LEVEL: [&str; 16] = [
    "address", "admin", "tls", "policy", "cache", "deletion", "keys", "keystore", "kms", "escrow", "log",
    "api", "probes", "threads", "backup", "rollback",
];

/// Declares sections: tables in which each key may be missing, and other keys are errors.
macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $key:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(serde::Deserialize, Default)]
        #[serde(deny_unknown_fields, default, expecting = "a table")]
        pub struct $name { $($(#[$meta])* pub $key: $type,)* }
    )*};
}

sections! {
    /// A configuration as it is written.
    Raw {
        address: Option<String>,
        admin: RawAdmin,
        tls: RawTls,
        policy: BTreeMap<String, RawPolicy>,
        cache: RawCache,
        deletion: RawDeletion,
        #[serde(deserialize_with = "list")]
        keys: Vec<RawKey>,
        keystore: RawKeyStore,
        kms: Option<OneOrMany<RawOuterKms>>,
        escrow: Option<RawEscrow>,
        log: RawLog,
        api: RawApi,
        probes: RawProbes,
        #[serde(deserialize_with = "number")]
        threads: Option<usize>,
        backup: RawBackup,
        rollback: Option<String>,
    }

    /// `backup`.
    RawBackup {
        #[serde(deserialize_with = "list")]
        recipients: Vec<String>,
        drill_evidence: Option<String>,
    }

    /// `admin`.
    RawAdmin {
        identity: Option<String>,
    }

    /// `tls`.
    RawTls {
        key: Option<String>,
        cert: Option<String>,
        ca: Option<String>,
        #[serde(deserialize_with = "switch_or_empty")]
        auth: Option<Switch>,
        password: Option<String>,
        proxy: Option<RawProxy>,
    }

    /// `tls.proxy`.
    RawProxy {
        #[serde(deserialize_with = "list")]
        identities: Vec<String>,
        header: RawProxyHeader,
    }

    /// `tls.proxy.header`.
    RawProxyHeader {
        cert: Option<String>,
    }

    /// `policy.NAME`.
    RawPolicy {
        #[serde(deserialize_with = "list")]
        allow: Vec<String>,
        #[serde(deserialize_with = "list")]
        deny: Vec<String>,
        #[serde(deserialize_with = "list")]
        identities: Vec<String>,
        #[serde(deserialize_with = "list")]
        paths: Vec<String>,
    }

    /// `cache`.
    RawCache {
        expiry: RawExpiry,
    }

    /// `cache.expiry`.
    RawExpiry {
        any: Option<GoDuration>,
        unused: Option<GoDuration>,
        offline: Option<GoDuration>,
    }

    /// `deletion`.
    RawDeletion {
        grace: Option<LongDuration>,
    }

    /// `keystore`.
    RawKeyStore {
        fs: Option<RawFs>,
        memory: Option<RawMemory>,
        vault: Option<RawVault>,
        postgres: Option<RawPostgres>,
        aws: Option<RawAws>,
        azure: Unsupported,
        gcp: Unsupported,
        fortanix: Unsupported,
        gemalto: Unsupported,
        entrust: Unsupported,
        generic: Unsupported,
        kes: Unsupported,
    }

    /// `keystore.fs`.
    RawFs {
        path: Option<String>,
        root_key_file: Option<String>,
        root_key_env: Option<String>,
        create: Option<Switch>,
    }

    /// `keystore.memory`.
    RawMemory {}

    /// `keystore.vault` and `kms.vault`.
    RawVault {
        endpoint: Option<String>,
        engine: Option<String>,
        version: Option<String>,
        namespace: Option<String>,
        prefix: Option<String>,
        transit: Option<RawTransit>,
        approle: Option<RawAppRole>,
        kubernetes: Option<RawKubernetes>,
        token: Option<RawToken>,
        tls: RawVaultTls,
        status: RawVaultStatus,
    }

    /// `keystore.vault.transit`.
    RawTransit {
        engine: Option<String>,
        key: Option<String>,
        require: Option<Switch>,
    }

    /// `keystore.vault.approle`.
    RawAppRole {
        namespace: Option<String>,
        engine: Option<String>,
        id: Option<String>,
        secret: Option<String>,
        secret_file: Option<String>,
        retry: Option<GoDuration>,
    }

    /// `keystore.vault.kubernetes`.
    RawKubernetes {
        namespace: Option<String>,
        engine: Option<String>,
        role: Option<String>,
        jwt: Option<String>,
    }

    /// `keystore.vault.token`.
    RawToken {
        value: Option<String>,
        file: Option<String>,
    }

    /// `keystore.vault.tls`.
    RawVaultTls {
        key: Option<String>,
        cert: Option<String>,
        ca: Option<String>,
    }

    /// `keystore.vault.status`.
    RawVaultStatus {
        ping: Option<GoDuration>,
    }

    /// `keystore.postgres`.
    RawPostgres {
        url: Option<String>,
        #[serde(deserialize_with = "list")]
        host: Vec<String>,
        #[serde(deserialize_with = "list")]
        port: Vec<RawPort>,
        database: Option<String>,
        user: Option<String>,
        password: Option<String>,
        password_file: Option<String>,
        tls: RawPostgresTls,
        schema: Option<String>,
        table: Option<String>,
        #[serde(deserialize_with = "number")]
        pool: Option<usize>,
        create_schema: Option<Switch>,
        standby_reads: Option<Switch>,
        #[serde(deserialize_with = "list")]
        listen_host: Vec<String>,
        #[serde(deserialize_with = "list")]
        listen_port: Vec<RawPort>,
    }

    /// `keystore.postgres.tls`.
    RawPostgresTls {
        ca: Option<String>,
        cert: Option<String>,
        key: Option<String>,
        mode: Option<String>,
    }

    /// `keystore.aws`.
    RawAws {
        kms: Option<RawAwsKms>,
        secretsmanager: Option<RawAwsSecrets>,
    }

    /// `keystore.aws.kms`.
    RawAwsKms {
        endpoint: Option<String>,
        region: Option<String>,
        prefix: Option<String>,
        credentials: RawAwsCredentials,
        reuse: RawAwsReuse,
        #[serde(deserialize_with = "number")]
        deletion_window: Option<u32>,
    }

    /// `keystore.aws.kms.reuse`.
    RawAwsReuse {
        max_age: Option<GoDuration>,
        #[serde(deserialize_with = "number")]
        max_uses: Option<u64>,
    }

    /// `keystore.aws.secretsmanager`.
    RawAwsSecrets {
        endpoint: Option<String>,
        region: Option<String>,
        kmskey: Option<String>,
        credentials: RawAwsCredentials,
        #[serde(deserialize_with = "number")]
        recovery_window: Option<u32>,
    }

    /// `credentials` of all sections of AWS.
    RawAwsCredentials {
        accesskey: Option<String>,
        secretkey: Option<String>,
        token: Option<String>,
    }

    /// `kms`, or an element of it.
    RawOuterKms {
        id: Option<String>,
        aws: Option<RawAwsWrapper>,
        vault: Option<RawVault>,
        local: Option<RawLocalRoot>,
    }

    /// `kms.local`.
    RawLocalRoot {
        root_key_file: Option<String>,
        root_key_env: Option<String>,
    }

    /// `kms.aws`.
    RawAwsWrapper {
        key: Option<String>,
        endpoint: Option<String>,
        region: Option<String>,
        credentials: RawAwsCredentials,
    }

    /// `escrow`.
    RawEscrow {
        #[serde(deserialize_with = "list")]
        recipients: Vec<String>,
        path: Option<String>,
        on_failure: Option<String>,
    }

    /// `log`.
    RawLog {
        error: Option<LogLevel>,
        audit: Option<LogLevel>,
        format: Option<String>,
        audit_file: Option<String>,
        audit_failure: Option<String>,
    }

    /// `api."PATH"`.
    RawRoute {
        skip_auth: Option<Switch>,
        timeout: Option<GoDuration>,
    }

    /// `probes`.
    RawProbes {
        address: Option<String>,
    }
}

/// An element of `keys`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with a name")]
pub struct RawKey {
    pub name: RawName,
    #[serde(default)]
    pub rotate_after: Option<LongDuration>,
}

impl RawKeyStore {
    /// Returns whether the section `fs` names a root key.
    pub fn has_root_key(&self) -> bool {
        self.fs.as_ref().is_some_and(|fs| fs.root_key_file.is_some() || fs.root_key_env.is_some())
    }

    /// Returns the key of a key store of KES that is not supported here, and its product. A section that lacks the key of its
    /// product does not count.
    pub fn unsupported(&self) -> Option<(&'static str, &'static str)> {
        let stores = [
            (&self.azure, "azure", "keyvault", "Azure Key Vault"),
            (&self.gcp, "gcp", "secretmanager", "GCP Secret Manager"),
            (&self.fortanix, "fortanix", "sdkms", "Fortanix SDKMS"),
            (&self.gemalto, "gemalto", "keysecure", "Gemalto (Thales) KeySecure"),
            (&self.entrust, "entrust", "keycontrol", "Entrust KeyControl"),
            (&self.kes, "kes", "endpoint", "another KES"),
            (&self.generic, "generic", "", "a KeyStore plugin"),
        ];
        let is_there = |raw: &Unsupported, store: &str| {
            raw.as_ref().is_some_and(|raw| store.is_empty() || raw.contains_key(store))
        };
        let found = stores.into_iter().find(|(raw, _, store, _)| is_there(raw, store));
        found.map(|(_, name, _, what)| (name, what))
    }
}

impl Element for RawKey {
    const EXPECTED: &'static str = "an array of tables, each with a name";

    fn from_text(text: &str) -> Result<Self, String> {
        RawName::try_from(text.to_owned()).map(|name| Self { name, rotate_after: None })
    }
}

impl RawKey {
    /// What is expected in the place of an element.
    pub const EXPECTED_ALONE: &'static str = "a table with a name";
}

/// The section `api`: routes by their path, such as `/v1/ready`.
pub type RawApi = BTreeMap<String, RawRoute>;

/// The section of a key store of KES that is not supported here. Its keys may have any values.
#[expect(clippy::zero_sized_map_values, reason = "serde reads no set from a table")]
pub type Unsupported = Option<BTreeMap<String, IgnoredAny>>;

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::error::Kind;
    use figment::providers::Serialized;

    use super::*;

    #[test]
    fn the_list_of_keys_is_that_of_the_schema() {
        let unknown = Figment::from(Serialized::default("no-such-key", 1)).extract::<Raw>();
        let Err(Kind::UnknownField(_, keys)) = unknown.map_err(|error| error.kind) else {
            panic!("an unknown key was taken");
        };
        assert_eq!(keys, TOP_LEVEL);
    }
}
