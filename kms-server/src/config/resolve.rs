//! From what is written to what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_core::{CacheConfig, Identity, KeyName};
use kms_vault::Secret;

use super::environment::Environment;
use super::log_level::LogLevel;
use super::places::{KeyPath, Places, path};
use super::problem::{Problem, Warning};
use super::schema::{Raw, RawCache, RawFs, RawKey, RawKeyStore, RawPolicy, RawTls};
use super::sections::{RawApi, RawLog, RawOuterKms, RawProxy};
use super::{aws, kms, pattern, vault};
use crate::access::glob::Glob;
use crate::api::{MARGIN, Routes};
use crate::settings::{
    AuditFailure, BareStore, ErrorLevel, KeyStoreSettings, LogSettings, PolicySettings, ProxySettings,
    RootKeySource, RouteSettings, Settings, TlsSettings,
};
use crate::text::mask::NoIdentity;

/// Where a server listens that is not told.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7373);

/// The word that switches the admin off.
const NO_ADMIN: &str = "disabled";

/// What configs of 2020 and 2021 write for that.
const NO_ADMIN_ONCE: &str = "_";

/// The variable that names systemd's directory of credentials.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// The variable that holds the root key where a config for KES names none.
const ROOT_KEY_VARIABLE: &str = "KMS_ROOT_KEY";

/// What has to be known beside what is written.
pub struct Context<'a> {
    /// Where each key was set.
    pub places: &'a Places,
    /// The file is one for KES: `keystore.fs.path` is a directory of key files in the clear.
    pub is_for_kes: bool,
    /// Where the root key may be.
    pub environment: &'a Environment,
}

/// Checks a configuration as a whole; what is dubious is added to `warnings`.
pub fn resolve(raw: Raw, context: &Context<'_>, warnings: &mut Vec<Warning>) -> Result<Settings, Problem> {
    let places = context.places;
    let admin = admin(raw.admin.identity.as_deref(), places, warnings)?;
    let proxies = raw.tls.proxy.as_ref().map(|proxy| proxy.identities.clone()).unwrap_or_default();
    let tls = tls(raw.tls, context, warnings)?;
    let off = raw.admin.identity.as_deref().filter(|_| admin.is_none());
    let policies = policies(raw.policy, admin, off, (tls.proxy.as_ref(), &proxies), places, warnings)?;
    if admin.is_none() && policies.values().all(|policy| policy.identities.is_empty()) {
        let message =
            "there is neither an admin nor an identity with a policy: every request will be refused";
        warnings.push(Warning::dubious(places.problem(&[], message)));
    }
    let address = |text: Option<String>, key: &str| {
        let parsed = text.map(|text| parse_address(&text)).transpose();
        parsed.map_err(|message| places.problem(&path(key), message))
    };
    let cache = cache(&raw.cache);
    Ok(Settings {
        address: address(raw.address.filter(|text| !text.is_empty()), "address")?.unwrap_or(DEFAULT_ADDRESS),
        probes: address(raw.probes.address, "probes.address")?,
        admin,
        tls,
        policies,
        cache,
        keys: keys(raw.keys, places)?,
        key_store: key_store(raw.keystore, raw.kms, &cache, context, warnings)?,
        log: log(raw.log, places, warnings)?,
        routes: routes(raw.api, context, warnings)?,
    })
}

/// Reads an address to listen on: `127.0.0.1:7373`, `[::1]:7373`, `:7373` (everywhere) or `localhost:7373`.
///
/// Of the addresses of a name it is the first of IPv4 if there is one, and without a port the system chooses one: as in Go.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let invalid = || {
        format!(
            "invalid address '{}', expected an address and port, such as '0.0.0.0:7373'",
            text.escape_debug()
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
    let port = match port {
        "" => 0,
        "http" => 80,
        "https" => 443,
        port => port.parse().map_err(|_| invalid())?,
    };
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let ip = match (host, in_brackets) {
        ("" | "[]", _) => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        (_, Some(host)) => Some(host.parse().map_err(|_| invalid())?),
        (host, None) => host.parse().ok().map(IpAddr::V4),
    };
    if let Some(ip) = ip {
        return Ok(SocketAddr::new(ip.to_canonical(), port));
    }
    // The system takes numbers for an address that nobody means, such as 0 and 127.1.
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    if host.contains(':') || last.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(invalid());
    }
    let found: Vec<_> = (host, port).to_socket_addrs().map_err(|_| invalid())?.collect();
    found.iter().find(|address| address.is_ipv4()).or(found.first()).copied().ok_or_else(invalid)
}

