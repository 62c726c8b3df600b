//! What a configuration means: checks that serde cannot do, and the settings that result.

mod address;
mod aws;
mod backup;
mod context;
mod escrow;
mod key_store;
mod kms;
mod log;
mod pattern;
mod policies;
mod postgres;
mod root_key;
mod routes;
mod tls;
mod vault;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use kms_core::{CacheConfig, KeyName, MAX_VERSIONS};
use kms_vault::KvVersion;

pub use self::address::parse_address;
pub use self::context::Context;
use self::policies::Owners;
use super::node::KeyPath;
use super::problem::Problem;
use super::schema::{Raw, RawCache, RawDeletion, RawKey};
use super::value::LongDuration;
use crate::settings::{BareStore, DEFAULT_GRACE, KeyStoreSettings, Settings};

/// The age of rotations below which the number of versions is used up within three years.
const SHORT_ROTATION: Duration = Duration::from_secs(24 * 3600);

/// The address of a server whose config names none.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7373);

/// The most threads that serve connections.
const MAX_THREADS: usize = 1024;

/// Checks a configuration as a whole.
pub fn resolve(raw: Raw, mut context: Context<'_>) -> Result<Settings, Problem> {
    let context = &mut context;
    let admin = policies::admin(raw.admin.identity.as_deref(), context)?;
    let proxies = raw.tls.proxy.as_ref().map(|proxy| proxy.identities.clone()).unwrap_or_default();
    let tls = tls::tls(raw.tls, context)?;
    let owners = Owners::new(raw.admin.identity.as_deref(), tls.proxy.as_ref(), &proxies, context)?;
    let policies = policies::policies(raw.policy, owners, context)?;
    if admin.is_none() && policies.values().all(|policy| policy.identities.is_empty()) {
        let message =
            "there is neither an admin nor an identity with a policy: every request will be refused";
        context.warn(&KeyPath::new(), message);
    }
    let cache = cache(&raw.cache);
    let address = context::given(raw.address);
    let key_store = key_store::key_store(raw.keystore, raw.kms, &cache, context)?;
    Ok(Settings {
        address: self::address(address, "address", context)?.unwrap_or(DEFAULT_ADDRESS),
        threads: threads(raw.threads, context)?,
        probes: self::address(raw.probes.address, "probes.address", context)?,
        admin,
        tls,
        policies,
        cache,
        grace: grace(&raw.deletion, &key_store, &cache, context)?,
        rotate_after: rotations(&raw.keys, &key_store, &cache, context)?,
        escrow: escrow::escrow(raw.escrow, &key_store, context)?,
        backup: backup::backup(raw.backup, &key_store, context)?,
        key_store,
        is_for_kes: context.is_for_kes,
        keys: keys(raw.keys, context)?,
        log: log::log(raw.log, context)?,
        routes: routes::routes(raw.api, context)?,
    })
}

/// Checks the key store of a configuration, and nothing else of it.
pub fn resolve_key_store(raw: Raw, mut context: Context<'_>) -> Result<KeyStoreSettings, Problem> {
    key_store::key_store(raw.keystore, raw.kms, &cache(&raw.cache), &mut context)
}

fn address(text: Option<String>, key: &str, context: &Context<'_>) -> Result<Option<SocketAddr>, Problem> {
    let parsed = text.map(|text| parse_address(&text)).transpose();
    parsed.map_err(|message| context.problem(key, message))
}

/// Checks the number of threads that serve connections.
fn threads(raw: Option<usize>, context: &Context<'_>) -> Result<Option<NonZeroUsize>, Problem> {
    let Some(number) = raw else { return Ok(None) };
    let usable = NonZeroUsize::new(number).filter(|number| number.get() <= MAX_THREADS);
    let message = || format!("{number} is not usable: at least 1 thread and at most {MAX_THREADS}");
    usable.map(Some).ok_or_else(|| context.problem("threads", message()))
}

