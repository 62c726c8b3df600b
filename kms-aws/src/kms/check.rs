//! The check of AWS KMS: step by step, from the settings to the keys.

use std::collections::BTreeSet;
use std::time::Duration;

use kms_core::store::{Finding, Findings, Level};
use kms_core::{Error, ErrorKind, Identity, KeyName, Kms, ListQuery, Request, Result};

use super::aliases::Aliases;
use super::config::AwsConfig;
use super::lifecycle::{TAG_NAME, aliases, describe};
use super::service::{AwsKms, State};
use crate::client::load;
use crate::identity::{self, Look};

/// The name of the key for the round trip. It stands beside the server's own keys, so no listing shows it. It is made
/// once and stays, because each CMK costs a month's fee.
const PROBE: &str = "probe";
/// The time for the steps before the look at the keys, and for the look at each key.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most keys whose CMKs are looked at.
const MOST_DESCRIBED: usize = 500;
/// The most keys that have a finding each.
const MOST_TOLD: usize = 20;
/// The most CMKs that are looked at one by one.
const MOST_LOOKED_AT: usize = 1000;

/// Checks all that lies between this process and the AWS KMS that `config` names, in the order in which things fail.
///
/// Makes one key behind `alias/kms/check/probe` if it is not there, and leaves it. The check ends at a problem on
/// which the further steps depend.
///
/// # Panics
///
/// Panics outside of a tokio runtime.
pub async fn check(config: AwsConfig) -> Vec<Finding> {
    let mut findings = Findings::default();
    if let Err((what, error)) = look(config, &mut findings).await {
        findings.problem(what, error.chain().to_string());
    }
    findings.into_vec()
}

async fn look(config: AwsConfig, findings: &mut Findings) -> Look<()> {
    config.validate().map_err(|error| ("settings", error))?;
    let sdk = load(&config.connection).await.map_err(|error| ("settings", error))?;
    identity::look(&sdk, findings).await?;

    let aliases = Aliases::new(&config.prefix);
    let beside = AwsConfig { prefix: aliases.check_prefix(), ..config.clone() };
    let kms = AwsKms::open(config).await.map_err(|error| ("settings", error))?;
    let request = request();
    let page = kms.list(&request, &ListQuery::prefix("")).await.map_err(|error| ("list", error))?;
    let more = if page.more { " and more" } else { "" };
    findings.good("list", format!("{}{more} keys", page.names.len()));

    let probe = round_trip(beside, &request).await?;
    let detail = format!("a data key of '{probe}' was made, and opened by a second client");
    findings.good("round trip", detail);
    orphans(&kms, &request, findings).await;
    keys(&kms, &page.names, findings).await;
    Ok(())
}

/// Looks for keys that cannot be used, and for keys that were deleted and can be restored.
async fn keys(kms: &AwsKms, names: &[KeyName], findings: &mut Findings) {
    let (mut unusable, mut deleted) = (Vec::new(), Vec::new());
    let some = &names[..names.len().min(MOST_DESCRIBED)];
    for name in some {
        match kms.state(&request(), name).await {
            // It was deleted since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => unusable.push(format!("'{name}': {}", error.chain())),
            Ok(State::Usable) => {}
            Ok(State::Pending(why)) => deleted.push(format!("'{name}' was deleted: {why}")),
            Ok(State::Unusable(why)) => unusable.push(format!("'{name}': {why}")),
        }
    }
    let of = if some.len() < names.len() { format!(" (the first {MOST_DESCRIBED})") } else { String::new() };
    if unusable.is_empty() {
        let usable = some.len() - deleted.len();
        findings.good("keys", format!("{usable} have a CMK that can be used{of}"));
    }
    for (level, what, found) in [(Level::Problem, "keys", unusable), (Level::Warning, "deleted", deleted)] {
        for detail in found.iter().take(MOST_TOLD) {
            findings.add(level, what, detail);
        }
        if found.len() > MOST_TOLD {
            findings.add(level, what, format!("and {} more{of}", found.len() - MOST_TOLD));
        }
    }
}

