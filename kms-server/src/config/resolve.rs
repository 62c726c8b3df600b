//! From what is written to what it means.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use kms_core::{CacheConfig, Identity};

use super::pattern;
use super::places::{KeyPath, Places, dotted, path};
use super::problem::{Problem, Warning};
use super::schema::{Raw, RawCache, RawFs, RawKeyStore, RawPolicy, RawTls};
use super::settings::{KeyStoreSettings, PolicySettings, RootKeySource, Settings, TlsSettings};

/// Where a server listens that is not told.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7373);

/// The word that switches the admin off.
const NO_ADMIN: &str = "disabled";

/// Checks a configuration as a whole; what is dubious is added to `warnings`.
pub fn resolve(raw: Raw, places: &Places, warnings: &mut Vec<Warning>) -> Result<Settings, Problem> {
    let admin = admin(raw.admin.identity.as_deref(), places, warnings)?;
    let policies = policies(raw.policy, admin, places, warnings)?;
    if admin.is_none() && policies.values().all(|policy| policy.identities.is_empty()) {
        let message =
            "there is neither an admin nor an identity with a policy: every request will be refused";
        warnings.push(Warning::dubious(places.problem(&[], message)));
    }
    Ok(Settings {
        address: raw.address.map_or(Ok(DEFAULT_ADDRESS), |text| {
            parse_address(&text).map_err(|message| places.problem(&path("address"), message))
        })?,
        admin,
        tls: tls(&raw.tls, places)?,
        policies,
        cache: cache(&raw.cache),
        keys: raw.keys.into_iter().map(|key| key.name.0).collect(),
        key_store: key_store(raw.keystore, places, warnings)?,
    })
}

/// Reads an address to listen on: `127.0.0.1:7373`, `[::1]:7373`, `:7373` (all of IPv4) or `localhost:7373`.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let full =
        if text.starts_with(':') { format!("{}{text}", Ipv4Addr::UNSPECIFIED) } else { text.to_owned() };
    let found = full.parse().ok().or_else(|| full.to_socket_addrs().ok()?.next());
    found.ok_or_else(|| {
        format!(
            "invalid address '{}', expected an address and port, such as '0.0.0.0:7373'",
            text.escape_debug()
        )
    })
}