/// Returns the names of the keys to create, each once.
fn keys(raw: Vec<RawKey>, context: &Context<'_>) -> Result<Vec<KeyName>, Problem> {
    let at = |index: usize| format!("keys.{index}.name");
    let mut keys: Vec<KeyName> = Vec::new();
    for (index, RawKey { name, .. }) in raw.into_iter().enumerate() {
        if let Some(first) = keys.iter().position(|key| *key == name.0) {
            let first = context.layers.name_of(&at(first));
            let message = format!("key '{}' is there twice, first as {first}", name.0);
            return Err(context.problem(&at(index), message));
        }
        keys.push(name.0);
    }
    Ok(keys)
}

/// Returns how long a deleted key can be restored.
///
/// Users of KES may want to go back, and KES would serve a key that is only marked as deleted.
fn grace(
    raw: &RawDeletion,
    key_store: &KeyStoreSettings,
    cache: &CacheConfig,
    context: &Context<'_>,
) -> Result<Duration, Problem> {
    const KEY: &str = "deletion.grace";
    let Some(LongDuration(grace)) = raw.grace else {
        return Ok(if context.is_for_kes { Duration::ZERO } else { DEFAULT_GRACE.max(cache.offline) });
    };
    if matches!(key_store, KeyStoreSettings::AwsKms(_)) {
        let message = "AWS KMS keeps deleted keys by itself, see keystore.aws.kms.deletion_window";
        return Err(context.problem(KEY, message));
    }
    if !grace.is_zero() && grace < cache.offline {
        let message = "it is shorter than cache.expiry.offline, and a server that is cut off from the key store may use \
                       a deleted key for so long";
        return Err(context.problem(KEY, message));
    }
    Ok(grace)
}

/// Returns why keys in this key store cannot be rotated by age.
fn cannot_rotate(key_store: &KeyStoreSettings) -> Option<&'static str> {
    match key_store {
        KeyStoreSettings::Vault(vault) | KeyStoreSettings::Wrapped { store: BareStore::Vault(vault), .. }
            if vault.version == KvVersion::V1 =>
        {
            Some(
                "version 1 of Vault's K/V engine cannot decide which of several servers rotates: use version 2, or 'kms key rotate'",
            )
        }
        KeyStoreSettings::AwsKms(_) => Some("a key of AWS KMS is not rotated by its age here"),
        _ => None,
    }
}

/// Returns the keys that are rotated by age.
fn rotations(
    raw: &[RawKey],
    key_store: &KeyStoreSettings,
    cache: &CacheConfig,
    context: &mut Context<'_>,
) -> Result<Vec<(KeyName, Duration)>, Problem> {
    let mut rotations = Vec::new();
    for (index, RawKey { name, rotate_after }) in raw.iter().enumerate() {
        let Some(age) = rotate_after.as_ref().map(|age| age.0) else { continue };
        let key = format!("keys.{index}.rotate_after");
        if let Some(why) = cannot_rotate(key_store) {
            return Err(context.problem(&key, why));
        }
        if age <= cache.any {
            let message = "a new version seals only after cache.expiry.any, so this has to be longer";
            return Err(context.problem(&key, message));
        }
        if age < SHORT_ROTATION {
            let days = u64::from(MAX_VERSIONS).saturating_mul(age.as_secs()) / (24 * 3600);
            let message = format!(
                "a key has at most {MAX_VERSIONS} versions, and these are used up within {days} days"
            );
            context.warn(&key, message);
        }
        rotations.push((name.0.clone(), age));
    }
    Ok(rotations)
}

fn cache(raw: &RawCache) -> CacheConfig {
    let default = CacheConfig::default();
    let expiry = &raw.expiry;
    default
        .with_any(expiry.any.as_ref().map_or(default.any, |any| any.0))
        .with_unused(expiry.unused.as_ref().map_or(default.unused, |unused| unused.0))
        .with_offline(expiry.offline.as_ref().map_or(default.offline, |offline| offline.0))
}