/// Reads the names of keys to make, each once.
fn keys(raw: Vec<RawKey>, places: &Places) -> Result<Vec<KeyName>, Problem> {
    let mut keys: Vec<KeyName> = Vec::new();
    for (index, RawKey { name }) in raw.into_iter().enumerate() {
        if let Some(first) = keys.iter().position(|key| *key == name.0) {
            let at = |index: usize| path(&format!("keys.{index}.name"));
            let message = format!("key '{}' is there twice, first as {}", name.0, places.name(&at(first)));
            return Err(places.problem(&at(index), message));
        }
        keys.push(name.0);
    }
    Ok(keys)
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
    if admin.is_none() && ![NO_ADMIN, NO_ADMIN_ONCE].contains(&text) {
        let message = format!("{} is no identity, so there is no admin: {expected}", NoIdentity(text));
        warnings.push(Warning::no_effect(places.problem(&key, message)));
    }
    Ok(admin)
}

fn policies(
    raw: BTreeMap<String, RawPolicy>,
    admin: Option<Identity>,
    off: Option<&str>,
    (proxy, written_proxies): (Option<&ProxySettings>, &[String]),
    places: &Places,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeMap<String, PolicySettings>, Problem> {
    // By the hexadecimal form, or the text that is none.
    let admin = admin.map(|admin| admin.to_string()).or(off.map(str::to_owned));
    let mut owners: BTreeMap<String, KeyPath> =
        admin.map(|admin| (admin, path("admin.identity"))).into_iter().collect();
    for identity in proxy.into_iter().flat_map(|proxy| proxy.identities.iter()) {
        let index = written_proxies.iter().position(|text| Identity::from_hex(text) == Some(*identity));
        let key = path(&format!("tls.proxy.identities.{}", index.unwrap_or_default()));
        if let Some(owner) = owners.insert(identity.to_string(), key.clone()) {
            return Err(places.problem(&key, conflict(&identity.to_string(), &owner, places)));
        }
    }
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
        for (index, pattern) in policy.paths.iter().enumerate() {
            if let Err(why) = Glob::new(pattern) {
                let message = format!("invalid pattern '{}': {why}", pattern.escape_debug());
                return Err(places.problem(&at("paths", index), message));
            }
        }
        let mut identities = Vec::new();
        for (index, text) in policy.identities.iter().enumerate() {
            let key = at("identities", index);
            let identity = Identity::from_hex(text);
            if identity.is_none() && !pattern::is_policy_name(text) {
                let what = if text.is_empty() {
                    "it is empty".to_owned()
                } else {
                    format!("{} cannot be an identity", NoIdentity(text))
                };
                let message = format!("{what}, expected 64 hex digits as 'kms identity of' prints them");
                return Err(places.problem(&key, message));
            }
            let owned = identity.map_or_else(|| text.clone(), |identity| identity.to_string());
            if let Some(owner) = owners.insert(owned, key.clone()) {
                let who =
                    identity.map_or_else(|| NoIdentity(text).to_string(), |identity| identity.to_string());
                return Err(places.problem(&key, conflict(&who, &owner, places)));
            }
            if let Some(identity) = identity {
                identities.push(identity);
            } else {
                let message =
                    format!("{} is no identity and is passed over, expected 64 hex digits", NoIdentity(text));
                warnings.push(Warning::no_effect(places.problem(&key, message)));
            }
        }
        let RawPolicy { allow, deny, paths, .. } = policy;
        policies.insert(name, PolicySettings { allow, deny, paths, identities });
    }
    Ok(policies)
}

