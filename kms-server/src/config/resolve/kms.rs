//! The section `kms`: the roots of another key store. Each is a key of AWS KMS, one of Vault's transit engine, or a local one.

use kms_aws::WrapperConfig;
use kms_core::roots::RootId;
use kms_vault::VaultConfig;

use super::super::problem::Problem;
use super::super::schema::{RawAwsWrapper, RawLocalRoot, RawOuterKms, RawVault};
use super::super::value::OneOrMany;
use super::context::{Context, given};
use super::root_key::root_key;
use super::{aws, vault};
use crate::settings::{OuterKms, RootSettings};

/// Checks the section.
pub fn outer(raw: OneOrMany<RawOuterKms>, context: &Context<'_>) -> Result<Vec<RootSettings>, Problem> {
    let OneOrMany { all, is_list } = raw;
    if all.is_empty() {
        return Err(context.problem("kms", "empty, expected a root: kms.aws, kms.vault or kms.local"));
    }
    let is_lone = all.len() == 1;
    let mut roots: Vec<RootSettings> = Vec::new();
    for (n, raw) in all.into_iter().enumerate() {
        let section = if is_list { format!("kms.{n}") } else { "kms".to_owned() };
        let root = root(raw, &section, is_lone, context)?;
        if let Some(first) = roots.iter().position(|before| before.kms.is_same(&root.kms)) {
            return Err(context.problem(&root.section, is_one(&roots[first].section, context)));
        }
        if let Some(first) = roots.iter().position(|before| before.id.is_some() && before.id == root.id) {
            let id = root.id.as_ref().map(RootId::as_str).unwrap_or_default();
            let place = context.layers.place_of(&format!("kms.{first}"));
            let message = format!(
                "two roots have the id '{id}', the other one is at {place}: give one of them another 'id', or leave it out"
            );
            return Err(context.problem(&format!("{section}.id"), message));
        }
        roots.push(root);
    }
    Ok(roots)
}

/// Says that a root is that of the section `other`.
pub fn is_one(other: &str, context: &Context<'_>) -> String {
    let (name, place) = (context.layers.name_of(other), context.layers.place_of(other));
    format!(
        "the root key is that of {name} at {place}, so both are one root, which protects nothing twice: take one out"
    )
}

fn root(
    raw: RawOuterKms,
    section: &str,
    is_lone: bool,
    context: &Context<'_>,
) -> Result<RootSettings, Problem> {
    let RawOuterKms { id, aws, vault, local } = raw;
    let id_key = format!("{section}.id");
    let id =
        given(id).map(|id| RootId::new(&id).map_err(|error| context.problem(&id_key, error.to_string())));
    let id = id.transpose()?;
    let at = |kind: &str| format!("{section}.{kind}");
    let (kind, kms, own_id) = match (aws, vault, local) {
        (Some(raw), None, None) => {
            let config = of_aws(raw, &at("aws"), context)?;
            let own_id = is_arn_of_key(&config.key).then(|| RootId::of_aws(&config.key));
            if !is_lone && id.is_none() && own_id.is_none() {
                let message = "a root among others is known by its ARN: expected the ARN of the key, or an 'id' beside it";
                return Err(context.problem(&format!("{}.key", at("aws")), message));
            }
            ("aws", OuterKms::Aws(Box::new(config)), own_id)
        }
        (None, Some(raw), None) => {
            let config = of_vault(raw, &at("vault"), context)?;
            let own_id = config
                .transit
                .as_ref()
                .map(|transit| RootId::of_vault(config.namespace.as_deref(), &transit.engine, &transit.key));
            ("vault", OuterKms::Vault(Box::new(config)), own_id)
        }
        (None, None, Some(raw)) => {
            let RawLocalRoot { root_key_file, root_key_env } = raw;
            let source = root_key(root_key_file.as_deref(), root_key_env, &at("local"), context)?;
            let message = "missing, expected root_key_file or root_key_env";
            let source = source.ok_or_else(|| context.problem(&at("local"), message))?;
            ("local", OuterKms::Local(source), None)
        }
        (None, None, None) => {
            return Err(context.problem(section, "empty, expected kms.aws or kms.vault, or kms.local"));
        }
        (aws, vault, _) => {
            let first = if aws.is_some() { "aws" } else { "vault" };
            let other = if aws.is_some() && vault.is_some() { "vault" } else { "local" };
            let name = context.layers.name_of(&at(first));
            let place = context.layers.place_of(&at(first));
            let message =
                format!("two root keys, expected one: {name} is at {place}; a list [[kms]] has several");
            return Err(context.problem(&at(other), message));
        }
    };
    Ok(RootSettings { section: at(kind), id: id.or(own_id), kms })
}

/// Returns `true` if `key` is the ARN of a key. That of an alias names another key when the alias moves.
fn is_arn_of_key(key: &str) -> bool {
    key.starts_with("arn:") && key.contains(":key/")
}

fn of_aws(raw: RawAwsWrapper, section: &str, context: &Context<'_>) -> Result<WrapperConfig, Problem> {
    let RawAwsWrapper { key, endpoint, region, credentials } = raw;
    let key = given(key).ok_or_else(|| {
        let message = "missing, expected the ARN, the id or the alias ('alias/…') of a key in AWS KMS";
        context.problem(&format!("{section}.key"), message)
    })?;
    let config = WrapperConfig { connection: aws::connection(endpoint, region, credentials), key };
    config.validate().map_err(|error| aws::refused(&error, section, context))?;
    Ok(config)
}

fn of_vault(raw: RawVault, section: &str, context: &Context<'_>) -> Result<VaultConfig, Problem> {
    for (key, of_records) in [("engine", &raw.engine), ("version", &raw.version), ("prefix", &raw.prefix)] {
        if of_records.is_some() {
            let message = "no records are kept here, expected transit.engine and transit.key alone";
            return Err(context.problem(&format!("{section}.{key}"), message));
        }
    }
    if raw.transit.is_none() {
        let message = "missing, expected the transit key under which records are kept";
        return Err(context.problem(&format!("{section}.transit"), message));
    }
    vault::vault(raw, section, context)
}