/// Uses each right that serving needs: create, describe, generate and decrypt.
async fn round_trip(config: AwsConfig, request: &Request) -> Look<String> {
    let name = KeyName::new(PROBE).map_err(|error| {
        ("round trip", Error::with_source(ErrorKind::Internal, "name the probe key", error.to_string()))
    })?;
    let open = async || AwsKms::start(config.clone()).await.map_err(|error| ("settings", error));
    let kms = open().await?;
    match kms.describe(request, &name).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => match kms.create(request, &name).await {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(("create", error)),
            _ => {}
        },
        Err(error) => return Err(("describe", error)),
    }
    let dek = kms.generate(request, &name, b"check").await.map_err(|error| ("generate", error))?;
    // This one has nothing in memory, so it has to ask AWS.
    let other = open().await?;
    let opened = other.decrypt(request, &name, &dek.ciphertext, b"check").await;
    let opened = opened.map_err(|error| ("decrypt", error))?;
    if opened.expose() != dek.plaintext.expose() {
        let error = Error::with_source(ErrorKind::Corrupt, "open a data key", "another one came back");
        return Err(("decrypt", error));
    }
    Ok(Aliases::new(&config.prefix).key(&name))
}

/// Looks for CMKs that were made for a key and that no alias names. Each costs money and serves nobody.
async fn orphans(kms: &AwsKms, request: &Request, findings: &mut Findings) {
    match find_orphans(kms, request).await {
        Ok((orphans, _)) if !orphans.is_empty() => {
            let detail = format!(
                "{} CMKs have our tags and no alias, such as {}: creates that were cut short; schedule their deletion",
                orphans.len(),
                orphans.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
            );
            findings.warn("orphans", detail);
        }
        Ok((_, true)) => findings.good("orphans", "no CMK of ours is without an alias"),
        Ok((_, false)) => {
            let detail = format!("none among the first {MOST_LOOKED_AT} CMKs without an alias");
            findings.good("orphans", detail);
        }
        Err(error) => {
            let detail = format!("CMKs without an alias could not be looked for: {}", error.chain());
            findings.warn("orphans", detail);
        }
    }
}

/// Finds CMKs with our tags and without an alias. The flag says whether all CMKs were looked at.
async fn find_orphans(kms: &AwsKms, request: &Request) -> Result<(Vec<String>, bool)> {
    const WHAT: &str = "list CMKs";
    let upstream = kms.upstream();
    let named = aliases(upstream, request.deadline, WHAT).await?.into_iter();
    let named: BTreeSet<_> = named.filter_map(|alias| alias.target_key_id).collect();
    let (mut orphans, mut looked_at, mut marker) = (Vec::new(), 0, None);
    loop {
        let call = upstream.client().list_keys().limit(1000).set_marker(marker);
        let answer = upstream.call(request.deadline, call.send()).await.map_err(|f| f.into_error(WHAT))?;
        let ids = answer.keys.unwrap_or_default().into_iter().filter_map(|key| key.key_id);
        for id in ids.filter(|id| !named.contains(id)) {
            looked_at += 1;
            if looked_at > MOST_LOOKED_AT {
                return Ok((orphans, false));
            }
            let tags = upstream.client().list_resource_tags().key_id(&id);
            // This server may read the tags of CMKs that it made, so a CMK whose tags it may not read is another's.
            let Ok(tags) = upstream.call(request.deadline, tags.send()).await else { continue };
            if tags.tags.unwrap_or_default().iter().any(|tag| tag.tag_key() == TAG_NAME) {
                let enabled = describe(upstream, request.deadline, &id).await.is_ok_and(|key| key.enabled);
                orphans.extend(enabled.then_some(id));
            }
        }
        marker = answer.next_marker.filter(|_| answer.truncated);
        if marker.is_none() {
            return Ok((orphans, true));
        }
    }
}

fn request() -> Request {
    Request::new(Identity::of_public_key(b"kms check"), PATIENCE)
}