fn conflict(identity: &str, owner: &[String], places: &Places) -> String {
    let rule = if owner.first().is_some_and(|part| part == "admin") {
        "the admin, who needs no policy and is no proxy"
    } else if owner.first().is_some_and(|part| part == "tls") {
        "a TLS proxy, which has no policy of its own"
    } else {
        "in a policy already, expected at most one for an identity"
    };
    format!("{identity} is {rule} (see {} at {})", places.name(owner), places.of(owner))
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

fn tls(raw: RawTls, context: &Context<'_>, warnings: &mut Vec<Warning>) -> Result<TlsSettings, Problem> {
    let places = context.places;
    let verify_clients = raw.auth.as_ref().is_some_and(|auth| auth.0);
    let ca = raw.ca.filter(|ca| !ca.is_empty());
    if ca.is_none() && verify_clients && places.is_set(&path("tls.ca")) {
        let message = "it is empty, so clients are verified by the CAs of the system";
        warnings.push(Warning::dubious(places.problem(&path("tls.ca"), message)));
    }
    Ok(TlsSettings {
        cert: required(raw.cert.as_deref(), "tls.cert", "a PEM file of the server's certificate", places)?,
        key: required(raw.key.as_deref(), "tls.key", "a PEM file of the private key", places)?,
        password: raw.password.filter(|password| !password.is_empty()).map(Secret::from),
        ca: ca.map(PathBuf::from),
        verify_clients,
        proxy: raw.proxy.map_or(Ok(None), |proxy| self::proxy(&proxy, context, warnings))?,
    })
}

/// Reads the section of TLS proxies; without an identity there is none.
///
/// A config for KES, which does nothing with it, may be wrong here: then there is no proxy.
fn proxy(
    raw: &RawProxy,
    context: &Context<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<ProxySettings>, Problem> {
    let places = context.places;
    let mut wrong = |key: &KeyPath, message: String| refuse_proxy(key, message, context, warnings);
    let mut identities: Vec<Identity> = Vec::new();
    let at = |index: usize| path(&format!("tls.proxy.identities.{index}"));
    let mut twice = Vec::new();
    for (index, text) in raw.identities.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let key = at(index);
        match Identity::from_hex(text) {
            Some(identity) if identities.contains(&identity) => {
                let first =
                    raw.identities.iter().position(|other| Identity::from_hex(other) == Some(identity));
                let first = places.name(&at(first.unwrap_or_default()));
                let message = format!("it is there twice, first as {first}");
                twice.push(Warning::dubious(places.problem(&key, message)));
            }
            Some(identity) => identities.push(identity),
            None => wrong(&key, format!("{} is no identity, expected 64 hex digits", NoIdentity(text)))?,
        }
    }
    if identities.is_empty() {
        return Ok(None);
    }
    warnings.extend(twice);
    let mut wrong = |key: &KeyPath, message: String| refuse_proxy(key, message, context, warnings);
    let key = path("tls.proxy.header.cert");
    let Some(cert_header) = raw.header.cert.clone().filter(|name| !name.is_empty()) else {
        let message = "missing, expected the name of the header with the client's certificate";
        return wrong(&key, message.to_owned()).map(|()| None);
    };
    if http::HeaderName::try_from(cert_header.as_str()).is_err() {
        let message = format!("'{}' cannot be the name of a header", cert_header.escape_debug());
        return wrong(&key, message).map(|()| None);
    }
    Ok(Some(ProxySettings { identities, cert_header }))
}

/// Refuses what is wrong with a proxy, or passes it over in a config for KES.
fn refuse_proxy(
    key: &KeyPath,
    message: String,
    context: &Context<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<(), Problem> {
    if !context.is_for_kes {
        return Err(context.places.problem(key, message));
    }
    let message = format!("passed over: {message}");
    warnings.push(Warning::no_effect(context.places.problem(key, message)));
    Ok(())
}

fn log(raw: RawLog, places: &Places, warnings: &mut Vec<Warning>) -> Result<LogSettings, Problem> {
    let default = LogSettings::default();
    let audit_failure = match raw.audit_failure.as_deref() {
        None => default.audit_failure,
        Some("drop") => AuditFailure::Drop,
        Some("refuse") => AuditFailure::Refuse,
        Some(other) => {
            let message = format!("'{}' is unknown, expected 'drop' or 'refuse'", other.escape_debug());
            return Err(places.problem(&path("log.audit_failure"), message));
        }
    };
    let (error, audit) = (raw.error.unwrap_or(LogLevel::INFO), raw.audit);
    if audit.is_some_and(|level| level > LogLevel::INFO && level <= LogLevel::ERROR) {
        let message = "there is no audit log: its events are of level INFO, as with KES";
        warnings.push(Warning::dubious(places.problem(&path("log.audit"), message)));
    }
    Ok(LogSettings {
        error: error <= LogLevel::ERROR,
        error_level: if error <= LogLevel::INFO {
            ErrorLevel::All
        } else if error <= LogLevel::WARN {
            ErrorLevel::Warn
        } else {
            ErrorLevel::Error
        },
        audit: audit.map_or(default.audit, |level| level <= LogLevel::INFO),
        audit_file: raw.audit_file.filter(|file| !file.is_empty()).map(PathBuf::from),
        audit_failure,
    })
}

fn routes(
    raw: RawApi,
    context: &Context<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeMap<String, RouteSettings>, Problem> {
    let places = context.places;
    let all = Routes::standard();
    let mut routes = BTreeMap::new();
    let raw_paths: BTreeSet<_> = raw.keys().cloned().collect();
    for (written, route) in raw {
        let at = |part: &str| vec!["api".to_owned(), written.clone(), part.to_owned()];
        let known =
            all.iter().find(|known| known.path.trim_end_matches('/') == written.trim_end_matches('/'));
        let mut settings = RouteSettings {
            skip_auth: route.skip_auth.as_ref().is_some_and(|skip| skip.0),
            timeout: route.timeout.as_ref().map(|timeout| timeout.0),
        };
        let Some(known) = known else {
            let paths: Vec<_> = all.iter().map(|route| route.path).collect();
            let message = format!("there is no such route, expected one of {}", paths.join(", "));
            let problem = places.problem(&["api".to_owned(), written], message);
            // Who wants to open something has to be told, and KES opens nothing here either.
            if settings.skip_auth || !context.is_for_kes {
                return Err(problem);
            }
            warnings.push(Warning::no_effect(problem));
            continue;
        };
        if settings.skip_auth && !known.may_skip_auth {
            let open: Vec<_> =
                all.iter().filter(|route| route.may_skip_auth).map(|route| route.path).collect();
            let message = format!("only these may be open to everybody: {}", open.join(", "));
            return Err(places.problem(&at("skip_auth"), message));
        }
        if known.path != written && raw_paths.contains(known.path) {
            let message = format!("no effect, {} is there, too", known.path);
            warnings.push(Warning::no_effect(places.problem(&["api".to_owned(), written], message)));
            continue;
        }
        if known.path != written && settings.skip_auth {
            settings.skip_auth = false;
            let message = format!("no effect: this opens nothing, the route is {}", known.path);
            warnings.push(Warning::no_effect(places.problem(&at("skip_auth"), message)));
        }
        match settings.timeout {
            Some(Duration::ZERO) if context.is_for_kes => {
                settings.timeout = None;
                let message = "it is zero, so the route has its usual time";
                warnings.push(Warning::dubious(places.problem(&at("timeout"), message)));
            }
            Some(Duration::ZERO) => {
                let message = "it is zero, expected a time that a request may take";
                return Err(places.problem(&at("timeout"), message));
            }
            Some(timeout) if timeout <= MARGIN && context.is_for_kes => {
                let message = format!("within {timeout:?} hardly any key store answers");
                warnings.push(Warning::dubious(places.problem(&at("timeout"), message)));
            }
            Some(timeout) if timeout <= MARGIN => {
                let message =
                    format!("{timeout:?} is too short for a key store, expected more than {MARGIN:?}");
                return Err(places.problem(&at("timeout"), message));
            }
            _ => {}
        }
        routes.insert(known.path.to_owned(), settings);
    }
    Ok(routes)
}

fn cache(raw: &RawCache) -> CacheConfig {
    let default = CacheConfig::default();
    let expiry = &raw.expiry;
    default
        .with_any(expiry.any.as_ref().map_or(default.any, |any| any.0))
        .with_unused(expiry.unused.as_ref().map_or(default.unused, |unused| unused.0))
        .with_offline(expiry.offline.as_ref().map_or(default.offline, |offline| offline.0))
}

fn key_store(
    mut raw: RawKeyStore,
    outer: Option<RawOuterKms>,
    cache: &CacheConfig,
    context: &Context<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<KeyStoreSettings, Problem> {
    let places = context.places;
    let has_other = raw.fs.is_some() || raw.vault.is_some() || raw.memory.is_some();
    // A section of AWS without one of its stores is none.
    raw.aws = raw.aws.filter(|aws| !has_other || aws.kms.is_some() || aws.secretsmanager.is_some());
    let unsupported = raw.unsupported();
    if let Some((name @ ("generic" | "kes"), _)) = unsupported
        && (has_other || raw.aws.is_some())
    {
        let message = "no effect, as in KES 0.24: there is another key store";
        warnings.push(Warning::no_effect(places.problem(&path(&format!("keystore.{name}")), message)));
    } else if let Some((name, what)) = unsupported {
        let message = format!(
            "{what} is not supported as a key store, expected fs, vault, aws or memory (docs/from-kes.md says how to move)"
        );
        return Err(places.problem(&path(&format!("keystore.{name}")), message));
    }
    let present: Vec<_> = [
        ("fs", raw.fs.is_some()),
        ("vault", raw.vault.is_some()),
        ("aws", raw.aws.is_some()),
        ("memory", raw.memory.is_some()),
    ]
    .into_iter()
    .filter(|(_, present)| *present)
    .map(|(name, _)| path(&format!("keystore.{name}")))
    .collect();
    if let [first, .., other] = present.as_slice() {
        let message =
            format!("two key stores, expected one: {} is at {}", places.name(first), places.of(first));
        return Err(places.problem(other, message));
    }
    if let Some(outer) = outer {
        let kms = kms::outer(outer, places)?;
        return Ok(KeyStoreSettings::Wrapped { store: bare_store(raw, context)?, kms });
    }
    match (raw.fs, raw.vault, raw.aws, raw.memory) {
        (Some(raw), ..) => fs_store(raw, context, warnings),
        (_, Some(raw), ..) => {
            Ok(KeyStoreSettings::Vault(Box::new(vault::vault(raw, "keystore.vault", places)?)))
        }
        (.., Some(raw), _) => aws::aws(raw, cache, places),
        (.., Some(_)) => {
            let message = "every key dies with the process, and with it all data that was encrypted under it";
            warnings.push(Warning::dubious(places.problem(&path("keystore.memory"), message)));
            Ok(KeyStoreSettings::Memory)
        }
        (None, None, None, None) => {
            let message = "no key store, expected keystore.fs, keystore.vault, keystore.aws.kms, \
                keystore.aws.secretsmanager, or keystore.memory, which forgets all keys at the end";
            Err(places.problem(&path("keystore"), message))
        }
    }
}

/// Reads a key store whose root key is that of the section `kms`.
fn bare_store(raw: RawKeyStore, context: &Context<'_>) -> Result<BareStore, Problem> {
    let places = context.places;
    if raw.has_root_key() {
        let message = format!("two root keys, expected one: kms is at {}", places.of(&path("kms")));
        let key = ["keystore.fs.root_key_file", "keystore.fs.root_key_env"].map(path);
        let given = key.iter().find(|key| places.is_set(key)).unwrap_or(&key[0]);
        return Err(places.problem(given, message));
    }
    match (raw.fs, raw.vault) {
        (Some(raw), _) => {
            required(raw.path.as_deref(), "keystore.fs.path", "the directory of the store", places)
                .map(BareStore::Fs)
        }
        (_, Some(raw)) => Ok(BareStore::Vault(Box::new(vault::vault(raw, "keystore.vault", places)?))),
        (None, None) => {
            let message = "only keystore.fs and keystore.vault can have their root key here";
            Err(places.problem(&path("kms"), message))
        }
    }
}

fn fs_store(
    raw: RawFs,
    context: &Context<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<KeyStoreSettings, Problem> {
    let places = context.places;
    let data = required(raw.path.as_deref(), "keystore.fs.path", "the directory of the store", places)?;
    let file = optional(raw.root_key_file.as_deref(), "keystore.fs.root_key_file", places)?;
    let variable = raw.root_key_env.filter(|name| !name.is_empty());
    let create = raw.create.is_some_and(|create| create.0);
    let root_key = match (file, variable) {
        (Some(_), Some(_)) => {
            let message = format!(
                "two sources of the root key, expected one: keystore.fs.root_key_file is at {}",
                places.of(&path("keystore.fs.root_key_file"))
            );
            return Err(places.problem(&path("keystore.fs.root_key_env"), message));
        }
        (None, None) if context.is_for_kes => {
            let variable = context.environment.first_of(&[ROOT_KEY_VARIABLE]);
            let root_key = variable.map(|_| RootKeySource::Environment(ROOT_KEY_VARIABLE.to_owned()));
            return Ok(KeyStoreSettings::KesDirectory { path: data, root_key, create });
        }
        (None, None) => {
            let message = "no root key, expected one of: root_key_file = \"FILE\", made by 'kms init' or \
                'kms server --create' (on a volume that outlives the container, apart from the store); \
                root_key_env = \"VARIABLE\", which holds base64 of 32 random bytes; a section [kms.aws] or [kms.vault]";
            return Err(places.problem(&path("keystore.fs"), message));
        }
        (Some(file), None) => match context.environment.first_of(&[CREDENTIALS_VARIABLE]) {
            Some(credentials) if is_inside(&file, Path::new(credentials)) => RootKeySource::Credential(file),
            _ => RootKeySource::File(file),
        },
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
    Ok(if context.is_for_kes {
        KeyStoreSettings::KesDirectory { path: data, root_key: Some(root_key), create }
    } else {
        KeyStoreSettings::Fs { path: data, root_key, create }
    })
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
