//! The section `backup`.

use super::super::problem::Problem;
use super::super::schema::RawBackup;
use super::context::Context;
use crate::recipients::Recipients;
use crate::settings::{BackupSettings, KeyStoreSettings};

/// Checks the section.
pub fn backup(
    raw: RawBackup,
    key_store: &KeyStoreSettings,
    context: &Context<'_>,
) -> Result<BackupSettings, Problem> {
    let RawBackup { recipients, drill_evidence } = raw;
    if !recipients.is_empty() {
        Recipients::parse(&recipients).map_err(|(at, why)| match at {
            Some(at) => context.problem(&format!("backup.recipients.{at}"), why),
            None => context.problem("backup.recipients", why),
        })?;
        if matches!(key_store, KeyStoreSettings::AwsKms(_)) {
            let why = "keys of AWS KMS never leave AWS, so there is nothing to back up";
            return Err(context.problem("backup.recipients", why));
        }
    }
    let drill_evidence = context.optional_path(drill_evidence.as_deref(), "backup.drill_evidence")?;
    Ok(BackupSettings { recipients, drill_evidence })
}