fn admin(
    text: Option<&str>,
    places: &Places,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Identity>, Problem> {
    let key = path("admin.identity");
    let expected = format!("expected 64 hex digits as 'kms identity of' prints them, or '{NO_ADMIN}'");
    let text = match text {
        None => return Err(places.problem(&key, format!("no admin identity, {expected}"))),
        Some("") => return Err(places.problem(&key, format!("it is empty, {expected}"))),
        Some(text) => text,
    };
    let admin = Identity::from_hex(text);
    if admin.is_none() && text != NO_ADMIN {
        let message = format!("'{}' is no identity, so there is no admin: {expected}", text.escape_debug());
        warnings.push(Warning::no_effect(places.problem(&key, message)));
    }
    Ok(admin)
}

fn policies(
    raw: BTreeMap<String, RawPolicy>,
    admin: Option<Identity>,
    places: &Places,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeMap<String, PolicySettings>, Problem> {
    let mut owners: BTreeMap<Identity, KeyPath> =
        admin.map(|admin| (admin, path("admin.identity"))).into_iter().collect();
    let mut policies = BTreeMap::new();
    for (name, policy) in raw {
        let at = |part: &str, index: usize| -> KeyPath {
            vec!["policy".to_owned(), name.clone(), part.to_owned(), index.to_string()]
        };
        if !pattern::is_policy_name(&name) {
            let message = "invalid policy name, expected 1 to 80 characters of 0-9 A-Z a-z - _";
            return Err(places.problem(&["policy".to_owned(), name], message));
        }
        for (index, pattern) in policy.deny.iter().enumerate() {
            check_deny(pattern, &at("deny", index), places, warnings)?;
        }
        for (index, pattern) in policy.allow.iter().enumerate() {
            warnings.extend(
                check_allow(pattern)
                    .map(|message| Warning::no_effect(places.problem(&at("allow", index), message))),
            );
        }
        let mut identities = Vec::new();
        for (index, text) in policy.identities.iter().enumerate() {
            let key = at("identities", index);
            let Some(identity) = Identity::from_hex(text) else {
                let message = format!(
                    "'{}' is no identity and is passed over, expected 64 hex digits",
                    text.escape_debug()
                );
                warnings.push(Warning::no_effect(places.problem(&key, message)));
                continue;
            };
            if let Some(owner) = owners.insert(identity, key.clone()) {
                return Err(places.problem(&key, conflict(identity, &owner, places)));
            }
            identities.push(identity);
        }
        policies.insert(name, PolicySettings { allow: policy.allow, deny: policy.deny, identities });
    }
    Ok(policies)
}

fn conflict(identity: Identity, owner: &[String], places: &Places) -> String {
    let rule = if owner.first().is_some_and(|part| part == "admin") {
        "the admin, who needs no policy"
    } else {
        "in a policy already, expected at most one for an identity"
    };
    format!("{identity} is {rule} (see {} at {})", dotted(owner), places.of(owner))
}

fn check_deny(
    pattern: &str,
    key: &[String],
    places: &Places,
    warnings: &mut Vec<Warning>,
) -> Result<(), Problem> {
    if let Some(glob) = pattern::glob(pattern) {
        let replacement: Vec<_> = glob.replacements.iter().map(|pattern| format!("'{pattern}'")).collect();
        let message = format!(
            "pattern '{pattern}' would deny nothing: only a '*' at the end is a wildcard, write {} instead",
            replacement.join(", ")
        );
        return Err(places.problem(key, message));
    }
    if pattern::matches_nothing(pattern) {
        let message = format!("pattern '{pattern}' denies nothing, expected it to begin with '/'");
        warnings.push(Warning::no_effect(places.problem(key, message)));
    }
    Ok(())
}

fn check_allow(pattern: &str) -> Option<String> {
    if pattern::glob(pattern).is_some() {
        return Some(format!("pattern '{pattern}' allows nothing: only a '*' at the end is a wildcard"));
    }
    pattern::matches_nothing(pattern)
        .then(|| format!("pattern '{pattern}' allows nothing, expected it to begin with '/'"))
}

fn tls(raw: &RawTls, places: &Places) -> Result<TlsSettings, Problem> {
    Ok(TlsSettings {
        cert: required(raw.cert.as_deref(), "tls.cert", "a PEM file of the server's certificate", places)?,
        key: required(raw.key.as_deref(), "tls.key", "a PEM file of the private key", places)?,
        ca: optional(raw.ca.as_deref(), "tls.ca", places)?,
        verify_clients: raw.auth.as_ref().is_some_and(|auth| auth.0),
    })
}

fn cache(raw: &RawCache) -> CacheConfig {
    let default = CacheConfig::default();
    let expiry = &raw.expiry;
    CacheConfig {
        any: expiry.any.as_ref().map_or(default.any, |any| any.0),
        unused: expiry.unused.as_ref().map_or(default.unused, |unused| unused.0),
        offline: expiry.offline.as_ref().map_or(default.offline, |offline| offline.0),
        ..default
    }
}

fn key_store(
    raw: RawKeyStore,
    places: &Places,
    warnings: &mut Vec<Warning>,
) -> Result<KeyStoreSettings, Problem> {
    let (fs, memory) = (path("keystore.fs"), path("keystore.memory"));
    match (raw.fs, raw.memory) {
        (None, None) => {
            let message = "no key store, expected [keystore.fs], or [keystore.memory], which forgets all keys at the end";
            Err(places.problem(&path("keystore"), message))
        }
        (Some(_), Some(_)) => {
            let message = format!("two key stores, expected one: keystore.fs is at {}", places.of(&fs));
            Err(places.problem(&memory, message))
        }
        (None, Some(_)) => {
            let message = "every key dies with the process, and with it all data that was encrypted under it";
            warnings.push(Warning::dubious(places.problem(&memory, message)));
            Ok(KeyStoreSettings::Memory)
        }
        (Some(raw), None) => fs_store(raw, places, warnings),
    }
}

fn fs_store(raw: RawFs, places: &Places, warnings: &mut Vec<Warning>) -> Result<KeyStoreSettings, Problem> {
    let data = required(raw.path.as_deref(), "keystore.fs.path", "the directory of the store", places)?;
    let file = optional(raw.root_key_file.as_deref(), "keystore.fs.root_key_file", places)?;
    let variable = raw.root_key_env.filter(|name| !name.is_empty());
    let root_key = match (file, variable) {
        (Some(_), Some(_)) => {
            let message = format!(
                "two sources of the root key, expected one: keystore.fs.root_key_file is at {}",
                places.of(&path("keystore.fs.root_key_file"))
            );
            return Err(places.problem(&path("keystore.fs.root_key_env"), message));
        }
        (None, None) => {
            let message =
                "no root key, expected root_key_file (a file that 'kms init' makes) or root_key_env";
            return Err(places.problem(&path("keystore.fs"), message));
        }
        (Some(file), None) => RootKeySource::File(file),
        (None, Some(variable)) => RootKeySource::Environment(variable),
    };
    if let RootKeySource::File(file) = &root_key
        && is_inside(file, &data)
    {
        let message = format!(
            "the root key lies inside of the data directory {}: \
             a copy of that directory is not protected by its encryption",
            data.display()
        );
        warnings.push(Warning::dubious(places.problem(&path("keystore.fs.root_key_file"), message)));
    }
    Ok(KeyStoreSettings::Fs { path: data, root_key })
}

fn is_inside(file: &Path, directory: &Path) -> bool {
    let full = |path: &Path| {
        path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
    };
    full(file).starts_with(full(directory))
}

fn required(text: Option<&str>, key: &str, what: &str, places: &Places) -> Result<PathBuf, Problem> {
    optional(text, key, places)?
        .ok_or_else(|| places.problem(&path(key), format!("missing, expected {what}")))
}

fn optional(text: Option<&str>, key: &str, places: &Places) -> Result<Option<PathBuf>, Problem> {
    match text {
        None => Ok(None),
        Some("") => Err(places.problem(&path(key), "it is empty, expected a path")),
        Some(text) => Ok(Some(PathBuf::from(text))),
    }
}
