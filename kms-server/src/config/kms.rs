//! The section `kms`: a key of AWS KMS, or of Vault's transit engine, as the root key of another key store.

use kms_aws::WrapperConfig;

use super::places::{Places, path};
use super::problem::Problem;
use super::sections::{RawAwsWrapper, RawOuterKms, RawVault};
use super::{aws, vault};
use crate::settings::OuterKms;

/// Reads the section.
pub fn outer(raw: RawOuterKms, places: &Places) -> Result<OuterKms, Problem> {
    match (raw.aws, raw.vault) {
        (Some(aws), None) => of_aws(aws, places).map(|config| OuterKms::Aws(Box::new(config))),
        (None, Some(vault)) => of_vault(vault, places),
        (Some(_), Some(_)) => {
            let message =
                format!("two root keys, expected one: kms.aws is at {}", places.of(&path("kms.aws")));
            Err(places.problem(&path("kms.vault"), message))
        }
        (None, None) => Err(places.problem(&path("kms"), "empty, expected kms.aws or kms.vault")),
    }
}

fn of_aws(raw: RawAwsWrapper, places: &Places) -> Result<WrapperConfig, Problem> {
    let RawAwsWrapper { key, endpoint, region, credentials } = raw;
    let problem = |key: &str, message: &str| places.problem(&path(&format!("kms.aws{key}")), message);
    let key = key.filter(|key| !key.is_empty()).ok_or_else(|| {
        problem(".key", "missing, expected the ARN, the id or the alias ('alias/…') of a key in AWS KMS")
    })?;
    let config = WrapperConfig { connection: aws::connection(endpoint, region, credentials), key };
    config.validate().map_err(|error| aws::refused(&error, "kms.aws", places))?;
    Ok(config)
}

fn of_vault(raw: RawVault, places: &Places) -> Result<OuterKms, Problem> {
    let problem = |key: &str, message: &str| places.problem(&path(&format!("kms.vault.{key}")), message);
    for (key, given) in [
        ("engine", raw.engine.is_some()),
        ("version", raw.version.is_some()),
        ("prefix", raw.prefix.is_some()),
    ] {
        if given {
            return Err(problem(
                key,
                "no records are kept here, expected transit.engine and transit.key alone",
            ));
        }
    }
    if raw.transit.is_none() {
        return Err(problem("transit", "missing, expected the transit key under which records are kept"));
    }
    vault::vault(raw, "kms.vault", places).map(|config| OuterKms::Vault(Box::new(config)))
}
