//! The section `kms`: a key of AWS KMS, or of Vault's transit engine, as the root key of another key store.

use kms_aws::WrapperConfig;

use super::super::problem::Problem;
use super::super::schema::{RawAwsWrapper, RawOuterKms, RawVault};
use super::context::{Context, given};
use super::{aws, vault};
use crate::settings::OuterKms;

/// Checks the section.
pub fn outer(raw: RawOuterKms, context: &Context<'_>) -> Result<OuterKms, Problem> {
    match (raw.aws, raw.vault) {
        (Some(aws), None) => of_aws(aws, context).map(|config| OuterKms::Aws(Box::new(config))),
        (None, Some(vault)) => of_vault(vault, context),
        (Some(_), Some(_)) => {
            let place = context.layers.place_of("kms.aws");
            Err(context.problem("kms.vault", format!("two root keys, expected one: kms.aws is at {place}")))
        }
        (None, None) => Err(context.problem("kms", "empty, expected kms.aws or kms.vault")),
    }
}

fn of_aws(raw: RawAwsWrapper, context: &Context<'_>) -> Result<WrapperConfig, Problem> {
    let RawAwsWrapper { key, endpoint, region, credentials } = raw;
    let key = given(key).ok_or_else(|| {
        let message = "missing, expected the ARN, the id or the alias ('alias/…') of a key in AWS KMS";
        context.problem("kms.aws.key", message)
    })?;
    let config = WrapperConfig { connection: aws::connection(endpoint, region, credentials), key };
    config.validate().map_err(|error| aws::refused(&error, "kms.aws", context))?;
    Ok(config)
}

fn of_vault(raw: RawVault, context: &Context<'_>) -> Result<OuterKms, Problem> {
    for (key, of_records) in [
        ("kms.vault.engine", &raw.engine),
        ("kms.vault.version", &raw.version),
        ("kms.vault.prefix", &raw.prefix),
    ] {
        if of_records.is_some() {
            let message = "no records are kept here, expected transit.engine and transit.key alone";
            return Err(context.problem(key, message));
        }
    }
    if raw.transit.is_none() {
        let message = "missing, expected the transit key under which records are kept";
        return Err(context.problem("kms.vault.transit", message));
    }
    vault::vault(raw, "kms.vault", context).map(|config| OuterKms::Vault(Box::new(config)))
}
