//! The section `escrow`: the file to which each key is also sealed, and those who can open it.

use super::super::problem::Problem;
use super::super::schema::RawEscrow;
use super::context::Context;
use crate::recipients::Recipients;
use crate::settings::{EscrowFailure, EscrowSettings, KeyStoreSettings};

/// Checks the section.
pub fn escrow(
    raw: Option<RawEscrow>,
    key_store: &KeyStoreSettings,
    context: &Context<'_>,
) -> Result<Option<EscrowSettings>, Problem> {
    let Some(RawEscrow { recipients, path, on_failure }) = raw else { return Ok(None) };
    if matches!(key_store, KeyStoreSettings::AwsKms(_)) {
        let message = "the keys of AWS KMS never leave it, so there is nothing to put into escrow";
        return Err(context.problem("escrow", message));
    }
    if let Err((index, why)) = Recipients::parse(&recipients) {
        let key = index.map_or("escrow.recipients".to_owned(), |index| format!("escrow.recipients.{index}"));
        return Err(context.problem(&key, why));
    }
    let path = context.required_path(path.as_deref(), "escrow.path", "the file for sealed keys")?;
    let on_failure = match on_failure.as_deref() {
        None => EscrowFailure::default(),
        Some("refuse") => EscrowFailure::Refuse,
        Some("warn") => EscrowFailure::Warn,
        Some(other) => {
            let message = format!("'{}' is unknown, expected 'refuse' or 'warn'", other.escape_debug());
            return Err(context.problem("escrow.on_failure", message));
        }
    };
    Ok(Some(EscrowSettings { recipients, path, on_failure }))
}
